"""What must a format tell, so that its files can be read, and their columns compared?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import polars as pl

from unbounded.sources.folder import Glimpse
from unbounded.sources.options import Options

__all__ = ["EDGE", "LENIENT", "NOTHING", "Columns", "Format", "FromPath", "TextFormat", "differences"]

Columns: TypeAlias = Mapping[str, pl.DataType | None]
"""Names of columns and their types, None where a file has names alone."""

EDGE: Final = 65_536
"""Bytes looked at; holds a header, or the footer of some thousand columns."""

LENIENT: Final = ("missing_columns='insert'", "extra_columns='ignore'")


@dataclass(frozen=True)
class FromPath:
    """The columns of the rows that a file's path gives: those of its hive parts, then the path itself."""

    hive: pl.Schema
    path: str | None

    @property
    def schema(self) -> pl.Schema:
        return pl.Schema({**self.hive, **({self.path: pl.String()} if self.path else {})})


NOTHING = FromPath(pl.Schema(), None)


class Format(Protocol):
    """How files of one kind are read."""

    @property
    def options(self) -> Options: ...

    @property
    def is_text(self) -> bool:
        """Whether a file is lines of text, perhaps compressed; else it says its end itself."""

    @property
    def says_types(self) -> bool:
        """Whether a file names the types of its columns."""

    @property
    def knows_paths(self) -> bool:
        """Whether Polars' own scan adds the path of a local file."""

    @property
    def knows_hive(self) -> bool:
        """Whether Polars' own scan adds the hive parts of a local path, and then prunes by them."""

    @property
    def edges(self) -> tuple[int, int]:
        """How many first and last bytes `is_complete` and `unlike` look at."""

    @property
    def lenient(self) -> tuple[str, ...]:
        """The options that let files with other columns pass."""

    def is_complete(self, glimpse: Glimpse) -> bool:
        """Whether the file ends as a finished one does; a compressed text is not asked about."""

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        """In what a file does not have these columns, as far as it says; None if its edges do not tell."""

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        """One scan over paths or contents; with `columns`, which all of them must have, in their order."""


class TextFormat(Format, Protocol):
    """How files of lines are read, and told apart record by record."""

    @property
    def record(self) -> re.Pattern[bytes]:
        """Matches one record with the end of its line, whatever is in it; and nothing at the end of the text."""

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        """How records of a text are read apart from the rest: the format, the bytes before them, where they begin."""

    def looks_broken(self, record: bytes, head: bytes) -> bool:
        """A guess, cheap and rarely wrong, whether a record has not the form of others; Polars is asked of it alone."""

    def leniently(self) -> TextFormat:
        """The same, reading null where a value has not the type of its column."""


def differences(found: Columns, expected: Columns) -> list[str]:
    """In what the columns of a file are not the expected ones, their order aside; empty if in nothing."""
    missing = [f"column {name!r} is missing, expected {expected[name]}" for name in expected if name not in found]
    extra = [f"column {name!r} is not expected" for name in found if name not in expected]
    other = [
        f"column {name!r} is {found[name]}, expected {expected[name]}"
        for name in expected
        if found.get(name) is not None and found[name] != expected[name]
    ]
    return missing + other + extra
