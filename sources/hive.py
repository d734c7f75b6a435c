"""Which columns does the path of a file hold? In `day=2024-01-01/country=fr/a.csv` are two, in Hive's spelling."""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache
from urllib.parse import unquote

import polars as pl

from unbounded.errors import PlanError, SchemaMismatchError
from unbounded.sources.folder import shown

__all__ = ["HivePaths", "guessed"]

_NULL = "__HIVE_DEFAULT_PARTITION__"


class HivePaths:
    """The values of these columns in paths. Mutable, to parse the path of a folder once and not once per file."""

    def __init__(self, schema: pl.Schema) -> None:
        self.schema = schema
        self._values = lru_cache(maxsize=1024)(self._parsed)
        self._is_plain = lru_cache(maxsize=1024)(self._all_plain)

    def values(self, path: str) -> pl.DataFrame:
        """One row with the columns of `schema`. SchemaMismatchError for a path without one, or with another type."""
        return self._values(path.rpartition("/")[0])

    def is_plain(self, path: str) -> bool:
        """Whether Polars takes the same values from a path: it passes over `k=a=b`, and fails where `k` comes twice."""
        return self._is_plain(path.rpartition("/")[0])

    def _all_plain(self, folder: str) -> bool:
        parts = [part for part in folder.split("/") if part.partition("=")[0] in self.schema]
        return len({part.partition("=")[0] for part in parts}) == len(parts) and all(p.count("=") == 1 for p in parts)

    def _parsed(self, folder: str) -> pl.DataFrame:
        try:
            found = _parts(folder, self.schema)
        except UnicodeDecodeError as error:
            raise SchemaMismatchError(
                f"a part of the path {shown(folder)} is no UTF-8 when its %-escapes are read: {error}. Rename the "
                "folder, or choose the others with a glob"
            ) from error
        missing = [name for name in self.schema if name not in found]
        if missing:
            raise SchemaMismatchError(
                f"files in {shown(folder)} have no part {missing[0] + '=...'!r} in their path, which hive_schema "
                "names. Move them into such a folder, or choose the others with a glob"
            )
        line = ",".join(_quoted(found[name]) for name in self.schema) + "\n"
        try:
            # As Polars parses the paths of its own scans, so that a folder has one value wherever it lies.
            return pl.read_csv(line.encode(), has_header=False, schema=self.schema)
        except pl.exceptions.PolarsError as error:
            kinds = {name: str(dtype) for name, dtype in self.schema.items()}
            raise SchemaMismatchError(
                f"the parts {found} in the path {shown(folder)} do not fit hive_schema {kinds}: "
                f"{str(error).splitlines()[0]}. Rename the folder, or choose the others with a glob"
            ) from error


def guessed(path: str, function: str, *, dates: bool) -> pl.Schema:
    """The columns of the parts of one path, with the types that Polars guesses; PlanError if there are none."""
    folder = path.rpartition("/")[0]
    found = _parts(folder, [part.partition("=")[0] for part in folder.split("/") if part[:1] != "="])
    if not found:
        raise PlanError(
            f"{function}(hive_partitioning=True), but the path {shown(path)} has no part like 'year=2024'. Leave the "
            'option out, or name the columns: hive_schema={"year": pl.Int32}'
        )
    line = ",".join(_quoted(value) for value in found.values()) + "\n"
    rows = pl.read_csv(line.encode(), has_header=False, new_columns=list(found), try_parse_dates=dates)
    return rows.schema


def _parts(folder: str, wanted: Container[str]) -> dict[str, str | None]:
    """Name and value of each part like `name=value` whose name is wanted."""
    pairs = (part.partition("=") for part in folder.split("/"))
    return {
        name: None if value == _NULL else unquote(value, errors="strict")
        for name, equals, value in pairs
        if equals and name in wanted
    }


def _quoted(value: str | None) -> str:
    return "" if value is None else '"' + value.replace('"', '""') + '"'
