"""How is a file of one format read, what is its sign of being complete, and which columns does it say it has?"""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

import polars as pl

from unbounded.errors import PlanError
from unbounded.sources import avro
from unbounded.sources.folder import Glimpse
from unbounded.sources.options import FormatName, Options

__all__ = ["NOTHING", "Format", "FromPath", "TextFormat", "format_of", "open_format"]

Columns: TypeAlias = Mapping[str, pl.DataType | None]
"""Names of columns and their types, None where a file has names alone."""

_EDGE = 65_536  # bytes looked at; holds a header, or the footer of some thousand columns
_MAGIC = 16  # bytes that tell a compression
_SUFFIXES: Mapping[str, FormatName] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "csv",
    "ndjson": "ndjson",
    "jsonl": "ndjson",
    "json": "ndjson",
    "ipc": "ipc",
    "arrow": "ipc",
    "feather": "ipc",
    "avro": "avro",
    "txt": "lines",
    "log": "lines",
}
_LINE = re.compile(rb"[^\n]*+\n?")
_LENIENT = ("missing_columns='insert'", "extra_columns='ignore'")


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

    def leniently(self) -> TextFormat:
        """The same, reading null where a value has not the type of its column."""


@dataclass(frozen=True)
class _Parquet:
    options: Options
    is_text: ClassVar[bool] = False
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = True
    edges: ClassVar[tuple[int, int]] = (0, _EDGE)
    lenient: ClassVar[tuple[str, ...]] = (*_LENIENT, "cast_options=")

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.file.size >= 12 and glimpse.tail[-4:] in (b"PAR1", b"PARE")

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        try:
            return _differences(pl.read_parquet_schema(io.BytesIO(glimpse.tail)), columns)
        except (pl.exceptions.PolarsError, OSError):  # a footer larger than the tail, or an encrypted one
            return None

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return pl.scan_parquet(files, schema=columns, glob=False, **_hive(from_path), **self.options)


@dataclass(frozen=True)
class _Ipc:
    options: Options
    is_text: ClassVar[bool] = False
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = True
    edges: ClassVar[tuple[int, int]] = (0, _EDGE)
    lenient: ClassVar[tuple[str, ...]] = _LENIENT

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.file.size >= 16 and glimpse.tail[-6:] == b"ARROW1"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        try:
            return _differences(pl.read_ipc_schema(io.BytesIO(glimpse.tail)), columns)
        except (pl.exceptions.PolarsError, OSError):
            return None

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        if columns is None:
            return pl.scan_ipc(files, glob=False, **_hive(from_path))
        # Polars takes the first file's schema, whatever is asked; matching costs nothing when it fits.
        wanted = pl.Schema({**columns, **from_path.schema})
        alike = [files] if not self.options else [[file] for file in files]  # files may differ where that was allowed
        return pl.concat(
            pl.scan_ipc(some, glob=False, **_hive(from_path)).match_to_schema(wanted, **self.options)  # type: ignore[arg-type]  # a list of one kind
            for some in alike
        )


@dataclass(frozen=True)
class _Avro:
    options: Options
    is_text: ClassVar[bool] = False
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = False
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (_EDGE, 16)
    lenient: ClassVar[tuple[str, ...]] = _LENIENT

    def is_complete(self, glimpse: Glimpse) -> bool:
        header = avro.header(glimpse.head)
        return len(glimpse.head) == _EDGE if header is None else glimpse.tail == header.marker

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        header = avro.header(glimpse.head)
        return None if header is None else _differences(avro.schema(header, glimpse.file.name), columns)

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return avro.scan(files, columns, **self.options)


@dataclass(frozen=True)
class _Csv:
    options: Options
    is_text: ClassVar[bool] = True
    says_types: ClassVar[bool] = False
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (_EDGE, 1)
    lenient: ClassVar[tuple[str, ...]] = _LENIENT

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.tail == str(self.options.get("eol_char", "\n")).encode()

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        names_only = {**self.options, "infer_schema": False, "schema_overrides": None}
        try:
            names = pl.scan_csv(glimpse.head, **names_only).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError):  # more comments than the head holds, or cut compression
            return None
        if self.options.get("has_header", True):
            return _differences(dict.fromkeys(names), columns)
        return [] if len(names) == len(columns) else [f"it has {len(names)} columns, expected {len(columns)}"]

    @property
    def record(self) -> re.Pattern[bytes]:
        end, separator, quote = (
            re.escape(str(self.options.get(name, default)).encode())
            for name, default in (("eol_char", "\n"), ("separator", ","), ("quote_char", '"'))
        )
        if self.options.get("quote_char", '"') is None:
            return re.compile(rb"[^%b]*+%b?" % (end, end))
        # A quote opens a field only where the field begins. One that is never closed takes the rest of the text, for
        # lines that may stand within a field are no rows; any other mistake takes its line.
        opened = rb"%b(?:[^%b]++|%b%b)*+" % (quote, quote, quote, quote)
        field = rb"(?:%b%b(?=[%b%b\r]|\Z)|(?!%b)[^%b%b]*+)" % (opened, quote, separator, end, quote, separator, end)
        whole = rb"%b(?:%b%b)*+\r?(?:%b|\Z)" % (field, separator, field, end)
        unclosed = rb"(?:%b%b)*+%b\Z" % (field, separator, opened)
        return re.compile(rb"%b|%b|[^%b]*+%b?" % (whole, unclosed, end, end))

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        if not self.options.get("has_header", True):
            # With a header of its own: else Polars counts the columns in the first record, whichever that is.
            return _Csv({**self.options, "has_header": True}), self._header(columns), 0
        comment = str(self.options.get("comment_prefix") or "\n").encode()
        for record in self.record.finditer(text):
            if record.group().strip() and not record.group().startswith(comment):
                return self, text[: record.end()], record.end()
        return self, text, len(text)

    def _header(self, columns: pl.Schema) -> bytes:
        end, separator, quote = (
            str(self.options.get(name, default) or "")
            for name, default in (("eol_char", "\n"), ("separator", ","), ("quote_char", '"'))
        )
        names = [f"{quote}{name.replace(quote, 2 * quote) if quote else name}{quote}" for name in columns]
        return (separator.join(names) + end).encode()

    def leniently(self) -> TextFormat:
        return _Csv({**self.options, "ignore_errors": True})

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return pl.scan_csv(files, schema=columns, glob=False, include_file_paths=from_path.path, **self.options)


@dataclass(frozen=True)
class _Ndjson:
    options: Options
    is_text: ClassVar[bool] = True
    says_types: ClassVar[bool] = False
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (_MAGIC, 1)
    lenient: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for option, only in (("missing_columns", "insert"), ("extra_columns", "ignore")):
            if self.options.get(option, only) != only:
                raise PlanError(
                    f"scan_ndjson({option}={self.options[option]!r}): each line has its own keys, and in Polars a "
                    f"missing one is null and another is passed over. Leave it out, or write {option}={only!r}"
                )

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.tail == b"\n"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        return []

    @property
    def record(self) -> re.Pattern[bytes]:
        return _LINE

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        return self, b"", 0

    def leniently(self) -> TextFormat:
        return _Ndjson({**self.options, "ignore_errors": True})

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        # The one scan without `glob=False`: a name with a bracket would silently match nothing.
        found = [glob.escape(file) if isinstance(file, str) else file for file in files]
        options = {name: value for name, value in self.options.items() if not name.endswith("_columns")}
        return pl.scan_ndjson(found, schema=columns, include_file_paths=from_path.path, **options)  # type: ignore[arg-type]  # a list of one kind


@dataclass(frozen=True)
class _Lines:
    options: Options
    is_text: ClassVar[bool] = True
    says_types: ClassVar[bool] = True
    knows_paths: ClassVar[bool] = True
    knows_hive: ClassVar[bool] = False
    edges: ClassVar[tuple[int, int]] = (_MAGIC, 1)
    lenient: ClassVar[tuple[str, ...]] = ()

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.tail == b"\n"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        return []

    @property
    def record(self) -> re.Pattern[bytes]:
        return _LINE

    def begun(self, text: bytes, columns: pl.Schema) -> tuple[TextFormat, bytes, int]:
        return self, b"", 0

    def leniently(self) -> TextFormat:
        return self

    def scan(
        self, files: list[str] | list[bytes], columns: pl.Schema | None, from_path: FromPath = NOTHING
    ) -> pl.LazyFrame:
        return pl.scan_lines(files, glob=False, include_file_paths=from_path.path)  # type: ignore[arg-type]  # bytes work


_FORMATS: Mapping[FormatName, Callable[[Options], Format]] = {
    "parquet": _Parquet,
    "csv": _Csv,
    "ndjson": _Ndjson,
    "ipc": _Ipc,
    "avro": _Avro,
    "lines": _Lines,
}


def open_format(name: FormatName, options: Options) -> Format:
    """A format with options that `check_options` let pass, and `missing_columns`, `extra_columns` if they were given.

    Raises PlanError for a policy of columns that there is not.
    """
    for option, values in (("missing_columns", ("insert", "raise")), ("extra_columns", ("ignore", "raise"))):
        if options.get(option, values[0]) not in values:
            raise PlanError(
                f"scan_{name}({option}={options[option]!r}) is not known. Write {' or '.join(map(repr, values))}"
            )
    return _FORMATS[name](dict(options))


def format_of(name: str) -> FormatName | None:
    """The format that a file's name tells, compression aside."""
    suffixes = [part for part in name.lower().split(".")[1:] if part not in ("gz", "zst", "zlib")]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _hive(from_path: FromPath) -> dict[str, Any]:
    """The options of a Polars scan that say which columns come from the path."""
    if not from_path.hive:
        return {"include_file_paths": from_path.path, "hive_partitioning": False}
    return {"include_file_paths": from_path.path, "hive_partitioning": True, "hive_schema": from_path.hive}


def _differences(found: Columns, expected: Columns) -> list[str]:
    """In what the columns of a file are not the expected ones, their order aside; empty if in nothing."""
    missing = [f"column {name!r} is missing, expected {expected[name]}" for name in expected if name not in found]
    extra = [f"column {name!r} is not expected" for name in found if name not in expected]
    other = [
        f"column {name!r} is {found[name]}, expected {expected[name]}"
        for name in expected
        if found.get(name) is not None and found[name] != expected[name]
    ]
    return missing + other + extra
