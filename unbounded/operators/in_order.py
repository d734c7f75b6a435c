"""How do rows come out in the order of their times? They wait until the watermark says that nothing earlier comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from unbounded.operators import Batch, Change, came_late, closing_instant
from unbounded.operators.answer import Answer
from unbounded.operators.waiting import DUE, ROW, numbered, waiting_table
from unbounded.plan import InOrder
from unbounded.plan.lineage import Clock, clocks
from unbounded.state import Table, TableSpec

__all__ = ["InOrderOperator", "Waiting"]


@dataclass(frozen=True)
class _InTime:
    """The rows of a batch that count, with what tells their order of arrival, and how many did not."""

    rows: pl.DataFrame
    late: int
    without_time: int


class Waiting:
    """Rows with the columns `schema` that come out when the watermark is `ahead` milliseconds past their time.

    They come out in the order of `keys`, of which the first is event time, and then of arrival.
    """

    def __init__(self, schema: Mapping[str, pl.DataType], keys: tuple[str, ...], clock: Clock, ahead: int = 0) -> None:
        self._schema, self._keys, self._ahead = pl.Schema(schema), keys, ahead
        self._clocks = {keys[0]: clock}
        self.instant = closing_instant(self._clocks, self._schema)
        """When the watermark has reached a row, in epoch ms."""
        self.spec = waiting_table(self._schema)

    @property
    def answer(self) -> Answer:
        """The rows that wait, in the order in which they are to come."""
        return Answer("waiting", tuple(map(pl.col, self._schema)), order=(*self._keys, ROW))

    def late(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame:
        """Those that came too late."""
        return rows.filter(came_late(self._clocks, self._schema, batch))

    def prepared(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """What to collect of rows."""
        return rows.select(*self._schema, (self.instant + self._ahead).alias(DUE))

    def take(self, rows: pl.DataFrame, table: Table, batch: Batch) -> _InTime:
        """Let prepared rows wait."""
        timed = rows.filter(pl.col(DUE).is_not_null())
        in_time = timed if batch.late is None else timed.filter(pl.col(DUE) > batch.late + self._ahead)
        in_time = numbered(in_time, batch)
        table.insert(in_time)
        return _InTime(in_time, late=timed.height - in_time.height, without_time=rows.height - timed.height)

    def due(self, table: Table, batch: Batch) -> pl.DataFrame:
        """The rows whose time has come, in order; they wait no longer."""
        if batch.watermark is None:
            return pl.DataFrame(schema={**self.spec.key, **self._schema})
        return table.expire(batch.watermark).drop(DUE).sort(*self._keys, ROW)


class InOrderOperator:
    """An `InOrder`: over all batches, rows come out sorted by its keys; rows of equal keys in order of arrival."""

    ordered = True
    evicts = True
    grows = None

    def __init__(self, id: str, node: InOrder) -> None:
        self.id, self._node = id, node
        self._waiting = Waiting(node.schema, node.keys, clocks(node.input)[node.keys[0]])

    def tables(self) -> Mapping[str, TableSpec]:
        return {"waiting": self._waiting.spec}

    @property
    def answer(self) -> Answer:
        return self._waiting.answer

    def pinned(self) -> Mapping[str, Any]:
        columns = {name: str(dtype) for name, dtype in self._node.schema.items()}
        return {"kind": "in order", "keys": list(self._node.keys), "columns": columns}

    @property
    def late_schema(self) -> pl.Schema:
        return self._node.schema

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame | None:
        return self._waiting.late(rows, batch)

    def prepare(self, rows: pl.LazyFrame, tables: Mapping[str, Table], batch: Batch) -> pl.LazyFrame:
        return self._waiting.prepared(rows)

    def step(self, rows: pl.DataFrame, tables: Mapping[str, Table], batch: Batch) -> Change:
        taken = self._waiting.take(rows, tables["waiting"], batch)
        due = self._waiting.due(tables["waiting"], batch)
        return Change(
            rows=due.lazy().select(*self._node.schema),
            taken=rows.height,
            updated=taken.rows.height,
            evicted=due.height,
            late=taken.late,
            without_time=taken.without_time,
        )

    def explain(self) -> Mapping[str, str]:
        time = repr(self._node.keys[0])
        return {
            "state": "bounded by the watermark: the rows that wait",
            "kept": f"until the watermark reaches {time}, when no earlier row can come; then emitted and forgotten",
            "late": f"rows whose {time} the watermark of the batch before had reached",
            "null": f"rows whose {time} is null",
        }
