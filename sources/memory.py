"""How does a test feed a query by hand?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from unbounded.connectors import Offset
from unbounded.errors import PlanError, SourceDataLostError
from unbounded.sources.rows import Rows, fitting, schema_of

__all__ = ["MemorySource"]


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
        self._schema = schema_of(schema)
        if not self._schema:
            raise PlanError('MemorySource needs columns: MemorySource({"time": pl.Datetime("us"), "value": pl.Int64})')
        self._added: list[pl.DataFrame] = []

    def add(self, rows: Rows) -> None:
        """Let the table grow. SchemaMismatchError, and nothing added, unless the rows fit the schema exactly.

        Columns may come in any order, and a column of nulls fits every type; in a list of rows a missing key is null.
        """
        self._added.append(fitting(rows, self._schema))

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
