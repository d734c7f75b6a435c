"""How are the best few, or the last few, of all rows kept up to date? As rows by place, replaced by better ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from unbounded.expressions import canonical
from unbounded.operators import Batch, Change
from unbounded.operators.answer import Answer
from unbounded.plan import Keep
from unbounded.state import Table, TableSpec

__all__ = ["KeepOperator"]

_PLACE: Final = "__place__"


class KeepOperator:
    """A `Keep` in complete mode: every batch shows all the rows kept, in Polars' order."""

    evicts = False
    grows = None

    def __init__(self, id: str, node: Keep) -> None:
        self.id, self._node = id, node

    @property
    def ordered(self) -> bool:
        return self._node.verb == "tail"

    def tables(self) -> Mapping[str, TableSpec]:
        kept = TableSpec(
            key=pl.Schema({_PLACE: pl.UInt32()}),
            values=self._node.schema,
            merge=tuple(pl.col(name).last() for name in self._node.schema),
            expiry=None,
        )
        return {"kept": kept}

    @property
    def answer(self) -> Answer:
        return Answer("kept", tuple(map(pl.col, self._node.schema)), order=(_PLACE,))

    def pinned(self) -> Mapping[str, Any]:
        columns = {name: str(dtype) for name, dtype in self._node.schema.items()}
        options = {name: _text(value) for name, value in self._node.options.items()}
        return {"kind": self._node.verb, "columns": columns, **options}

    def prepare(self, rows: pl.LazyFrame, tables: Mapping[str, Table], batch: Batch) -> pl.LazyFrame:
        """The best of this batch: none of its other rows can be among the best of all."""
        return self._node.apply(rows)

    def step(self, rows: pl.DataFrame, tables: Mapping[str, Table], batch: Batch) -> Change:
        table = tables["kept"]
        before = table.scan().sort(_PLACE).drop(_PLACE)
        kept = self._node.apply(pl.concat([before, rows]).lazy()).collect(engine="in-memory")
        if rows.height and not kept.equals(before):
            # The number of rows never falls, unless the limit of a restarted query did.
            gone = range(kept.height, before.height)
            table.remove(pl.DataFrame({_PLACE: gone}, schema={_PLACE: pl.UInt32}))
            table.merge(kept.with_row_index(_PLACE))
        return Change(rows=kept.lazy(), taken=rows.height, updated=rows.height)

    def explain(self) -> Mapping[str, str]:
        others = "later" if self._node.verb == "tail" else "better"
        most = self._node.options.get("k", self._node.options.get("n"))
        return {"state": f"the rows of the answer, {most} at most", "kept": f"until {others} ones take their place"}


def _text(value: object) -> str:
    if isinstance(value, pl.Expr):
        return canonical(value)
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
