"""What is asked of groups: the verbs behind `group_by`, and `pivot`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import product
from typing import Any, Generic, Self, TypeAlias, TypeVar

import polars as pl
from polars._typing import IntoExpr, QuantileMethod

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import expand
from unbounded.expressions.trees import Tree, expression, rewrite, tree_of
from unbounded.plan import HAVING, Aggregate, Node, Static, Step
from unbounded.plan.sessions import Sessions, session_column, session_gap
from unbounded.plan.windows import LABEL
from unbounded.spark.names import NamesOfGroups
from unbounded.verbs.refusals import REFUSED_OF_GROUPS, refusal

__all__ = ["StreamGroupBy", "pivoted", "sessions_of"]

FrameT = TypeVar("FrameT")
Grouped: TypeAlias = Callable[[Node, tuple[pl.Expr, ...], tuple[pl.Expr, ...]], Node]
"""Makes the aggregate of a plan by keys, of groups or around rows; PlanError, where written, for what cannot be."""


def _groups(plan: Node, keys: tuple[pl.Expr, ...], aggregates: tuple[pl.Expr, ...]) -> Aggregate:
    node = Aggregate(plan, keys, aggregates)
    node.cut  # noqa: B018  # refuses what cannot be kept
    return node


class StreamGroupBy(NamesOfGroups, Generic[FrameT]):
    """A grouped frame: say what to aggregate. `label` names the window column in the answer."""

    def __init__(
        self,
        plan: Node,
        keys: tuple[pl.Expr, ...],
        frame: Callable[[Node], FrameT],
        *,
        label: str | None = None,
        having: tuple[pl.Expr, ...] = (),
        grouped: Grouped = _groups,
    ) -> None:
        self._plan, self._keys, self._frame, self._label, self._having = plan, keys, frame, label, having
        self._grouped = grouped

    def having(self, *predicates: IntoExpr | Iterable[IntoExpr]) -> Self:
        """Keep the groups for which aggregated predicates are true; in update mode others leave the sink's table."""
        found = expand(self._plan.schema, predicates, {}, unnamed=True)
        having = (*self._having, *found)
        return type(self)(self._plan, self._keys, self._frame, label=self._label, having=having, grouped=self._grouped)

    def agg(self, *aggs: IntoExpr | Iterable[IntoExpr], **named_aggs: IntoExpr) -> FrameT:
        """One row per group: the keys, then any expressions over aggregates of the other columns."""
        return self._frame(self._aggregated(aggs, named_aggs))

    def _aggregated(self, aggs: Iterable[Any], named_aggs: dict[str, Any]) -> Node:
        found = self._expanded(aggs, named_aggs)
        wanted = (pl.all_horizontal(self._having).alias(HAVING),) if self._having else ()
        answer: Node = self._grouped(self._plan, self._keys, (*found, *wanted))
        if self._having:
            answer = Step(answer, "filter", (pl.col(HAVING),))
            answer = Step(answer, "select", tuple(pl.col(name) for name in answer.schema if name != HAVING))
        if self._label is not None:
            answer = Step(answer, "rename", options={"mapping": {LABEL: self._label}, "strict": True})
        return answer

    def _expanded(self, aggs: Iterable[Any], named_aggs: dict[str, Any]) -> tuple[pl.Expr, ...]:
        taken = {key.meta.output_name() for key in self._keys} | ({self._label} if self._label else set())
        return expand(self._plan.schema, aggs, named_aggs, without=taken)

    def len(self, name: str | None = None) -> FrameT:
        """The number of rows per group, in the column `name` ("len")."""
        return self.agg(pl.len().alias(name or "len"))

    def sum(self) -> FrameT:
        """The sum of every other column per group."""
        return self.agg(pl.all().sum())

    def mean(self) -> FrameT:
        """The mean of every other column per group."""
        return self.agg(pl.all().mean())

    def min(self) -> FrameT:
        """The least value of every other column per group."""
        return self.agg(pl.all().min())

    def max(self) -> FrameT:
        """The greatest value of every other column per group."""
        return self.agg(pl.all().max())

    def n_unique(self) -> FrameT:
        """The number of distinct values of every other column per group."""
        return self.agg(pl.all().n_unique())

    def first(self, *, ignore_nulls: bool = False) -> FrameT:
        """The first value of every other column per group, in order of arrival."""
        return self.agg(pl.all().first(ignore_nulls=ignore_nulls))

    def last(self, *, ignore_nulls: bool = False) -> FrameT:
        """The last value of every other column per group, in order of arrival."""
        return self.agg(pl.all().last(ignore_nulls=ignore_nulls))

    def all(self) -> FrameT:
        """Every other column per group as a list, in order of arrival."""
        return self.agg(pl.all())

    def median(self) -> FrameT:
        """The median of every other column per group."""
        return self.agg(pl.all().median())

    def quantile(self, quantile: float, interpolation: QuantileMethod = "nearest") -> FrameT:
        """A quantile of every other column per group."""
        return self.agg(pl.all().quantile(quantile, interpolation))

    def head(self, n: int = 5) -> FrameT:
        """The first `n` rows per group, in order of arrival, one behind another."""
        return self.first() if n == 1 else self._rows(pl.all().head(n))

    def tail(self, n: int = 5) -> FrameT:
        """The last `n` rows per group, in order of arrival, one behind another."""
        return self.last() if n == 1 else self._rows(pl.all().tail(n))

    def _rows(self, lists: pl.Expr) -> FrameT:
        others = [one.meta.output_name() for one in self._expanded([lists], {})]
        if not others:
            raise PlanError("head() and tail() of groups need a column beside the keys. Write agg(pl.len())")
        answer = self._aggregated([lists], {})
        return self._frame(Step(answer, "explode", options={"columns": others}))


for _name in REFUSED_OF_GROUPS:
    setattr(StreamGroupBy, _name, refusal(_name, REFUSED_OF_GROUPS))


def sessions_of(
    plan: Node,
    frame: Callable[[Node], FrameT],
    index_column: str | pl.Expr,
    *,
    gap: str | timedelta | pl.Expr,
    boundaries: bool,
    by: tuple[pl.Expr, ...],
) -> StreamGroupBy[FrameT]:
    """The groups of `ub.group_by_session`. PlanError for arguments that have no meaning."""
    column = session_column(plan, index_column, boundaries=boundaries)
    length = session_gap(plan, column, gap)

    def grouped(plan: Node, keys: tuple[pl.Expr, ...], aggregates: tuple[pl.Expr, ...]) -> Aggregate:
        node = Sessions(plan, keys, aggregates, column, length, boundaries)
        if not isinstance(plan, Static):  # of a bounded table Polars computes any aggregate
            node.cut  # noqa: B018  # refuses what cannot be kept
        return node

    return StreamGroupBy(plan, by, frame, label=column, grouped=grouped)


def pivoted(plan: Node, asked: dict[str, Any]) -> Node:
    """The aggregate that `pl.LazyFrame.pivot` with these arguments is: one row per value of the index columns."""
    if asked["aggregate_function"] is None:
        raise UnsupportedOperationError(
            "pivot(aggregate_function=None)",
            because="a second value for a cell may come in any batch, where Polars would raise",
            instead='aggregate_function="first", "last", "sum", ... or an expression of pl.element()',
        )
    if asked["maintain_order"]:
        raise UnsupportedOperationError(
            "pivot(maintain_order=True)",
            because="rows of the answer come out when they change or close",
            instead="sort the answer: query.read().sort(...)",
        )
    rows = pl.LazyFrame(schema=plan.schema)
    names = rows.pivot(**asked).collect_schema().names()  # Polars' own errors, and its names
    given = asked["on_columns"]
    cells = given if isinstance(given, pl.DataFrame) else pl.Series(values=given).to_frame()
    on, index, values = (
        rows.select(asked[name]).collect_schema().names() if asked[name] is not None else []
        for name in ("on", "index", "values")
    )
    if not values:
        values = [name for name in plan.schema if name not in (*on, *index)]
    if not index:
        index = [name for name in plan.schema if name not in (*on, *values)]
    function = _function_of(asked["aggregate_function"])
    aggregates = []
    for value, cell in product(values, cells.rows()):
        matches = (pl.col(name).eq_missing(pl.lit(one, plan.schema[name])) for name, one in zip(on, cell, strict=True))
        aggregates.append(_over(function, pl.col(value).filter(pl.all_horizontal(matches))))
    named = tuple(one.alias(name) for one, name in zip(aggregates, names[len(index) :], strict=True))
    return _groups(plan, tuple(map(pl.col, index)), named)


def _function_of(asked: str | pl.Expr) -> pl.Expr:
    """The aggregate of a cell over `pl.element()`; Polars has checked the word."""
    return asked if isinstance(asked, pl.Expr) else getattr(pl.element(), asked)()


def _over(function: pl.Expr, values: pl.Expr) -> pl.Expr:
    """The function with `values` in the place of `pl.element()`."""
    there = tree_of(values)

    def placed(tree: Tree) -> Tree:
        return there if tree == "Element" else rewrite(tree, placed)

    return expression(placed(tree_of(function)))
