"""How does a row know how many came before it? By one number, counted over all batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from unbounded.errors import PlanError
from unbounded.operators import Batch, Change
from unbounded.operators.answer import Answer
from unbounded.plan import Positioned
from unbounded.state import Table, TableSpec

__all__ = ["PositionedOperator"]

_ROWS: Final = "__rows__"
_LARGEST_INDEX: Final = 2**32 - 1  # of the dtype that Polars gives to a row index


class PositionedOperator:
    """A `Positioned`: rows are counted in the order of the sources' batches, and come out at once, for good."""

    ordered = True
    evicts = False
    grows = None

    def __init__(self, id: str, node: Positioned) -> None:
        self.id, self._node = id, node
        self._offset = int(node.options["offset"])

    def tables(self) -> Mapping[str, TableSpec]:
        one = pl.Schema({_ROWS: pl.Int64()})
        return {"rows": TableSpec(key=pl.Schema(), values=one, merge=(pl.col(_ROWS).sum(),), expiry=None)}

    @property
    def answer(self) -> Answer:
        return Answer("rows", (pl.col(_ROWS).alias("rows"),))

    def pinned(self) -> Mapping[str, Any]:
        # The count ends at the limit: raised later, it would pass over the rows between.
        return {"kind": self._node.verb, **{name: str(value) for name, value in self._node.options.items()}}

    def prepare(self, rows: pl.LazyFrame, tables: Mapping[str, Table], batch: Batch) -> pl.LazyFrame:
        end = self._end
        return rows if end is None else rows.head(max(end - _before(tables), 0))

    @property
    def _end(self) -> int | None:
        """The number of rows after which nothing comes out any more."""
        length = self._node.options.get("length")
        return None if self._node.verb != "slice" or length is None else self._offset + int(length)

    def step(self, rows: pl.DataFrame, tables: Mapping[str, Table], batch: Batch) -> Change:
        before = _before(tables)
        if rows.height:
            tables["rows"].merge(pl.DataFrame({_ROWS: [rows.height]}, schema={_ROWS: pl.Int64}))
        return Change(rows=self._placed(rows.lazy(), before, rows.height), taken=rows.height, updated=rows.height)

    def _placed(self, rows: pl.LazyFrame, before: int, count: int) -> pl.LazyFrame:
        """The verb over the rows of one batch, of which `before` are the earlier ones."""
        match self._node.verb:
            case "slice":
                return rows.slice(max(self._offset - before, 0))
            case "gather_every":
                n = int(self._node.options["n"])
                ahead = self._offset - before
                return rows.gather_every(n, ahead if ahead >= 0 else ahead % n)
        if self._offset + before + count > _LARGEST_INDEX:
            raise PlanError(
                f"with_row_index(): more than {_LARGEST_INDEX:,} rows have come, which a UInt32 cannot number. "
                "Number them in the source, or key them by columns of their own"
            )
        return rows.with_row_index(self._node.options["name"], self._offset + before)

    def explain(self) -> Mapping[str, str]:
        return {"state": "one number: the rows so far", "kept": "over the whole life of the query, to go on counting"}


def _before(tables: Mapping[str, Table]) -> int:
    """How many rows came in earlier batches."""
    return int(tables["rows"].scan()[_ROWS].sum())
