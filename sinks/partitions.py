"""In which folder does a row lie? Hive-style folders, `day=2024-01-01/origin=JFK/`, for people and for pruning.

The values themselves are stored in the files and in the manifest. A folder's name is injective: two values never
share one. Readers that take the column from the path (Polars does, for folders) see the true value, except
for one longer than 200 bytes and for the text `__HIVE_DEFAULT_PARTITION__`, which get a digest behind a `~`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias
from urllib.parse import quote

import polars as pl

from unbounded.errors import PlanError, nearest
from unbounded.storage import digest

__all__ = ["PartitionValues", "check_names", "check_types", "folder", "split"]

PartitionValues: TypeAlias = tuple[str | None, ...]
"""The values of the partition columns as Polars casts them to text, in the order of `partition_by`."""

_NULL = "__HIVE_DEFAULT_PARTITION__"  # Hive's spelling, which Polars, pyarrow and DuckDB read as null
_LONGEST = 200  # bytes; a name may have 255 on every common file system, and carries the column too
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def folder(names: Sequence[str], values: PartitionValues) -> str:
    """The relative folder of these partition values, with `/` between parts; empty without partitions."""
    return "/".join(f"{name}={_spell(value)}" for name, value in zip(names, values, strict=True))


def split(rows: pl.DataFrame, names: Sequence[str]) -> Iterator[tuple[PartitionValues, pl.DataFrame]]:
    """The rows of each partition, in order of first appearance; the rows keep all columns and their order."""
    if not names:
        yield (), rows
        return
    keys = rows.select(names).unique(maintain_order=True).select(pl.all().cast(pl.String))
    yield from zip(keys.iter_rows(), rows.partition_by(names, maintain_order=True), strict=True)


def check_names(names: Sequence[str]) -> None:
    """PlanError for a column name that readers would not get back from the path."""
    if strange := [name for name in names if not isinstance(name, str)]:
        raise PlanError(
            f"partition_by names columns of the output, and {strange[0]!r} is none. Compute it in with_columns(...) "
            'and write its name, partition_by="day"'
        )
    if len(set(names)) != len(names):
        raise PlanError(f"partition_by={list(names)} names a column twice. Name each once")
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):
            raise PlanError(
                f"partition_by={name!r} cannot be a folder: readers take a column's name from the folder as it stands, "
                "so it must be letters, digits and _ . - and start with a letter or digit. Rename the column"
            )


def check_types(names: Sequence[str], schema: pl.Schema) -> None:
    """PlanError for a partition column that is not there, or whose values have no exact text."""
    for name in names:
        if name not in schema:
            raise PlanError(
                f"partition_by={name!r} is not a column of the output{nearest(name, list(schema))}; "
                f"columns: {list(schema)}"
            )
        if not _has_exact_text(schema[name]):
            raise PlanError(
                f"partition_by={name!r} has type {schema[name]}, whose values have no exact text in a path. "
                "Derive a column of text, integer, boolean, date or datetime without zone, and partition by that"
            )
    if names and len(names) == len(schema):
        raise PlanError(f"partition_by={list(names)} leaves no column for the files. Partition by fewer columns")


def _has_exact_text(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.Datetime):
        return dtype.time_zone is None
    return dtype.is_integer() or isinstance(dtype, pl.String | pl.Boolean | pl.Date | pl.Categorical | pl.Enum)


def _spell(value: str | None) -> str:
    if value is None:
        return _NULL
    if value in (".", ".."):
        return value.replace(".", "%2E")
    spelled = _quote(value)
    if len(spelled) <= _LONGEST and value != _NULL:
        return spelled
    start = value.encode()[:50].decode(errors="ignore")  # cut between characters: readers decode the escapes
    return f"{_quote(start)}~{digest(value.encode())}"


def _quote(value: str) -> str:
    return quote(value, safe="").replace("~", "%7E")
