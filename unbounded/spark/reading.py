"""How is a stream read by those who come from Spark? `ub.read_stream`, over the same scans.

    ub.read_stream.format("csv").schema("id INT, time TIMESTAMP").option("header", "true").load("incoming/")

Names, options and defaults are Spark's; what comes out is a `StreamFrame`, and expressions are Polars'.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

import polars as pl

from unbounded.errors import PlanError, UnsupportedOperationError, nearest
from unbounded.frame import StreamFrame
from unbounded.scan import scan_avro, scan_csv, scan_lines, scan_ndjson, scan_parquet, scan_rate
from unbounded.sources.rows import schema_of
from unbounded.spark.ddl import schema_of_ddl
from unbounded.spark.options import FORMATS, READING, understood

__all__ = ["DataStreamReader", "read_stream"]

_SCANS: Final[Mapping[str, Callable[..., StreamFrame]]] = {
    "parquet": scan_parquet,
    "csv": scan_csv,
    "json": scan_ndjson,
    "text": scan_lines,
    "avro": scan_avro,
}
_FILES: Final = {"max_bytes_per_trigger": None}
_ANY_COLUMNS: Final = {"missing_columns": "insert", "extra_columns": "ignore"}
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "parquet": {**_FILES, **_ANY_COLUMNS},
    "avro": {**_FILES, **_ANY_COLUMNS},
    "text": _FILES,
    "csv": {**_FILES, "has_header": False, "mode": "permissive"},
    "json": {**_FILES, "mode": "permissive"},
}
"""Where Spark's defaults differ from Polars' and from ours."""

_PERMISSIVE: Final[Mapping[str, Mapping[str, Any]]] = {
    "csv": {"ignore_errors": True, "truncate_ragged_lines": True},
    "json": {"ignore_errors": True},
}
_INSTANTS: Final = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


@dataclass(frozen=True)
class DataStreamReader:
    """What `ub.read_stream` is: a source described step by step. Immutable; each call gives a new one.

    Spark's names, options and defaults (format parquet, no limit per trigger, csv without a header, a value that does
    not fit its type is null), also in snake_case.
    """

    _format: str = "parquet"
    _schema: pl.Schema | None = None
    _options: Mapping[str, Any] = field(default_factory=dict)
    _name: str | None = None

    def format(self, source: str) -> DataStreamReader:
        """What is read: "parquet" (Spark's default), "csv", "json" (one object per line), "text", "avro" or "rate"."""
        return replace(self, _format=source)

    def schema(self, schema: Mapping[str, Any] | str) -> DataStreamReader:
        """Columns and types: a `pl.Schema`, a dict, or a text in Spark's DDL (`"id INT, time TIMESTAMP"`)."""
        if isinstance(schema, Mapping):
            return replace(self, _schema=schema_of(schema))
        # Spark's own StructType, if somebody has one.
        text = schema if isinstance(schema, str) else getattr(schema, "simpleString", lambda: None)()
        if text is None:
            raise PlanError(
                f"read_stream.schema({schema!r}) is no schema. Write pl.Schema({{'id': pl.Int32}}) or 'id INT'"
            )
        return replace(self, _schema=schema_of_ddl(text))

    def option(self, key: str, value: Any) -> DataStreamReader:
        """One of Spark's options of the format; a later value replaces an earlier one."""
        return self.options(**{key: value})

    def options(self, **options: Any) -> DataStreamReader:
        """Several options at once."""
        return replace(self, _options={**self._options, **options})

    def name(self, source_name: str) -> DataStreamReader:
        """The name by which a checkpoint knows the source."""
        return replace(self, _name=source_name)

    def load(
        self,
        path: str | os.PathLike[str] | None = None,
        format: str | None = None,
        schema: Mapping[str, Any] | str | None = None,
        **options: Any,
    ) -> StreamFrame:
        """The endless table. UnknownOptionError for an option that the format does not have."""
        asked = self.options(**options)
        if format is not None:
            asked = asked.format(format)
        if schema is not None:
            asked = asked.schema(schema)
        if path is not None:
            asked = asked.option("path", os.fspath(path))
        return asked._load()

    def parquet(self, path: str | os.PathLike[str], **options: Any) -> StreamFrame:
        """`format("parquet").load(path)`."""
        return self.load(path, "parquet", **options)

    def csv(
        self, path: str | os.PathLike[str], schema: Mapping[str, Any] | str | None = None, **options: Any
    ) -> StreamFrame:
        """`format("csv").load(path)`."""
        return self.load(path, "csv", schema, **options)

    def json(
        self, path: str | os.PathLike[str], schema: Mapping[str, Any] | str | None = None, **options: Any
    ) -> StreamFrame:
        """`format("json").load(path)`: files with one object per line."""
        return self.load(path, "json", schema, **options)

    def text(self, path: str | os.PathLike[str], **options: Any) -> StreamFrame:
        """`format("text").load(path)`: the lines, in the column `value`."""
        return self.load(path, "text", **options)

    def orc(self, path: str | os.PathLike[str], **options: Any) -> StreamFrame:
        """Refused: Polars reads no ORC."""
        return self.load(path, "orc", **options)

    def xml(self, path: str | os.PathLike[str], **options: Any) -> StreamFrame:
        """Refused: Polars reads no XML."""
        return self.load(path, "xml", **options)

    def table(self, table_name: str) -> NoReturn:
        """Refused: there is no catalogue of tables."""
        raise UnsupportedOperationError(
            f"read_stream.table({table_name!r})",
            because="there is no catalogue of tables, only files",
            instead=f"load({table_name + '/'!r}), which also reads what another query writes there in append mode",
        )

    changes = table

    def _load(self) -> StreamFrame:
        name = self._format.lower()
        call = f"read_stream.format({self._format!r})"
        if name not in READING:
            raise _unknown(self._format, call)
        found = {**_DEFAULTS.get(name, {}), **understood(self._options, READING[name], call)}
        if name in ("csv", "json") and self._schema is None:
            raise PlanError(
                f"{call} has no schema, and a stream cannot guess what later files hold. Write "
                ".schema('id INT, name STRING, ...') before it; ub.infer_schema(path) shows what the files there hold"
            )
        if name == "rate":
            return self._rate(found)
        source = _matching(found, call)
        if name == "text":
            return self._text(source, found)
        if found.pop("mode", None) == "permissive":
            found |= _PERMISSIVE[name]
            if found.get("has_header") is False:  # else a name that is spelt otherwise would read as nulls
                found |= _ANY_COLUMNS
        made = {
            column: how
            for column, dtype in (self._schema or {}).items()
            if (how := _made(column, dtype, name, strict=not found.get("ignore_errors"))) is not None
        }
        schema = self._schema and pl.Schema({**self._schema, **{column: read for column, (read, _) in made.items()}})
        frame = _SCANS[name](source, schema=schema, name=self._name, **found)
        return frame.with_columns(expr for _, expr in made.values()) if made else frame

    def _text(self, source: str, options: dict[str, Any]) -> StreamFrame:
        columns = {"value": pl.String()} if self._schema is None else self._schema
        if list(columns.values()) != [pl.String()]:
            raise PlanError(
                f"read_stream.format('text') has one column of text, and the schema is {self._schema}. Write 'value "
                "STRING', and take the lines apart behind it with pl.col('value').str"
            )
        lines = scan_lines(source, name=self._name, **options)
        return lines.rename({"line": next(iter(columns))})

    def _rate(self, options: dict[str, Any]) -> StreamFrame:
        if self._schema is not None:
            raise PlanError("read_stream.format('rate') has columns of its own, timestamp and value. Leave out .schema")
        return scan_rate(name=self._name, **options)


def _matching(found: dict[str, Any], call: str) -> str:
    """The path, with the pattern that Spark takes apart from it; both are taken out of the arguments."""
    path, pattern = found.pop("source", None), found.pop("path_glob_filter", None)
    if path is None:
        raise PlanError(f"{call} has no place. Write .load(path)")
    if pattern is None:
        return str(path)
    if re.search(r"[*?\[]", path):
        raise PlanError(
            f"{call}.option('pathGlobFilter', {pattern!r}) beside the pattern {path!r}. Write one pattern in load(...)"
        )
    return os.path.join(path, *(["**"] if found.pop("recursive", False) else []), pattern)


def _made(column: str, dtype: pl.DataType, format: str, *, strict: bool) -> tuple[pl.DataType, pl.Expr] | None:
    """The type as which a column is read that Polars cannot read as it is, and how it is made of that; or None.

    What does not fit is null, or an error if `strict`.
    """
    match format, dtype:
        case "csv", pl.Datetime(time_zone=str()):  # Polars reads no zones there
            return pl.String(), _instant(column, strict=strict).cast(dtype)
    return None


def _instant(column: str, *, strict: bool) -> pl.Expr:
    """A text such as "2024-01-31T08:00:00.5+01:00" as an instant; without a zone it is UTC."""
    text = pl.col(column).str.replace("T", " ", literal=True)
    read = [text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in _INSTANTS]
    found = pl.coalesce(read).alias(column)
    if not strict:
        return found
    # Only what could not be read is read once more, for the error that Polars makes of it.
    wrong = pl.when(found.is_null()).then(text).str.to_datetime(_INSTANTS[1], time_unit="us", time_zone="UTC")
    return pl.coalesce(found, wrong).alias(column)


def _unknown(format: str, call: str) -> PlanError:
    if format.lower() in FORMATS:
        return UnsupportedOperationError(call, because="it is not built", instead=FORMATS[format.lower()])
    return PlanError(f"{call} is not known{nearest(format, READING) or '.'} Write one of {', '.join(READING)}")


read_stream: Final = DataStreamReader()
"""Where those who come from Spark begin: `ub.read_stream.schema(...).csv(path)`."""
