"""Which rows of a key follow each other so closely that they are one session?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Final

import polars as pl

from unbounded.aggregates import Cut, cut
from unbounded.durations import fixed_nanoseconds, polars_duration
from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import canonical, expand, why_not_rowwise
from unbounded.expressions.trees import Tree, expression, nodes, rewrite, tree_of
from unbounded.partials.found import aggregated
from unbounded.partials.user_defined import user_defined
from unbounded.plan import Aggregate, Node
from unbounded.plan.windows import LABEL, later, time_column

__all__ = ["ARRIVAL", "BOUNDARIES", "END", "Gap", "Sessions", "session_column", "session_gap", "with_arrival"]

END: Final = "__end__"
"""The column with the end of a row's own stretch of time, or of a session."""

ARRIVAL: Final = "__arrival__"
"""The column that says in which order rows came."""

BOUNDARIES: Final = ("_lower_boundary", "_upper_boundary")

_SESSION = "__session__"
_DAY = 86_400_000_000_000
_UNITS = {"d": _DAY, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1_000, "ns": 1}


@dataclass(frozen=True, eq=False)
class Gap:
    """How long after a row the next one may come: a Duration; `constant` is its text where all rows have the same."""

    length: pl.Expr
    constant: str | None

    def __str__(self) -> str:
        return canonical(self.length) if self.constant is None else self.constant


@dataclass(frozen=True, eq=False)
class Sessions(Aggregate):
    """One row per key and session, with the session's first event time in `LABEL` behind the keys.

    A row covers the time from its own to that plus its gap, both ends included, and rows of a key whose stretches meet
    are one session. It ends at the latest of its rows' ends. A row without a time, or whose gap is null or not above
    zero, is in none.
    """

    column: str
    gap: Gap
    boundaries: bool

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        time, end = pl.col(self.column), pl.col(END)
        # A row's stretch begins behind all that was covered before it: so a session begins.
        number = (~(time <= end.cum_max().shift()).fill_null(value=False)).cum_sum()
        numbered = (
            rows[0]
            .with_columns(self.ends.alias(END))
            .filter(end.is_not_null())
            .with_columns(number.over(*self.keys, order_by=self.column).alias(_SESSION))
        )
        found = numbered.group_by(*self.keys, _SESSION).agg(time.min().alias(LABEL), end.max(), *self.aggregates)
        return found.select(self.shown(map(pl.col, (one.meta.output_name() for one in self.aggregates))))

    def shown(self, aggregates: Iterable[pl.Expr]) -> list[pl.Expr]:
        """The columns of the answer, over keys, `LABEL`, `END` and what the aggregates read."""
        *keys, start = map(pl.col, self.key_names)
        bounds = [start.alias(BOUNDARIES[0]), pl.col(END).alias(BOUNDARIES[1])] if self.boundaries else []
        return [*keys, *bounds, start, *aggregates]

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return (*(key.meta.output_name() for key in self.keys), LABEL)

    @cached_property
    def ends(self) -> pl.Expr:
        """When a row's own stretch of time ends; null for a row that is in no session."""
        time, dtype = pl.col(self.column), self.input.schema[self.column]
        # Parts of a tick are cut off: no row has a time within them.
        ticks = self.gap.length.cast(pl.Duration(getattr(dtype, "time_unit", "ms"))).to_physical()
        end = later(time, ticks // (_DAY // 1_000_000) if dtype == pl.Date else ticks, dtype)
        return end if self.gap.constant is not None else pl.when(self.gap.length.to_physical() > 0).then(end)

    @cached_property
    def cut(self) -> Cut:
        """The aggregates over rows that have their `ARRIVAL`, cut so that it does not matter in which order they merge.

        Raises PlanError for aggregates that have no such form.
        """
        schema = pl.Schema({**self.input.schema, ARRIVAL: pl.Int64()})
        found = cut(self.aggregates, schema, instead=_by_arrival)
        for one in found.values:
            if one.every and (why := why_not_rowwise(with_arrival(one.value)[0], schema)):
                raise _refused(one.value, because=why, instead="list the values of single rows, or filter them last")
        return found


# --------------------------------------------------------------------------------------- arguments
def session_column(node: Node, index_column: str | pl.Expr, *, boundaries: bool) -> str:
    """The name of the time column of `group_by_session`. PlanError if there is none of that name, or no time in it."""
    column = time_column(node, index_column, "group_by_session", "sessions need")
    if boundaries and (taken := set(BOUNDARIES) & set(node.schema)):
        raise PlanError(
            f"group_by_session adds the column {min(taken)!r}, and the frame has one. Rename yours before it"
        )
    return column


def session_gap(node: Node, column: str, gap: str | timedelta | pl.Expr) -> Gap:
    """The gap of `group_by_session`. PlanError if it is no length of time, is not above zero, or does not fit."""
    asked = f"group_by_session({column!r}, gap={gap if isinstance(gap, pl.Expr) else repr(gap)})"
    if isinstance(gap, pl.Expr):
        return _gap_of_rows(node, column, gap, asked)
    if isinstance(gap, str) and gap in node.schema:
        raise PlanError(f"{asked}: a text is a length of time, and this is a column. Write gap=pl.col({gap!r})")
    if not isinstance(gap, str | timedelta):
        raise PlanError(f'{asked}: write a length of time such as "10m", a timedelta, or an expression of a Duration')
    length = fixed_nanoseconds(polars_duration(gap, "gap"))
    if length is None:
        raise PlanError(f'{asked}: months and years have no fixed length. Write days: "31d"')
    if length <= 0:
        raise PlanError(f'{asked}: rows are one session if they are no further apart. Write a gap above zero, "10m"')
    if node.schema[column] == pl.Date and length % _DAY:
        raise PlanError(
            f"{asked}: the column is Date, which has no hours. Write whole days, or .cast({{{column!r}: pl.Datetime}}) "
            "before it"
        )
    text = next(f"{length // size}{unit}" for unit, size in _UNITS.items() if length % size == 0)
    return Gap(pl.lit(length, pl.Int64).cast(pl.Duration("ns")), text)


def _gap_of_rows(node: Node, column: str, gap: pl.Expr, asked: str) -> Gap:
    found = expand(node.schema, [gap], {})
    if len(found) != 1:
        raise PlanError(f"{asked}: this makes {len(found)} columns. Write an expression of one Duration per row")
    (dtype,) = pl.LazyFrame(schema=node.schema).select(found[0].alias(_SESSION)).collect_schema().dtypes()
    if not isinstance(dtype, pl.Duration):
        raise PlanError(
            f"{asked}: this is {dtype}, and a gap is a Duration. Write pl.duration(seconds=...) of it, or a text such "
            'as "10m"'
        )
    if node.schema[column] == pl.Date:
        raise PlanError(
            f"{asked}: the column is Date, which has no hours, and the gap of a row may have. Write "
            f".cast({{{column!r}: pl.Datetime}}) before it"
        )
    return Gap(found[0], None)


# -------------------------------------------------------------------------------- order of arrival
_EARLIEST, _LATEST = ("first", "first_non_null"), ("last", "last_non_null")


def _by_arrival(expr: pl.Expr) -> pl.Expr:
    """The same aggregate with `first` and `last` told by `ARRIVAL`.

    Sessions that become one may have got their rows by turns, so none of them came first.
    """

    def told(tree: Tree) -> Tree:
        if (own := user_defined(tree)) is not None:
            if any(map(_looks_at_order, [*own.partial.values(), *own.merge.values()])):
                raise _refused(
                    expression(tree["Alias"][0]),
                    because="sessions become one when a row comes between them, and first and last say no more then "
                    "which of their rows came first",
                    instead="min_by() and max_by() of a column of your own in the aggregate",
                )
            return tree
        found = aggregated(tree)
        if found is None:
            return rewrite(tree, told)
        if found.function == "slice" or (found.options.get("ordered") and found.function in ("unique", "mode")):
            raise _refused(
                expression(tree),
                because="sessions become one when a row comes between them, and their rows may have come by turns",
                instead="first(), last() or implode(), or bottom_k_by('time', 3) in the order of event time",
            )
        if found.function not in (*_EARLIEST, *_LATEST):
            return tree
        value, arrival = with_arrival(expression(found.inputs[0]))
        if found.function.endswith("non_null"):
            arrival = pl.when(value.is_not_null()).then(arrival)
        return tree_of(value.min_by(arrival) if found.function in _EARLIEST else value.max_by(arrival))

    return expression(told(tree_of(expr))).alias(expr.meta.output_name())


def _looks_at_order(expr: pl.Expr) -> bool:
    found = map(aggregated, nodes(tree_of(expr)))
    return any(one is not None and one.function in (*_EARLIEST, *_LATEST, "slice") for one in found)


def with_arrival(values: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """The values with none left out, and the `ARRIVAL` of those that were not, null for the others."""
    match tree_of(values):
        case {"Filter": {"input": part, "by": by}}:
            value, arrival = with_arrival(expression(part))
            return value, pl.when(expression(by)).then(arrival)
        case {"Function": {"input": [part], "function": "DropNulls"}}:
            value, arrival = with_arrival(expression(part))
            return value, pl.when(value.is_not_null()).then(arrival)
        case {"Function": {"input": [part], "function": "DropNans"}}:
            value, arrival = with_arrival(expression(part))
            return value, pl.when(value.is_not_nan() | value.is_null()).then(arrival)
    return values, pl.col(ARRIVAL)


def _refused(expr: pl.Expr, *, because: str, instead: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(f"group_by_session(...).agg({expr})", because=because, instead=instead)
