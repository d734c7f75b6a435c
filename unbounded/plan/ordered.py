"""What do steps mean that look at other rows in the order of event time, and which column tells that order?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn, TypeVar

import polars as pl

from unbounded.errors import UnsupportedOperationError
from unbounded.expressions import passes
from unbounded.expressions.looking import Along, looks_along_time, order_of, taken_apart
from unbounded.expressions.trees import expression, nodes, tree_of
from unbounded.plan import Node, Verb
from unbounded.plan.windows import LABEL, Closed

__all__ = ["Ordered", "Rolling", "kept", "ordered", "refuse_order"]


@dataclass(frozen=True, eq=False)
class Ordered(Verb):
    """`select`, `with_columns`, `filter` or `remove` that looks along `time`.

    A row without a time has no place there, and is left out.
    """

    time: str = field(kw_only=True)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return super().apply(_in_order(rows[0], self.time))

    @cached_property
    def along(self) -> Along:
        """How it is kept up to date. UnsupportedOperationError with every reason why it cannot be."""
        return taken_apart(f"{self.verb}()", self.exprs, self.input.schema, self.time)


@dataclass(frozen=True, eq=False)
class Rolling(Node):
    """For each row its keys, its time in `LABEL`, and aggregates over the rows of its keys in a window around it."""

    input: Node
    keys: tuple[pl.Expr, ...]
    aggregates: tuple[pl.Expr, ...]
    time: str
    period: str
    offset: str | None
    closed: Closed

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        by = self.keys or None
        windows = _in_order(rows[0], self.time).rolling(
            self.time, period=self.period, offset=self.offset, closed=self.closed, group_by=by
        )
        return windows.agg(self.aggregates).rename({self.time: LABEL})

    @cached_property
    def along(self) -> Along:
        """How it is kept up to date. UnsupportedOperationError with every reason why it cannot be."""
        columns = (*self.keys, pl.col(self.time).alias(LABEL), *map(self._around_each_row, self.aggregates))
        return taken_apart("rolling()", columns, self.input.schema, self.time)

    def _around_each_row(self, aggregate: pl.Expr) -> pl.Expr:
        rolled = aggregate.rolling(self.time, period=self.period, offset=self.offset, closed=self.closed)
        return rolled.over(self.keys) if self.keys else rolled


_Along = TypeVar("_Along", Ordered, Rolling)


def _in_order(rows: pl.LazyFrame, time: str) -> pl.LazyFrame:
    return rows.filter(pl.col(time).is_not_null()).sort(time, maintain_order=True)


def ordered(node: Node, verb: str, exprs: tuple[pl.Expr, ...], times: Collection[str]) -> Ordered:
    """A verb of a stream with expressions that look along time; `times` tell event time there.

    UnsupportedOperationError with every reason why they cannot be kept up to date.
    """
    return kept(Ordered(node, verb, exprs, time=_time_of(verb, exprs, node, times)))


def kept(node: _Along) -> _Along:
    """The same node; Polars' own error, or UnsupportedOperationError with every reason, if it cannot be kept."""
    node.schema  # noqa: B018  # errors of Polars first
    node.along  # noqa: B018  # refuses
    return node


def _time_of(verb: str, exprs: Iterable[pl.Expr], node: Node, times: Collection[str]) -> str:
    """The column by which expressions want rows in order."""
    trees = [node for expr in exprs if looks_along_time(expr) for node in nodes(tree_of(expr))]
    by = [expression(one).meta.undo_aliases() for tree in trees if (one := order_of(tree)) is not None]
    names = {_shown(one): passes(one) for one in by}
    if len(names) > 1:
        raise UnsupportedOperationError(
            f"{verb}() in the order of {' and of '.join(names)}",
            because="rows come out in the order of one event time",
            instead=f"a {verb}() for each of them, one after the other",
        )
    ((text, name),) = names.items()
    if name is None or name not in times:
        dtype = node.schema.get(name or "")
        could = name if dtype is not None and dtype.is_temporal() else None
        refuse_order(f"{verb}() in the order of {text if name is None else repr(name)}", could, times)
    return name


def _shown(order: pl.Expr) -> str:
    """For people: what rows are in order of. Polars makes one column of several, which nobody wrote."""
    text = " ".join(str(order).split())
    return ", ".join(map(repr, order.meta.root_names())) if "row_encode(" in text else text


def refuse_order(asked: str, name: str | None, times: Collection[str]) -> NoReturn:
    """Raise for an order that is not that of event time, where that is told by `times`."""
    raise UnsupportedOperationError(
        asked,
        because="rows of a stream come in the order of an event time with a watermark, and in no other",
        instead=f"the order of {min(times)!r}, in which rows of equal times stand as they arrived"
        if times
        else f'.pipe(ub.with_watermark, {name or "time"!r}, "10m") before it',
    )
