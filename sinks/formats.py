"""How do rows become the bytes of one file, and how are such files read back exactly?

A format is refused at start for columns that would not come back as they were. Text formats need the schema and
the options they were written with, which the manifest keeps; parquet and ipc describe themselves.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, cast, get_args

import polars as pl
import polars.selectors as cs

from unbounded.errors import PlanError, UnknownOptionError, UnsupportedOperationError, nearest

__all__ = [
    "OPTIONS",
    "REFUSED",
    "CsvOptions",
    "Format",
    "IpcOptions",
    "NdjsonOptions",
    "ParquetOptions",
    "check_types",
    "checked",
    "encode",
    "extension",
    "reading",
    "scan",
]

Format: TypeAlias = Literal["parquet", "csv", "ndjson", "ipc"]


class _Kept(TypedDict, total=False):
    """What Polars' sinks can be asked for, and is always so here: rows in order, folders made, files synced."""

    maintain_order: bool
    mkdir: bool
    sync_on_close: Literal["data", "all"] | None


class ParquetOptions(_Kept, total=False):
    """The options of `pl.LazyFrame.sink_parquet` that say how one file is written."""

    compression: Literal["lz4", "uncompressed", "snappy", "gzip", "brotli", "zstd"]
    compression_level: int | None
    statistics: bool | str | dict[str, bool]
    row_group_size: int | None
    data_page_size: int | None
    metadata: Any


class CsvOptions(_Kept, total=False):
    """The options of `pl.LazyFrame.sink_csv` that say how one file is written."""

    include_bom: bool
    compression: Literal["uncompressed", "gzip", "zstd"]
    compression_level: int | None
    check_extension: bool
    include_header: bool
    separator: str
    line_terminator: str
    quote_char: str
    batch_size: int
    float_scientific: bool | None
    float_precision: int | None
    decimal_comma: bool
    null_value: str | None
    quote_style: Literal["necessary", "always", "non_numeric"] | None


class NdjsonOptions(_Kept, total=False):
    """The options of `pl.LazyFrame.sink_ndjson` that say how one file is written."""

    compression: Literal["uncompressed", "gzip", "zstd"]
    compression_level: int | None
    check_extension: bool


class IpcOptions(_Kept, total=False):
    """The options of `pl.LazyFrame.sink_ipc` that say how one file is written."""

    compression: Literal["uncompressed", "lz4", "zstd"] | None
    compat_level: pl.CompatLevel | None
    record_batch_size: int | None


OPTIONS: Mapping[Format, frozenset[str]] = {
    "parquet": frozenset(ParquetOptions.__annotations__),
    "csv": frozenset(CsvOptions.__annotations__),
    "ndjson": frozenset(NdjsonOptions.__annotations__),
    "ipc": frozenset(IpcOptions.__annotations__),
}
_WITHOUT_EFFECT = {*_Kept.__annotations__, "check_extension"}  # names of files are ours, and fit

_AS_TEXT = ("the files must read back exactly as they were written", "dt.to_string(format) before the sink")
_OWN_COLUMNS = ("the columns of the files are those of the query", "cast(...) before the sink")

REFUSED: Mapping[str, tuple[Any, str, str]] = {
    "datetime_format": (None, *_AS_TEXT),
    "date_format": (None, *_AS_TEXT),
    "time_format": (None, *_AS_TEXT),
    "arrow_schema": (None, *_OWN_COLUMNS),
    "encryption": (
        None,
        "a query that is started again must read its own files, and keys are kept nowhere",
        "an encrypted disk, or foreach_batch(f) with rows.write_parquet(..., encryption=...)",
    ),
    "credential_provider": ("auto", "files elsewhere are written through fsspec", "storage_options= of fsspec"),
    "lazy": (False, "a sink begins its query, and a frame alone begins nothing", "the sink where the query may begin"),
    "engine": ("auto", "each batch runs on the engine that is faster for its size", "the sink without it"),
    "optimizations": (None, "each batch is optimized as far as Polars can", "the sink without it"),
    "sinked_paths_callback": (
        None,
        "a file counts when its batch is recorded, not when it is written",
        "query.last_progress, a listener, or foreach_batch(f)",
    ),
}
"""Polars' options that a sink of batches cannot have: the value that asks for nothing, why not, what to write."""

_CSV_READING = {  # an option of write_csv: the option of scan_csv that undoes it
    "include_header": "has_header",
    "separator": "separator",
    "quote_char": "quote_char",
    "null_value": "null_values",
    "decimal_comma": "decimal_comma",
}
_SUFFIX = {"gzip": ".gz", "zstd": ".zst"}


def checked(format: str, options: Mapping[str, Any]) -> tuple[Format, dict[str, Any]]:
    """The format and the options that Polars' `write_*` is to have, if files so written can be read back.

    PlanError for another format, UnknownOptionError and UnsupportedOperationError for an option.
    """
    if format not in get_args(Format):
        raise PlanError(
            f"format={format!r} is not a file format{nearest(format, get_args(Format))}. "
            f"Write one of {', '.join(get_args(Format))}"
        )
    known = cast("Format", format)
    given: dict[str, Any] = {}
    for option, value in options.items():
        if option in REFUSED:
            nothing, because, instead = REFUSED[option]
            if value != nothing:
                asked = f"{option}={value!r} of a {format} sink"
                raise UnsupportedOperationError(asked, because=because, instead=instead)
        elif option not in OPTIONS[known]:
            raise UnknownOptionError(option, f"a {format} sink", OPTIONS[known])
        elif option not in _WITHOUT_EFFECT:
            given[option] = value
    if known == "csv":
        _check_csv(given)
    return known, given


def _check_csv(options: Mapping[str, Any]) -> None:
    separator, quote = options.get("separator", ","), options.get("quote_char", '"')
    for name, sign in (("separator", separator), ("quote_char", quote)):
        if sign.isalnum() or sign in tuple("-+.:\r\n") or separator == quote:
            raise UnsupportedOperationError(
                f"{name}={sign!r} of a csv sink",
                because="numbers and times hold it without quotes, and the files could not be read back",
                instead="another sign, such as separator=';' or quote_char=\"'\"",
            )
    null = options.get("null_value") or ""
    if any(sign and sign in null for sign in (separator, quote, "\r", "\n")):
        raise UnsupportedOperationError(
            f"null_value={null!r} of a csv sink",
            because="it is written without quotes, and the files could not be read back",
            instead='a text without separator, quote and line break, such as null_value="NULL"',
        )
    if options.get("quote_style") == "never" or options.get("quote_char") == "":
        raise UnsupportedOperationError(
            "a csv sink without quotes",
            because="a text that holds the separator or a line break would not read back",
            instead='quote_style="necessary"',
        )
    if options.get("quote_style") == "always" and options.get("null_value") is None:
        raise UnsupportedOperationError(
            'quote_style="always" of a csv sink',
            because="null and the empty text would be written alike",
            instead='null_value="NULL" beside it, or quote_style="necessary"',
        )
    if options.get("line_terminator", "\n") not in ("\n", "\r\n"):
        raise UnsupportedOperationError(
            f"line_terminator={options['line_terminator']!r} of a csv sink",
            because="the files could not be read back",
            instead=r'line_terminator="\n" or "\r\n"',
        )


def check_types(format: Format, schema: pl.Schema, options: Mapping[str, Any]) -> None:
    """PlanError naming all columns whose values would not come back from a file of this format."""
    bad = [f"{name!r} ({dtype})" for name, dtype in schema.items() if _carrier(dtype, format) is None]
    if bad:
        raise PlanError(
            f"a {format} file cannot hold {', '.join(bad)}. Cast to a type it can hold, or write parquet or ipc"
        )
    null = options.get("null_value") if format == "csv" else None
    alike = [f"{name!r} ({dtype})" for name, dtype in schema.items() if null and _spells(null, dtype, options)]
    if alike:
        raise PlanError(
            f"null_value={null!r} is also how a value of {', '.join(alike)} is spelled, which would be read back as "
            'null. Choose another text, such as null_value="NULL", or leave it out'
        )


def _spells(text: str, dtype: pl.DataType, options: Mapping[str, Any]) -> bool:
    """Whether a csv file could hold this text for a value that is none of text."""
    file = 'value\n"{}"\n'.format(text.replace('"', '""')).encode()
    decimal_comma = options.get("decimal_comma", False)
    read = pl.scan_csv(file, schema={"value": dtype}, ignore_errors=True, decimal_comma=decimal_comma)
    try:
        return not _is_text(dtype) and read.collect()["value"].null_count() == 0
    except pl.exceptions.ComputeError:  # of a time, whose errors cannot be ignored
        return False


def encode(rows: pl.DataFrame, format: Format, options: Mapping[str, Any]) -> bytes:
    """One file. In memory first: measured as fast as Polars' own file writing, and crc and size come for free.

    PlanError if a value of `rows` has no spelling of its own.
    """
    buffer = io.BytesIO()
    match format:
        case "parquet":
            rows.write_parquet(buffer, **options)
        case "csv":
            _refuse_text_like_null(rows, options.get("null_value"))
            rows.write_csv(buffer, **options)
        case "ipc":
            rows.write_ipc(buffer, **options)
        case "ndjson":
            _refuse_not_finite(rows)
            rows.write_ndjson(buffer, **options)
    return buffer.getvalue()


def extension(format: Format, options: Mapping[str, Any]) -> str:
    """How names of files end, without the first dot."""
    packed = options.get("compression") if format in ("csv", "ndjson") else None
    return format + _SUFFIX.get(packed or "", "")


def reading(format: Format, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options a reader needs, as JSON; {} where files describe themselves."""
    if format != "csv":
        return {}
    # Without `null_values`, only an empty field without quotes is null.
    return {_CSV_READING[name]: value for name, value in options.items() if name in _CSV_READING and value != ""}


def scan(sources: Sequence[str | bytes], format: Format, schema: pl.Schema, reading: Mapping[str, Any]) -> pl.LazyFrame:
    """The rows of one or more files, all given by path or all by content, in order, with exactly `schema`."""
    files = cast("list[str]", list(sources))  # Polars' stubs want lists of one kind
    if format == "parquet":
        return pl.scan_parquet(files, schema=schema, glob=False, hive_partitioning=False)
    if format == "ipc":
        return pl.scan_ipc(files, glob=False, hive_partitioning=False)
    carried = pl.Schema({name: _carrier(dtype, format) or dtype for name, dtype in schema.items()})
    if format == "csv":
        frame = pl.scan_csv(files, schema=carried, glob=False, **reading)
    else:
        frame = pl.scan_ndjson(_unglobbed(files), schema=carried)
    return frame.with_columns(
        pl.col(name).str.to_time("%H:%M:%S%.f") if dtype == pl.Time else pl.col(name).cast(dtype)
        for name, dtype in schema.items()
        if dtype != carried[name]
    )


def _unglobbed(files: list[str]) -> list[str]:
    """Contents instead, if `scan_ndjson`, which has no `glob=False`, would take one of the paths for a pattern."""
    if not any(isinstance(file, str) and set("*?[") & set(file) for file in files):
        return files
    return cast("list[str]", [Path(file).read_bytes() for file in files])


def _refuse_text_like_null(rows: pl.DataFrame, null: str | None) -> None:
    """Polars writes null and this text alike, which would be a wrong answer nobody hears of."""
    texts = [name for name, dtype in rows.schema.items() if _is_text(dtype)]
    if not null or not texts or not rows.height:
        return
    found = rows.select(pl.col(texts).cast(pl.String).eq(null).any()).row(0, named=True)
    bad = [repr(name) for name, alike in found.items() if alike]
    if bad:
        raise PlanError(
            f"column {', '.join(bad)} holds the text {null!r}, which null_value={null!r} would turn into null. "
            "Choose another null_value, replace the text before the sink, or write parquet, ipc or ndjson"
        )


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum)


def _refuse_not_finite(rows: pl.DataFrame) -> None:
    """Polars writes NaN and infinities as null, which would be a wrong answer nobody hears of."""
    floats = rows.select(cs.float())
    if not floats.width or not floats.height:
        return
    finite = floats.select(pl.all().is_finite().all()).row(0, named=True)
    bad = [repr(name) for name, whole in finite.items() if not whole]
    if bad:
        raise PlanError(
            f"column {', '.join(bad)} holds NaN or infinity, which ndjson cannot spell. "
            "Write .fill_nan(None) before the sink, or write parquet, ipc or csv"
        )


def _carrier(dtype: pl.DataType, format: Format) -> pl.DataType | None:
    """The type as which a file of this format holds `dtype` and Polars 2.1 reads it back; None if it does not."""
    if isinstance(dtype, pl.Object | pl.Unknown):
        return None
    if format in ("parquet", "ipc"):
        return dtype
    if isinstance(dtype, pl.Duration | pl.Binary):
        return None
    if format == "csv":
        return None if dtype.is_nested() or isinstance(dtype, pl.Null) else dtype
    match dtype:
        case pl.Int8() | pl.Int16() | pl.UInt8() | pl.UInt16():
            return pl.Int64()
        case pl.Decimal() | pl.Time():
            return pl.String()
        case pl.List() | pl.Array():
            return dtype if _is_carried_inside(dtype.inner) else None
        case pl.Struct():
            return dtype if all(_is_carried_inside(field.dtype) for field in dtype.fields) else None
        case _:
            return dtype


def _is_carried_inside(dtype: object) -> bool:
    """Within a list or struct no cast can mend what was read, so a type must be its own carrier."""
    return isinstance(dtype, pl.DataType) and _carrier(dtype, "ndjson") == dtype
