"""When is a bounded table beside a stream read, and read again?"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from unbounded.durations import milliseconds
from unbounded.errors import PlanError, SchemaMismatchError
from unbounded.plan import Join, Static

if TYPE_CHECKING:
    from unbounded.operators.meeting import Meeting

__all__ = ["BoundedTables"]


class BoundedTables:
    """The bounded tables of a query as they were when they were last read: all of them at once.

    `reread` is None for one reading at each start, "batch" for one before every batch, or how old a reading may be.
    The clock of that is the time of the batches. A batch that is run again after a crash sees the tables as they are
    then. An exactly-once sink has none of its rows yet, so nobody notices; foreach_batch may be given other rows.

    Raises PlanError if there is nothing to read again.
    """

    def __init__(self, nodes: Iterable[Static], reread: str | timedelta | None) -> None:
        self._nodes = list(nodes)
        self._longest = None if reread is None else _longest(reread)
        if self._longest is not None and not self._nodes:
            raise PlanError(
                f"reread_bounded={reread!r} reads the bounded side of a join again, and the query has none. Leave it "
                "out, or join with a pl.LazyFrame"
            )
        self._tables: dict[int, pl.DataFrame] = {}
        self._meetings: dict[int, Meeting] = {}
        self._read: datetime | None = None

    def read(self, clock: Callable[[], datetime]) -> None:
        """Read all tables, noting when if they are to be read again.

        SchemaMismatchError if one has other columns than when the query was written.
        """
        for node in self._nodes:
            table = self._anew(node).collect()
            if table.schema != node.schema:
                raise SchemaMismatchError(
                    f"a bounded table beside the stream has the columns {table.schema} where {node.schema} were found "
                    "when the query was written. Restore them, or start the query anew from its frame"
                )
            self._tables[id(node)] = table
        self._meetings = {}
        if self._longest is not None:
            self._read = clock()

    def _anew(self, node: Static) -> pl.LazyFrame:
        """The same plan, without what Polars noted of its files when it first looked: names, footers, columns.

        Measured: a frame collected again after its file changed misses rows, fails or panics.
        """
        if node.is_fixed:
            return node.table
        try:
            return pl.LazyFrame.deserialize(io.BytesIO(node.table.serialize()))
        except pl.exceptions.ComputeError:
            if self._longest is None:
                return node.table
            raise PlanError(
                "reread_bounded= reads a bounded table anew from a copy of its plan, and a Python function or source "
                "in it cannot be copied. Write it with Polars' own expressions and scans, or install cloudpickle"
            ) from None

    def refresh(self, now: datetime) -> None:
        """Read all tables again before a batch of this time, if they are due."""
        if self._longest is not None and (self._read is None or now - self._read >= self._longest):
            self.read(lambda: now)

    def __getitem__(self, node: Static) -> pl.LazyFrame:
        return self._tables[id(node)].lazy()

    def meeting(self, node: Join, batch_rows: int) -> Meeting | None:
        """The table of a join, hashed once per reading; None if it is not so large that a batch should look keys up."""
        from unbounded.operators.meeting import Meeting, may_meet  # noqa: PLC0415  # numpy, as in the manager

        table = self._tables[id(node.right)]
        if id(node) not in self._meetings and may_meet(node, table, batch_rows):
            self._meetings[id(node)] = Meeting(node, table)
        return self._meetings.get(id(node))

    def explain(self) -> list[str]:
        """A line that says when tables are read again, if they are."""
        if self._longest is None:
            return []
        due = f"when they are {self._longest} old" if self._longest else "before every batch"
        return [f"bounded tables: read again {due}"]


def _longest(reread: str | timedelta) -> timedelta:
    if reread == "batch":
        return timedelta(0)
    try:
        return timedelta(milliseconds=milliseconds(reread, "reread_bounded"))
    except PlanError as error:
        raise PlanError(f'{error.message}; or write reread_bounded="batch"') from None
