"""How does a test feed a query by hand?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from unbounded.connectors import Offset
from unbounded.errors import PlanError, SchemaMismatchError, SourceDataLostError

__all__ = ["MemorySource", "Rows"]

Rows: TypeAlias = pl.DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A frame, a list of rows, or a dict of columns."""


class MemorySource:
    """A table that grows by `add`; for tests and for trying things out.

    An offset is the number of additions. Rows are kept, so the same object can be read again after a
    restart of the query; not after a restart of the process.

    >>> feed = MemorySource({"word": pl.String})
    >>> feed.add([{"word": "owl"}, {"word": "cat"}])
    >>> feed.add({"word": ["dog"]})
    >>> feed.read(1, 2).collect()["word"].to_list()
    ['dog']
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = pl.Schema(schema)
        if not self._schema:
            raise PlanError('MemorySource needs columns: MemorySource({"time": pl.Datetime("us"), "value": pl.Int64})')
        self._added: list[pl.DataFrame] = []

    def add(self, rows: Rows) -> None:
        """Let the table grow. SchemaMismatchError, and nothing added, unless the rows fit the schema exactly.

        Columns may come in any order, and a column of nulls fits every type; in a list of rows a missing key is null.
        """
        match rows:
            case pl.DataFrame():
                frame = rows
            case Mapping():
                frame = self._from_columns(rows)
            case _:
                frame = self._from_rows(rows)
        self._added.append(self._fitting(frame))

    def _from_rows(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        unknown = {key: None for row in rows for key in row if key not in self._schema}
        if unknown:
            raise self._mismatch(f"key {next(iter(unknown))!r} is not expected")
        # By columns, since Polars cuts 1.5 to 1 where it builds whole rows.
        return self._from_columns({name: [row.get(name) for row in rows] for name in self._schema})

    def _from_columns(self, columns: Mapping[str, Any]) -> pl.DataFrame:
        known = {name: kind for name, kind in self._schema.items() if name in columns}
        try:
            return pl.DataFrame(dict(columns), schema_overrides=known, strict=True)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise self._mismatch(str(error).splitlines()[0]) from error

    def _fitting(self, frame: pl.DataFrame) -> pl.DataFrame:
        missing = [f"column {name!r} is missing" for name in self._schema if name not in frame.schema]
        extra = [f"column {name!r} is not expected" for name in frame.schema if name not in self._schema]
        other = [
            f"column {name!r} is {kind}, expected {self._schema[name]}"
            for name, kind in frame.schema.items()
            if name in self._schema and kind not in (self._schema[name], pl.Null)
        ]
        if missing or extra or other:
            raise self._mismatch("; ".join(missing + other + extra))
        return frame.select(self._schema.names()).cast(self._schema)

    def _mismatch(self, how: str) -> SchemaMismatchError:
        return SchemaMismatchError(
            f"the rows do not fit {dict(self._schema)}: {how}. Nothing was added; cast them first"
        )

    @property
    def schema(self) -> pl.Schema:
        return self._schema

    @property
    def default_name(self) -> str:
        return "memory"

    @property
    def description(self) -> str:
        return "memory"

    def end(self) -> Offset | None:
        return len(self._added) or None

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        self._check_kept(since or 0)
        until = len(self._added) if end is None else end
        return until if until > (since or 0) else None

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        self._check_kept(until)
        return pl.concat([self._schema.to_frame(), *self._added[since or 0 : until]]).lazy()

    def acknowledge(self, until: Offset) -> None:
        """Rows are kept: another query may read them."""

    def _check_kept(self, until: int) -> None:
        if until > len(self._added):
            raise SourceDataLostError(
                f"the checkpoint was made after addition {until} to a memory source, but this one has "
                f"{len(self._added)}. What is in memory dies with its process: use the same MemorySource, or "
                "a new checkpoint"
            )
