"""What is one aggregate of a query, and which columns of state hold its partial answer?

State dtypes are wider than Polars' results: counts are Int64, sums of floats are Float64. The value is
cast strictly to the dtype that Polars gives, so that a count beyond it is an error and never wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

__all__ = ["Aggregated", "Distinct", "Leaf", "StateColumn", "StateColumns"]


@dataclass(frozen=True, eq=False)
class Distinct:
    """The number of distinct values of `value` per key, counted in a store of its own into the column `name`.

    `value` may filter, so evaluate it where an aggregate stands: `group_by(key).agg(value.unique())`.
    """

    name: str
    value: pl.Expr


@dataclass(frozen=True, eq=False)
class StateColumn:
    """One column of state; `text` says what it holds, equal over restarts; without a partial it is a `Distinct`."""

    name: str
    text: str
    partial: pl.Expr | None
    merge: pl.Expr
    ordered: bool


class StateColumns:
    """The state columns needed so far, over rows of `schema`; mutable, because aggregates share them.

    `whole` are the aggregates themselves, as Polars computes them over all rows.
    """

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self.schema = schema
        self.distinct: list[Distinct] = []
        self.whole: list[pl.Expr] = []
        self._columns: dict[str, StateColumn] = {}
        self._rows = pl.LazyFrame(schema=schema)

    def __iter__(self) -> Iterator[StateColumn]:
        return iter(self._columns.values())

    def column(
        self, text: str, partial: pl.Expr | None, merge: Callable[[pl.Expr], pl.Expr], *, ordered: bool = False
    ) -> pl.Expr:
        """The column that holds `text`, made on first use; `ordered` if the order of rows decides what it holds."""
        if text not in self._columns:
            name = f"__{len(self._columns)}"
            self._columns[text] = StateColumn(name, text, partial, merge(pl.col(name)), ordered)
        return pl.col(self._columns[text].name)

    def dtypes(self, exprs: Sequence[pl.Expr]) -> list[pl.DataType]:
        """What Polars makes of expressions over the rows."""
        named = [expr.alias(str(position)) for position, expr in enumerate(exprs)]
        return self._rows.select(named).collect_schema().dtypes()

    def held(self) -> pl.Schema:
        """The schema of the state."""
        counted = pl.lit(0, pl.Int64)
        dtypes = self.dtypes([counted if one.partial is None else one.partial for one in self])
        return pl.Schema(zip((one.name for one in self), dtypes, strict=True))


@dataclass(frozen=True)
class Aggregated:
    """What a node of an expression aggregates: `function` of `inputs`, which are trees, with its `options`."""

    function: str
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Leaf:
    """One aggregate: `function` of `inputs`, whose dtypes are `of` and whose canonical forms are `texts`.

    `rows` says which rows the inputs have: "" is all of them. `options` are those of the aggregate, such as ddof.
    `whole` is the aggregate itself; Polars makes `dtype` of it, or a list of that if it `is_list`: several values per
    group, in a list in `agg`, and as rows in `select`.
    """

    function: str
    whole: pl.Expr
    dtype: pl.DataType
    is_list: bool
    inputs: tuple[pl.Expr, ...]
    of: tuple[pl.DataType, ...]
    texts: tuple[str, ...]
    rows: str
    options: Mapping[str, Any]
