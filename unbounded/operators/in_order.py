"""How do rows come out in the order of their times? They wait until the watermark says that nothing earlier comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from unbounded.lineage import clocks
from unbounded.operators import Batch, Change, closing_instant
from unbounded.operators.answer import Answer
from unbounded.plan import InOrder
from unbounded.state import Table, TableSpec

__all__ = ["InOrderOperator"]

_EXPIRY: Final = "__expiry__"
_ROW: Final = "__row__"
_ROWS_OF_A_BATCH: Final = 2**32  # more than a frame can have; leaves room in an Int64 for two billion batches


class InOrderOperator:
    """An `InOrder`: over all batches, rows come out sorted by its keys; rows of equal keys in order of arrival."""

    ordered = True
    evicts = True
    grows = None

    def __init__(self, id: str, node: InOrder) -> None:
        self.id, self._node = id, node
        time = node.keys[0]
        self._clocks = {time: clocks(node.input)[time]}
        self._waiting = TableSpec(
            key=pl.Schema({_ROW: pl.Int64()}),
            values=pl.Schema({**node.schema, _EXPIRY: pl.Int64()}),
            merge=tuple(pl.col(name).last() for name in (*node.schema, _EXPIRY)),
            expiry=_EXPIRY,
        )

    def tables(self) -> Mapping[str, TableSpec]:
        return {"waiting": self._waiting}

    @property
    def answer(self) -> Answer:
        return Answer("waiting", tuple(map(pl.col, self._node.schema)), order=(*self._node.keys, _ROW))

    def pinned(self) -> Mapping[str, Any]:
        columns = {name: str(dtype) for name, dtype in self._node.schema.items()}
        return {"kind": "in order", "keys": list(self._node.keys), "columns": columns}

    @property
    def late_schema(self) -> pl.Schema:
        return self._node.schema

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame | None:
        return rows.filter(closing_instant(self._clocks, self._node.schema) <= batch.late)

    def prepare(self, rows: pl.LazyFrame, tables: Mapping[str, Table], batch: Batch) -> pl.LazyFrame:
        return rows.with_columns(closing_instant(self._clocks, self._node.schema).alias(_EXPIRY))

    def step(self, rows: pl.DataFrame, tables: Mapping[str, Table], batch: Batch) -> Change:
        timed = rows.filter(pl.col(_EXPIRY).is_not_null())
        in_time = timed if batch.late is None else timed.filter(pl.col(_EXPIRY) > batch.late)
        first = pl.lit(batch.id * _ROWS_OF_A_BATCH, pl.Int64)
        tables["waiting"].insert(in_time.with_columns((pl.int_range(pl.len(), dtype=pl.Int64) + first).alias(_ROW)))
        due = pl.DataFrame(schema={**self._waiting.key, **self._waiting.values})
        if batch.watermark is not None:
            due = tables["waiting"].expire(batch.watermark)
        return Change(
            rows=due.lazy().sort(*self._node.keys, _ROW).select(*self._node.schema),
            taken=rows.height,
            updated=in_time.height,
            evicted=due.height,
            late=timed.height - in_time.height,
            without_time=rows.height - timed.height,
        )

    def explain(self) -> Mapping[str, str]:
        time = repr(self._node.keys[0])
        return {
            "state": "bounded by the watermark: the rows that wait",
            "kept": f"until the watermark reaches {time}, when no earlier row can come; then emitted and forgotten",
            "late": f"rows whose {time} the watermark of the batch before had reached",
            "null": f"rows whose {time} is null",
        }
