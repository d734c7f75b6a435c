"""How are repeated rows left out: a set of the values seen, forgotten where a watermark says they cannot come again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from unbounded.durations import shortest
from unbounded.operators import Batch, Change, came_late, closing_instant
from unbounded.operators.answer import Answer
from unbounded.plan import Aggregate, Unique, walk
from unbounded.plan.asof import AsofJoin
from unbounded.plan.lineage import clocks
from unbounded.plan.pairs import StreamJoin
from unbounded.state import Table, TableSpec

__all__ = ["UniqueOperator"]

_EXPIRY, _LATE, _PLACE = "__expiry__", "__late__", "__place__"


class UniqueOperator:
    """A `Unique`. Its rows are final: one comes out when its value is first seen."""

    def __init__(self, id: str, node: Unique) -> None:
        self.id, self._node = id, node
        self._schema = node.schema
        below = clocks(node.input)
        timed = below if node.within is not None else {name: below[name] for name in node.subset if name in below}
        self._closing = timed
        # A row that is late is dropped also where its time does not tell rows apart, as in Spark.
        self._clocks = self._closing or below
        # Groups and pairs come out in no order. In that of their times, which come out together does not matter.
        waited = (Aggregate, StreamJoin, AsofJoin)
        self._in_time_order = node.within is not None and any(isinstance(one, waited) for one in walk(node.input))
        expiry = {_EXPIRY: pl.Int64()} if self._closing else {}
        self._seen = TableSpec(
            key=pl.Schema({name: self._schema[name] for name in node.subset}),
            values=pl.Schema(expiry),
            merge=tuple(pl.col(name).max() for name in expiry),
            expiry=_EXPIRY if self._closing else None,
        )

    @property
    def ordered(self) -> bool:
        return self._node.first

    @property
    def evicts(self) -> bool:
        return bool(self._clocks)  # a watermark that moved decides, too, which of the next rows are late

    @property
    def grows(self) -> str | None:
        if self._closing:
            return None
        by = ", ".join(map(repr, self._node.subset))
        return (
            f"unique() by {by} remembers every value for ever, since none of these columns has a watermark. Declare "
            'one, e.g. .pipe(ub.with_watermark, "time", "1h"), and put its column into subset'
        )

    def tables(self) -> Mapping[str, TableSpec]:
        return {"seen": self._seen}

    @property
    def answer(self) -> Answer:
        return Answer("seen", tuple(map(pl.col, self._seen.key)))

    def pinned(self) -> Mapping[str, Any]:
        kind = "unique" if self._node.within is None else "unique within watermark"
        return {"kind": kind, "keys": {name: str(dtype) for name, dtype in self._seen.key.items()}}

    @property
    def late_schema(self) -> pl.Schema:
        return self._schema

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame | None:
        if not self._clocks:
            return None
        return rows.filter(came_late(self._clocks, self._schema, batch))

    def prepare(self, rows: pl.LazyFrame, tables: Mapping[str, Table], batch: Batch) -> pl.LazyFrame:
        """All rows. Measured: which are the first of their value takes Polars half as long once they are there."""
        rows = rows.with_columns(came_late(self._clocks, self._schema, batch).alias(_LATE))
        if self._in_time_order:
            instant = closing_instant(self._clocks, self._schema)
            rows = rows.sort(instant, *self._clocks, nulls_last=True, maintain_order=True)
        return rows

    def step(self, rows: pl.DataFrame, tables: Mapping[str, Table], batch: Batch) -> Change:
        in_time = rows.filter(~rows[_LATE]) if rows[_LATE].any() else rows
        expiry = []
        if self._closing:
            expiry = [(closing_instant(self._closing, self._schema) + (self._node.within or 0)).alias(_EXPIRY)]
        seen = in_time.select(*self._seen.key, *expiry).with_row_index(_PLACE).unique([*self._seen.key], keep="first")
        new = tables["seen"].insert(seen.select(*self._seen.key, *self._seen.values, _PLACE))
        timeless = new.filter(pl.col(_EXPIRY).is_null()) if self._closing else new.clear()
        if self._node.within is not None and timeless.height:
            # No time says how long to remember them. As in Spark, that is not at all.
            tables["seen"].remove(timeless.select(*self._seen.key))
        gone = 0
        if self._closing and batch.watermark is not None:
            gone = tables["seen"].expire(batch.watermark).height
        first = pl.repeat(value=False, n=in_time.height, eager=True).scatter(new[_PLACE], values=True)
        return Change(
            # By a mask, since taking so many whole rows by their places costs five times as much.
            rows=in_time.filter(first).lazy().select(*self._schema),
            taken=rows.height,
            updated=new.height,
            evicted=gone,
            late=rows.height - in_time.height,
            without_time=timeless.height,
        )

    def explain(self) -> Mapping[str, str]:
        times, within = " or ".join(map(repr, self._clocks)), self._node.within
        kept = "for ever: no column of the key has a watermark"
        if within is not None:
            kept = (
                f"until the watermark reaches {times} of the first row + {shortest(within)}; without it for one batch"
            )
        elif self._closing:
            kept = (
                f"until the watermark reaches {times}, when no more of the value can come; where it is null, for ever"
            )
        state = "bounded by the watermark" if self._closing else "grows with the distinct values"
        lines = {
            "state": f"{state}: one row for each value",
            "key": ", ".join(map(repr, self._node.subset)),
            "kept": kept,
        }
        if within is not None:
            lines["means"] = f"unique() of all rows, where repeated ones come within {shortest(within)} of the first"
        if self._clocks:
            lines["late"] = f"rows whose {times} the watermark of the batch before had reached"
        return lines
