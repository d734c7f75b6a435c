"""Which of Polars' options does a scan of each format take, which does it refuse, and what does it say instead?

A format takes the parsing options of Polars' own `scan_*` under their names and with their defaults, since only
those that were given are passed on. Options about the whole input have no meaning for an endless one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import polars as pl

from unbounded.errors import PlanError, UnknownOptionError, UnsupportedOperationError

__all__ = [
    "REFUSED",
    "AvroOptions",
    "CsvOptions",
    "FormatName",
    "IpcOptions",
    "LinesOptions",
    "NdjsonOptions",
    "Options",
    "ParquetOptions",
    "check_options",
]

FormatName: TypeAlias = Literal["parquet", "csv", "ndjson", "ipc", "avro", "lines"]
Options: TypeAlias = Mapping[str, Any]

_ROW_NUMBER = "the number of a row depends on all rows before it"

REFUSED: Mapping[str, tuple[str, str]] = {
    "n_rows": (
        "it counts rows of the whole input",
        "max_bytes_per_trigger= or max_files_per_trigger= to take less per batch, frame.snapshot().head(n) to look",
    ),
    "row_index_name": (
        _ROW_NUMBER,
        "a column of the rows themselves, or include_file_paths= to tell where a row is from",
    ),
    "row_index_offset": (_ROW_NUMBER, "a column of the rows themselves"),
    "columns": ("a scan reads the columns that the query asks for, and no others", "select(...) behind it"),
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


class ParquetOptions(TypedDict, total=False):
    """The options of `pl.scan_parquet` that say how one file is read."""

    parallel: Literal["auto", "columns", "row_groups", "prefiltered", "none"]
    use_statistics: bool
    low_memory: bool
    cache: bool
    cast_options: pl.ScanCastOptions | None
    decryption: Any


class IpcOptions(TypedDict, total=False):
    """The options of `pl.scan_ipc` that say how one file is read: none."""


class AvroOptions(TypedDict, total=False):
    """The options of `pl.read_avro` that say how one file is read: none."""


class LinesOptions(TypedDict, total=False):
    """The options of `pl.scan_lines` that say how one file is read: none."""


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


class NdjsonOptions(TypedDict, total=False):
    """The options of `pl.scan_ndjson` that say how one file is read, or how its types are guessed."""

    schema_overrides: Any
    infer_schema_length: int | None
    batch_size: int | None
    low_memory: bool
    ignore_errors: bool


_TAKEN: Mapping[FormatName, Collection[str]] = {
    "parquet": ParquetOptions.__annotations__,
    "csv": CsvOptions.__annotations__,
    "ndjson": NdjsonOptions.__annotations__,
    "ipc": IpcOptions.__annotations__,
    "avro": AvroOptions.__annotations__,
    "lines": LinesOptions.__annotations__,
}


def check_options(name: FormatName, options: Options, own: Collection[str]) -> None:
    """Refuse what a format does not take; `own` are the options its function has besides.

    Raises UnknownOptionError with the nearest name, UnsupportedOperationError for one about the whole input.
    """
    if name not in get_args(FormatName):
        raise PlanError(f"there is no file format {name!r}. Write one of {', '.join(get_args(FormatName))}")
    function = f"scan_{name}"
    for option in options:
        if option in REFUSED:
            because, instead = REFUSED[option]
            raise UnsupportedOperationError(f"{function}({option}=...)", because=because, instead=instead)
        if option not in _TAKEN[name]:
            raise UnknownOptionError(option, function, {*_TAKEN[name], *own})
