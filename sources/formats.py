"""How is a file of one format read: its options, its sign of being complete, the columns it says it has?

A format takes the parsing options of Polars' own `scan_*` under their names and with their defaults, since only
those that were given are passed on. Options about the whole input have no meaning for an endless one.
"""

from __future__ import annotations

import glob
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, get_args

import polars as pl

from unbounded.errors import PlanError, UnknownOptionError, UnsupportedOperationError
from unbounded.sources.folder import Glimpse

__all__ = [
    "CsvOptions",
    "Format",
    "FormatName",
    "IpcOptions",
    "NdjsonOptions",
    "ParquetOptions",
    "REFUSED",
    "added",
    "format_of",
    "in_file",
    "open_format",
]

FormatName: TypeAlias = Literal["parquet", "csv", "ndjson", "ipc"]
Options: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = Mapping[str, pl.DataType | None]
"""Names of columns and their types, None where a file has names alone."""

_EDGE = 65_536  # bytes looked at; holds a header, or the footer of some thousand columns
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")  # how gzip and zstd begin
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
}

REFUSED: Mapping[str, tuple[str, str]] = {
    "n_rows": (
        "it counts rows of the whole input",
        "max_bytes_per_trigger= or max_files_per_trigger= to take less per batch, frame.snapshot().head(n) to look",
    ),
    "row_index_name": (
        "the number of a row depends on all rows before it",
        "a column of the rows themselves, or include_file_paths= to tell where a row is from",
    ),
    "row_index_offset": ("the number of a row depends on all rows before it", "a column of the rows themselves"),
    "credential_provider": ("files elsewhere are read through fsspec", "storage_options= with fsspec's own names"),
    "hidden_file_prefix": (
        "names starting with '_' or '.' are always passed over",
        "a glob that matches the files you want, such as 'in/[!x]*.parquet'",
    ),
    "with_column_names": (
        "a function cannot be compared when the query is started again",
        "schema= with the names in the files, then .rename({...})",
    ),
    "new_columns": (
        "schema= already names the columns",
        "schema= with the names in the files, then .rename({...}); without a header, schema= with the names you want",
    ),
}
"""Polars' options that an endless input cannot have: why, and what to write instead."""


class _HiveOptions(TypedDict, total=False):
    hive_partitioning: bool | None
    hive_schema: Mapping[str, Any] | None
    try_parse_hive_dates: bool


class ParquetOptions(_HiveOptions, total=False):
    """The options of `pl.scan_parquet` that say how one file is read."""

    parallel: Literal["auto", "columns", "row_groups", "prefiltered", "none"]
    use_statistics: bool
    low_memory: bool
    cache: bool
    include_file_paths: str | None
    missing_columns: Literal["insert", "raise"]
    extra_columns: Literal["ignore", "raise"]
    cast_options: pl.ScanCastOptions | None
    decryption: Any


class IpcOptions(_HiveOptions, total=False):
    """The options of `pl.scan_ipc` that say how one file is read."""

    include_file_paths: str | None


class CsvOptions(TypedDict, total=False):
    """The options of `pl.scan_csv` that say how one file is read, or how its types are guessed."""

    has_header: bool
    separator: str
    comment_prefix: str | None
    quote_char: str | None
    skip_rows: int
    skip_lines: int
    schema_overrides: Any
    null_values: str | Sequence[str] | dict[str, str] | None
    empty_string_is_null: bool
    ignore_errors: bool
    infer_schema: bool
    infer_schema_length: int | None
    infer_schema_files: int
    encoding: Literal["utf8", "utf8-lossy"]
    low_memory: bool
    skip_rows_after_header: int
    try_parse_dates: bool
    eol_char: str
    truncate_ragged_lines: bool | None
    raise_if_empty: bool | None
    decimal_comma: bool
    include_file_paths: str | None
    extra_columns: Literal["ignore", "raise"] | None
    missing_columns: Literal["insert", "raise"] | None


class NdjsonOptions(TypedDict, total=False):
    """The options of `pl.scan_ndjson` that say how one file is read, or how its types are guessed."""

    schema_overrides: Any
    infer_schema_length: int | None
    batch_size: int | None
    low_memory: bool
    ignore_errors: bool
    include_file_paths: str | None


class Format(Protocol):
    """How files of one kind are read."""

    @property
    def options(self) -> Options: ...

    @property
    def says_types(self) -> bool:
        """Whether a file names the types of its columns."""

    @property
    def edges(self) -> tuple[int, int]:
        """How many first and last bytes `is_complete` and `unlike` look at."""

    @property
    def lenient(self) -> tuple[str, ...]:
        """The options that let files with other columns pass."""

    def is_complete(self, glimpse: Glimpse) -> bool:
        """Whether the file ends as a finished one does."""

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        """In what a file does not have these columns, as far as it says; None if its edges do not tell."""

    def scan(self, files: list[str] | list[bytes], columns: pl.Schema | None) -> pl.LazyFrame:
        """One scan over paths or contents; with `columns`, which all of them must have."""


@dataclass(frozen=True)
class _Parquet:
    options: Options
    says_types: bool = True
    edges: tuple[int, int] = (0, _EDGE)
    lenient: tuple[str, ...] = ("missing_columns='insert'", "extra_columns='ignore'", "cast_options=")

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.file.size >= 12 and glimpse.tail[-4:] in (b"PAR1", b"PARE")

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        try:
            return _differences(pl.read_parquet_schema(io.BytesIO(glimpse.tail)), columns)
        except (pl.exceptions.PolarsError, OSError):  # a footer larger than the tail, or an encrypted one
            return None

    def scan(self, files: list[str] | list[bytes], columns: pl.Schema | None) -> pl.LazyFrame:
        return pl.scan_parquet(files, schema=columns, glob=False, **self.options)


@dataclass(frozen=True)
class _Ipc:
    options: Options
    says_types: bool = True
    edges: tuple[int, int] = (0, _EDGE)
    lenient: tuple[str, ...] = ()

    def is_complete(self, glimpse: Glimpse) -> bool:
        return glimpse.file.size >= 16 and glimpse.tail[-6:] == b"ARROW1"

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        try:
            return _differences(pl.read_ipc_schema(io.BytesIO(glimpse.tail)), columns)
        except (pl.exceptions.PolarsError, OSError):
            return None

    def scan(self, files: list[str] | list[bytes], columns: pl.Schema | None) -> pl.LazyFrame:
        rows = pl.scan_ipc(files, glob=False, **self.options)
        # Polars takes the first file's schema, whatever is asked; this costs nothing when it fits.
        return rows if columns is None else rows.match_to_schema(added(columns, self.options))


@dataclass(frozen=True)
class _Csv:
    options: Options
    says_types: bool = False
    edges: tuple[int, int] = (_EDGE, 1)
    lenient: tuple[str, ...] = ("missing_columns='insert'", "extra_columns='ignore'")

    def is_complete(self, glimpse: Glimpse) -> bool:
        return _ends_a_line(glimpse, str(self.options.get("eol_char", "\n")).encode())

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        names_only = {**self.options, "infer_schema": False, "include_file_paths": None, "schema_overrides": None}
        try:
            names = pl.scan_csv(glimpse.head, **names_only).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError):  # more comments than the head holds, or cut compression
            return None
        if self.options.get("has_header", True):
            return _differences(dict.fromkeys(names), columns)
        return [] if len(names) == len(columns) else [f"it has {len(names)} columns, expected {len(columns)}"]

    def scan(self, files: list[str] | list[bytes], columns: pl.Schema | None) -> pl.LazyFrame:
        return pl.scan_csv(files, schema=columns, glob=False, **self.options)


@dataclass(frozen=True)
class _Ndjson:
    options: Options
    says_types: bool = False
    edges: tuple[int, int] = (4, 1)
    lenient: tuple[str, ...] = ()

    def is_complete(self, glimpse: Glimpse) -> bool:
        return _ends_a_line(glimpse, b"\n")

    def unlike(self, glimpse: Glimpse, columns: pl.Schema) -> list[str] | None:
        return []  # each line has its own keys; a missing one is null and another is passed over, as in Polars

    def scan(self, files: list[str] | list[bytes], columns: pl.Schema | None) -> pl.LazyFrame:
        # The one scan without `glob=False`: a name with a bracket would silently match nothing.
        found = [glob.escape(file) if isinstance(file, str) else file for file in files]
        return pl.scan_ndjson(found, schema=columns, **self.options)  # type: ignore[arg-type]  # a list of one kind


_FORMATS: Mapping[FormatName, Callable[[Options], Format]] = {
    "parquet": _Parquet,
    "csv": _Csv,
    "ndjson": _Ndjson,
    "ipc": _Ipc,
}
_OPTIONS = {"parquet": ParquetOptions, "csv": CsvOptions, "ndjson": NdjsonOptions, "ipc": IpcOptions}


def _ends_a_line(glimpse: Glimpse, end: bytes) -> bool:
    return glimpse.tail[-len(end) :] == end or glimpse.head.startswith(_COMPRESSED)


def open_format(name: FormatName, options: Options, own: Sequence[str]) -> Format:
    """A format with the options that were given; `own` are those the caller has besides.

    Raises UnknownOptionError for a name that Polars does not have either, UnsupportedOperationError for
    one about the whole input.
    """
    if name not in get_args(FormatName):
        raise PlanError(f"there is no file format {name!r}. Write one of {', '.join(get_args(FormatName))}")
    function = f"scan_{name}"
    valid = _OPTIONS[name].__annotations__
    for option in options:
        if option in REFUSED:
            because, instead = REFUSED[option]
            raise UnsupportedOperationError(f"{function}({option}=...)", because=because, instead=instead)
        if option not in valid:
            raise UnknownOptionError(option, function, {*valid, *own})
    if options.get("hive_partitioning") and not options.get("hive_schema"):
        raise PlanError(
            f"{function}(hive_partitioning=True) takes the types of partition columns from the paths it sees, which "
            'differ from batch to batch. Name them: hive_schema={"year": pl.Int32}'
        )
    return _FORMATS[name](dict(options))


def added(columns: pl.Schema, options: Options) -> pl.Schema:
    """The schema of the rows: the columns of a file, those that its path holds, its path."""
    path = options.get("include_file_paths")
    return pl.Schema({**columns, **(options.get("hive_schema") or {}), **({path: pl.String} if path else {})})


def in_file(schema: pl.Schema, options: Options) -> pl.Schema:
    """The columns of a file alone: a schema of rows without what comes from its path."""
    from_path = {*(options.get("hive_schema") or ()), options.get("include_file_paths")}
    return pl.Schema({name: kind for name, kind in schema.items() if name not in from_path})


def format_of(name: str) -> FormatName | None:
    """The format that a file's name tells, compression aside."""
    suffixes = [part for part in name.lower().split(".")[1:] if part not in ("gz", "zst", "zlib")]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


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
