"""How do rows become the bytes of one file, and how are such files read back exactly?

A format is refused at start for columns that would not come back as they were. Text formats need the schema and
the options they were written with, which the manifest keeps; parquet and ipc describe themselves.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import polars as pl
import polars.selectors as cs

from unbounded.errors import PlanError, UnknownOptionError, UnsupportedOperationError, nearest

__all__ = ["OPTIONS", "Format", "check_format", "check_types", "encode", "extension", "reading", "scan"]

Format: TypeAlias = Literal["parquet", "csv", "ndjson", "ipc"]

OPTIONS: Mapping[Format, frozenset[str]] = {
    "parquet": frozenset({"compression", "compression_level", "statistics", "row_group_size", "data_page_size"}),
    "csv": frozenset(
        {"include_bom", "compression", "compression_level", "include_header", "separator", "line_terminator"}
        | {"quote_char", "quote_style", "batch_size", "datetime_format", "date_format", "time_format"}
        | {"float_scientific", "float_precision", "decimal_comma", "null_value"}
    ),
    "ndjson": frozenset({"compression", "compression_level"}),
    "ipc": frozenset({"compression", "record_batch_size"}),
}
"""The options of Polars' `write_*` that say how one file is written, by their names there."""

_CSV_READING = {  # an option of write_csv: the option of scan_csv that undoes it
    "include_header": "has_header",
    "separator": "separator",
    "quote_char": "quote_char",
    "null_value": "null_values",
    "decimal_comma": "decimal_comma",
}
_SUFFIX = {"gzip": ".gz", "zstd": ".zst"}


def check_format(format: str, options: Mapping[str, Any]) -> Format:
    """The format, if it and the options can be written and read back; PlanError otherwise."""
    if format not in get_args(Format):
        raise PlanError(
            f"format={format!r} is not a file format{nearest(format, get_args(Format))}. "
            f"Write one of {', '.join(get_args(Format))}"
        )
    known = cast("Format", format)
    for option in options:
        if option not in OPTIONS[known]:
            raise UnknownOptionError(option, f"a {format} sink", OPTIONS[known])
    if known == "csv":
        _check_csv(options)
    return known


def _check_csv(options: Mapping[str, Any]) -> None:
    for option in ("datetime_format", "date_format", "time_format"):
        if options.get(option) is not None:
            raise UnsupportedOperationError(
                f"{option}={options[option]!r} of a csv sink",
                because="the files must read back exactly as they were written",
                instead="make the column text before the sink, with dt.to_string(format)",
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


def check_types(format: Format, schema: pl.Schema) -> None:
    """PlanError naming all columns whose values would not come back from a file of this format."""
    bad = [f"{name!r} ({dtype})" for name, dtype in schema.items() if _carrier(dtype, format) is None]
    if bad:
        raise PlanError(
            f"a {format} file cannot hold {', '.join(bad)}. Cast to a type it can hold, or write parquet or ipc"
        )


def encode(rows: pl.DataFrame, format: Format, options: Mapping[str, Any]) -> bytes:
    """One file. In memory first: measured as fast as Polars' own file writing, and crc and size come for free.

    PlanError if JSON has no spelling for a value of `rows`.
    """
    buffer = io.BytesIO()
    match format:
        case "parquet":
            rows.write_parquet(buffer, **options)
        case "csv":
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
    return {_CSV_READING[name]: value for name, value in options.items() if name in _CSV_READING}


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
