"""How a node is kept up to date: what an operator gets, and what it gives.

An operator is a function of its inputs, its tables and the batch, and of nothing else. Clock, files
and threads live in the loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import polars as pl

from unbounded.plan.lineage import Clock
from unbounded.plan.windows import shifted
from unbounded.state import Home, Multimap, MultimapSpec, Table, TableSpec

if TYPE_CHECKING:  # an answer reads the values of groups, which lie in Tables
    from unbounded.operators.answer import Answer

__all__ = [
    "FINAL",
    "Batch",
    "Change",
    "Operator",
    "Remembers",
    "Tables",
    "TellsLate",
    "at_least_milliseconds",
    "at_most_milliseconds",
    "came_late",
    "closing_instant",
]

FINAL: Final = 2**63 - 1
"""The watermark of an input that was declared ended: later than any time."""

_ROWS_OF_A_BATCH: Final = 2**32  # more than a frame can have; leaves room in an Int64 for two billion batches


@dataclass(frozen=True)
class Batch:
    """What the intent fixed, so that a batch run twice decides the same.

    `late` and `watermark` are epoch milliseconds, None before the first event time: what is not above
    `late` came too late, what is not above `watermark` is final.
    """

    id: int
    time: datetime
    late: int | None
    watermark: int | None

    @property
    def first_row(self) -> int:
        """The number of its first row, where rows are numbered over all batches as they come."""
        return self.id * _ROWS_OF_A_BATCH


@dataclass(frozen=True)
class Change:
    """What a batch did to an operator: `rows` are final (append) or replace the rows of their keys."""

    rows: pl.LazyFrame
    taken: int = 0
    """Input rows, late ones and those without a time included; a row in two windows is two."""
    updated: int = 0
    """Rows of its tables that are new or have changed."""
    evicted: int = 0
    """Rows that the watermark let go."""
    late: int = 0
    """Input rows that came too late, and were left out."""
    without_time: int = 0
    """Input rows whose event time is null; a join still shows those that come out without a partner."""
    seen: int | None = None
    """The newest event time among the rows, in ms, where the operator is asked to note it."""
    left: pl.DataFrame | None = None
    """Keys, under the names of the node, whose rows left the table; None where none did."""


class Tables(dict[str, Table]):
    """What operators remember: tables by name, and `multimaps` by name beside them."""

    def __init__(self, tables: Mapping[str, Table], multimaps: Mapping[str, Multimap]) -> None:
        super().__init__(tables)
        self.multimaps = multimaps

    @staticmethod
    def declared(home: Home, specs: Mapping[str, TableSpec | MultimapSpec]) -> Tables:
        """Declare all of these at a home."""
        return Tables(
            {name: home.table(name, spec) for name, spec in specs.items() if isinstance(spec, TableSpec)},
            {name: home.multimap(name, spec) for name, spec in specs.items() if isinstance(spec, MultimapSpec)},
        )

    def of(self, operator: Remembers) -> Tables:
        """Those of one operator, by the names that it gave."""
        names = {f"{operator.id}/{name}": name for name in operator.tables()}
        return Tables(
            {name: self[full] for full, name in names.items() if full in self},
            {name: self.multimaps[full] for full, name in names.items() if full in self.multimaps},
        )

    def rows(self, name: str) -> pl.DataFrame:
        """Every row of a table or a multimap."""
        return (self[name] if name in self else self.multimaps[name]).scan()


class Remembers(Protocol):
    """What is asked of every operator, however many inputs it has."""

    id: str

    @property
    def ordered(self) -> bool:
        """Whether the order of rows within a batch matters."""

    @property
    def evicts(self) -> bool:
        """Whether an advanced watermark alone is worth a batch without rows."""

    def tables(self) -> Mapping[str, TableSpec | MultimapSpec]:
        """What it remembers; names are unique within the operator."""

    @property
    def answer(self) -> Answer:
        """What a reader of its state sees."""

    def pinned(self) -> Mapping[str, Any]:
        """What must not change over a restart, as JSON that people can compare."""

    @property
    def grows(self) -> str | None:
        """Why nothing bounds what it remembers, and what would; None where something does."""

    def explain(self) -> Mapping[str, str]:
        """For people: its `key`, its `state` (bounded, or growing, by what), how long that is `kept`, and why.

        And which rows it drops: those that are `late`, and those that it can do nothing with, for their time is `null`;
        each is missing where there are none.
        """


class Operator(Remembers, Protocol):
    """A node of one input that must remember."""

    def prepare(self, rows: pl.LazyFrame, tables: Tables, batch: Batch) -> pl.LazyFrame:
        """What to collect of the rows; one plan with everything below it. The tables are only looked at."""

    def step(self, rows: pl.DataFrame, tables: Tables, batch: Batch) -> Change:
        """Take the prepared rows of one batch into the tables."""


@runtime_checkable
class TellsLate(Protocol):
    """An operator, or one side of it, that leaves out late rows, and can say which."""

    id: str
    """Of the operator, and of the side behind a slash."""

    @property
    def late_schema(self) -> pl.Schema:
        """The columns of these rows but for `LABEL`."""

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame | None:
        """Of the rows that `prepare` is given those that are late, once for each window in `LABEL`, if it has windows.

        As many as the step says; None if it leaves none out. Asked only where there is a watermark to be late behind.
        """


def closing_instant(clocks: Mapping[str, Clock], schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """When the first of these columns says that a row is final, in epoch ms on the query's own watermark."""
    instants = []
    for name, clock in clocks.items():
        end = pl.col(name) if clock.lasts is None else shifted(pl.col(name), clock.lasts, schema[name])
        instants.append(at_least_milliseconds(end, schema[name]) + clock.behind)
    return pl.min_horizontal(instants)


def came_late(clocks: Mapping[str, Clock], schema: Mapping[str, pl.DataType], batch: Batch) -> pl.Expr:
    """Whether a row came too late, as the watermark of the batch before says; never null: without a time it did not."""
    if not clocks or batch.late is None:
        return pl.lit(value=False)
    return (closing_instant(clocks, schema) <= batch.late).fill_null(value=False)


def at_least_milliseconds(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Epoch milliseconds, rounded up: t <= w holds exactly when this holds for a w in whole milliseconds."""
    return -(-_ticks(time, dtype) // _ticks_per_millisecond(dtype))


def at_most_milliseconds(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Epoch milliseconds, cut off, as a watermark counts event time."""
    return _ticks(time, dtype) // _ticks_per_millisecond(dtype)


def _ticks(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return time.cast(pl.Datetime("ms")).to_physical() if dtype == pl.Date else time.to_physical()


def _ticks_per_millisecond(dtype: pl.DataType) -> int:
    unit = getattr(dtype, "time_unit", "ms")
    return {"ms": 1, "us": 1_000, "ns": 1_000_000}[unit]
