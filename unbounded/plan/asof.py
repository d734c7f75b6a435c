"""Which row of another stream is nearest in time to each row of a stream, and when is that known?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import polars as pl

from unbounded.durations import fixed_nanoseconds, longest_milliseconds, polars_duration
from unbounded.errors import PlanError, UnsupportedOperationError, nearest
from unbounded.expressions import passes
from unbounded.plan import Node, walk
from unbounded.plan.lineage import Clock, clocks
from unbounded.plan.pairs import SIDES, Side
from unbounded.plan.windows import NANOSECONDS_PER_TICK

__all__ = ["FOUND", "AsofJoin", "asof_of", "ended", "length_of"]

Strategy: TypeAlias = Literal["backward", "forward", "nearest"]

FOUND = "__found__"
"""The time of the row of the right that was found."""


@dataclass(frozen=True, eq=False)
class AsofJoin(Node):
    """Each row of the left with the row of the right that is nearest in time, as `pl.LazyFrame.join_asof` finds it.

    Among rows of the right of one time the order of their arrival decides, as that of rows does for Polars. `by` are
    the columns that are equal, of the left and of the right; `tolerance` is in nanoseconds.
    """

    left: Node
    right: Node
    left_on: str
    right_on: str
    by: tuple[tuple[str, str], ...]
    strategy: Strategy
    tolerance: int | None
    exact: bool
    suffix: str
    coalesce: bool

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    # Rows -----------------------------------------------------------------------------------------
    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        left, right = (
            one.sort(time, maintain_order=True) for one, time in zip(rows, (self.left_on, self.right_on), strict=True)
        )
        return self.joined(left, right, [ours for ours, _ in self.by], [theirs for _, theirs in self.by])

    def joined(
        self, left: pl.LazyFrame, right: pl.LazyFrame, by_left: Sequence[str], by_right: Sequence[str]
    ) -> pl.LazyFrame:
        """Polars' answer for rows in the order of their times, which are equal in these columns."""
        return left.join_asof(
            right,
            left_on=self.left_on,
            right_on=self.right_on,
            by_left=by_left or None,
            by_right=by_right or None,
            strategy=self.strategy,
            suffix=self.suffix,
            tolerance=None if self.tolerance is None else f"{self.tolerance}ns",
            coalesce=self.coalesce,
            allow_exact_matches=self.exact,
            check_sortedness=False,
        )

    def keys(self, side: Side) -> list[pl.Expr]:
        """What is equal in both rows, under one name."""
        return [pl.col(pair[side == "right"]).alias(f"__key_{i}") for i, pair in enumerate(self.by)]

    @cached_property
    def key_schema(self) -> dict[str, pl.DataType]:
        """The names and types of the keys."""
        return {f"__key_{i}": self.left.schema[ours] for i, (ours, _) in enumerate(self.by)}

    @cached_property
    def payload(self) -> list[str]:
        """The columns of the right but for those in `by`, which are those of the left."""
        keys = {theirs for _, theirs in self.by}
        return [name for name in self.right.schema if name not in keys]

    def time(self, side: Side) -> str:
        """The column of a side by which the nearest is found."""
        return self.left_on if side == "left" else self.right_on

    def of(self, side: Side) -> Node:
        """A side."""
        return self.left if side == "left" else self.right

    # Time -----------------------------------------------------------------------------------------
    @property
    def dtype(self) -> pl.DataType:
        """That of the times, which is the same on both sides."""
        return self.left.schema[self.left_on]

    @cached_property
    def ticks(self) -> int | None:
        """The tolerance as the times count, cut off: two times are whole ticks apart."""
        if self.tolerance is None:
            return None
        return self.tolerance // NANOSECONDS_PER_TICK[getattr(self.dtype, "time_unit", "d")]

    def clock(self, side: Side) -> Clock:
        """What the time of a side says of event time."""
        return clocks(self.of(side))[self.time(side)]

    @property
    def waits(self) -> bool:
        """Whether a row of the left may wait for a later one of the right."""
        return self.strategy != "backward"

    @property
    def is_bounded(self) -> bool:
        """Whether it is known how long a row of the left waits."""
        return self.tolerance is not None or not self.waits


def asof_of(
    left: Node,
    right: Node,
    on: tuple[Any, Any],
    by: tuple[Any, Any],
    options: Mapping[str, Any],
) -> AsofJoin:
    """`join_asof` of two streams. PlanError or UnsupportedOperationError for what cannot be, Polars' own for the rest.

    `on` and `by` are as given for each side, `options` the other arguments.
    """
    times = tuple(_column(one) for one in on)
    if times[0] is None or times[1] is None:
        raise PlanError("join_asof(): write on=, or left_on= and right_on=, with the names of columns")
    ours, theirs = (_names(one) for one in by)
    if len(ours) != len(theirs):
        raise PlanError(
            f"join_asof(): by_left= names {len(ours)} columns and by_right= {len(theirs)}, which are to be equal one "
            "by one. Write as many for both, or by="
        )
    strategy = options["strategy"]
    if strategy not in get_args(Strategy):
        hint = nearest(str(strategy), get_args(Strategy))
        raise PlanError(
            f"join_asof(strategy={strategy!r}) is not known{hint or '.'} Write one of "
            + ", ".join(map(repr, get_args(Strategy)))
        )
    node = AsofJoin(
        left,
        right,
        times[0],
        times[1],
        tuple(zip(ours, theirs, strict=True)),
        strategy,
        _length(options["tolerance"]),
        options["allow_exact_matches"],
        options["suffix"],
        options["coalesce"],
    )
    # What Polars does not know, or cannot compare, it says itself, once it joins.
    node.apply(*(pl.LazyFrame(schema=one.schema) for one in (left, right))).collect()
    if node.left_on in ours or node.right_on in theirs:
        raise PlanError(
            f"join_asof(): by= are columns that are equal, and {node.left_on!r} = {node.right_on!r} are the times that "
            "are near each other. Leave them out of by=, or join(on=...) where times are equal"
        )
    _refuse_unlike(node)
    _refuse_untimed(node)
    return node


def _column(one: Any) -> str | None:
    return one if isinstance(one, str) else passes(one) if isinstance(one, pl.Expr) else None


def _names(columns: Any) -> list[str]:
    found = [columns] if isinstance(columns, str | pl.Expr) else list(columns or ())
    names = [name for one in found if (name := _column(one)) is not None]
    if len(names) < len(found):
        raise PlanError(
            f"join_asof(by={columns!r}): write the names of columns; compute an expression in with_columns first"
        )
    return names


def _refuse_unlike(node: AsofJoin) -> None:
    """PlanError unless the columns of each pair are of one type: of others Polars compares how they are stored."""
    for ours, theirs in (*node.by, (node.left_on, node.right_on)):
        left, right = node.left.schema[ours], node.right.schema[theirs]
        if left != right:
            raise PlanError(
                f"join_asof() of two streams: {ours!r} of the left is {left} and {theirs!r} of the right is {right}, "
                f"and only values of one type are compared. Write with_columns(pl.col({theirs!r}).cast(...)) before "
                "it, for the right, or a cast of the left"
            )


def _refuse_untimed(node: AsofJoin) -> None:
    """PlanError unless both times have a watermark."""
    lacking = [side for side in SIDES if node.time(side) not in clocks(node.of(side))]
    if not lacking:
        return
    if not node.left.schema[node.left_on].is_temporal():
        dtype = node.left.schema[node.left_on]
        could = min(clocks(node.left), default="time")
        raise PlanError(
            f"join_asof() of two streams: rows of a stream meet in the order of event time, and {node.left_on!r} is "
            f"{dtype}. Join on columns with a watermark, e.g. on={could!r}, or join_asof(...) with a bounded frame"
        )
    which = " and of the ".join(f"{side}, {node.time(side)!r}," for side in lacking)
    lines = " and to the ".join(f'{side} .pipe(ub.with_watermark, "{node.time(side)}", "10m")' for side in lacking)
    raise PlanError(
        f"join_asof() of two streams: a row finds its nearest one when no nearer one can come, and the time of the "
        f"{which} has no watermark that says so. Add to the {lines} before it{ended(node)}"
    )


def ended(node: Node) -> str:
    """A sentence, behind another one, that says where a join below a node has ended event time; nothing if none has."""
    ends = next((one for one in walk(node) if isinstance(one, AsofJoin) and not one.is_bounded), None)
    if ends is None:
        return ""
    return (
        f". Behind join_asof(strategy={ends.strategy!r}) {ends.left_on!r} is no event time, since a row may wait there "
        'for ever: say how far apart two times may be, e.g. tolerance="10m"'
    )


def length_of(tolerance: str | timedelta) -> int:
    """A tolerance in nanoseconds, in the grammar of Polars or Spark; PlanError for one that is no fixed length."""
    what = "the tolerance of join_asof()"
    length = fixed_nanoseconds(polars_duration(tolerance, what))
    if length is None:
        raise PlanError(f'{what} is {tolerance!r}, and months and years have no fixed length. Write days: "31d"')
    if length < 0:
        raise PlanError(f'{what} is {tolerance!r}, and two times are never less than nothing apart. Write "0s" or more')
    return length


def _length(tolerance: Any) -> int | None:
    if tolerance is None or isinstance(tolerance, str | timedelta):
        return None if tolerance is None else length_of(tolerance)
    raise UnsupportedOperationError(
        f"join_asof(tolerance={tolerance!r}) of two streams",
        because="a number counts in the unit of the time column, which its values do not show",
        instead='a length of time, e.g. tolerance="10m"',
    )


@clocks.register
def _(node: AsofJoin) -> dict[str, Clock]:
    if not node.is_bounded:  # a row may come out at any later time
        return {}
    ours, theirs = (node.clock(side) for side in SIDES)
    both = Clock(ours.lasts, max(ours.behind, theirs.behind))
    if ours.lasts != theirs.lasts:
        both = Clock(None, max(map(_longest, (ours, theirs))))
    if node.waits and node.tolerance:
        both = Clock(None, _longest(both) - -node.tolerance // 1_000_000)
    return {node.left_on: both}


def _longest(clock: Clock) -> int:
    return clock.behind + (longest_milliseconds(clock.lasts) if clock.lasts is not None else 0)
