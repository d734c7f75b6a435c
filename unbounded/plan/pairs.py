"""Which rows of two streams belong together, and for how long can a row of one still find a partner in the other?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

import polars as pl

from unbounded.durations import longest_milliseconds
from unbounded.expressions import passes
from unbounded.expressions.intervals import Within
from unbounded.plan import Node, bits
from unbounded.plan.lineage import Clock, clocks, start_of, times_within, window_of

__all__ = ["SIDES", "How", "Key", "Kept", "Reach", "Side", "StreamJoin", "bounded_by"]

How: TypeAlias = Literal["inner", "left", "right", "full", "semi", "anti"]
Side: TypeAlias = Literal["left", "right"]

SIDES: Final[tuple[Side, Side]] = ("left", "right")

_ROW: Mapping[Side, str] = {"left": "__left__", "right": "__right__"}


@dataclass(frozen=True)
class Key:
    """What is equal in both rows of a pair: an expression over each side, of one dtype."""

    left: pl.Expr
    right: pl.Expr
    nulls_equal: bool

    def of(self, side: Side) -> pl.Expr:
        """The expression over a side."""
        return self.left if side == "left" else self.right


@dataclass(frozen=True)
class Reach:
    """A row finds no further partner once the watermark has come this far: to where the other side's `clock` says that
    no row comes any more whose time is that of `within.later` at most."""

    within: Within
    clock: Clock

    @property
    def milliseconds(self) -> int:
        """How far the watermark is past `within.earlier` then, at most."""
        lasts = longest_milliseconds(self.clock.lasts) if self.clock.lasts is not None else 0
        return -(-self.within.nanoseconds // 1_000_000) + lasts + self.clock.behind


@dataclass(frozen=True)
class Kept:
    """What the watermark says of one side: by which columns its rows are late, and when they can be forgotten."""

    judged: Mapping[str, Clock]
    reaches: tuple[Reach, ...]


@dataclass(frozen=True, eq=False)
class StreamJoin(Node):
    """Rows of two streams of which all `keys` are equal and all conditions hold.

    A pair has the columns of the left under their names, and those of the right under the names `renamed`; expressions
    here are over these. `only` are conditions on one side alone; `withins` say what follows from all of them for times,
    and `filled` are columns that a null in makes one of them fail.
    `outputs` names the columns of the answer with those of a pair that they are, the first that is not null.

    Float keys are equal where `group_by` calls them so. `asked` are the arguments of `pl.LazyFrame.join`, if that is
    what was asked for.
    """

    left: Node
    right: Node
    how: How
    keys: tuple[Key, ...]
    only: Mapping[Side, tuple[pl.Expr, ...]]
    conditions: tuple[pl.Expr, ...]
    withins: tuple[Within, ...]
    filled: frozenset[str]
    renamed: Mapping[str, str]
    outputs: Mapping[str, tuple[str, ...]]
    asked: Mapping[str, Any] | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    # Rows -----------------------------------------------------------------------------------------
    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        if self.asked is not None and not self._on_floats:
            return rows[0].join(rows[1], how=self.how, **self.asked)
        # Rows are read twice and must have the same numbers both times, though a join below may give them in any order.
        ours, theirs = (
            self.ready(one, side).with_row_index(_ROW[side]).cache() for one, side in zip(rows, _ROW, strict=True)
        )
        pairs = self.paired(ours.filter(self.possible("left")), theirs.filter(self.possible("right")))
        if self.how in ("semi", "anti"):
            matched = pairs.select(_ROW["left"]).unique()
            chosen = ours.join(matched, on=_ROW["left"], how="semi" if self.how == "semi" else "anti")
            return chosen.sort(_ROW["left"]).select(self.answer)
        parts = [pairs]
        if self.keeps("left"):
            parts.append(self.alone(ours.join(pairs, on=_ROW["left"], how="anti"), "left"))
        if self.keeps("right"):
            parts.append(self.alone(theirs.join(pairs, on=_ROW["right"], how="anti"), "right"))
        return pl.concat(part.select(self.answer) for part in parts)

    def ready(self, rows: pl.LazyFrame, side: Side) -> pl.LazyFrame:
        """The rows of a side under the names of a pair, with its keys beside."""
        if side == "right":
            rows = rows.rename(dict(self.renamed))
        return rows.with_columns(key.of(side).alias(name) for name, key in self.named_keys.items())

    def possible(self, side: Side) -> pl.Expr:
        """Whether a row that is ready may have a partner, as far as it says alone.

        A row that is to come out alone waits as others do if it is for a null in a key that it has none, as in Spark.
        """
        read = {name for one in self.withins for name in (one.earlier, one.later)}
        if not self.shows_alone(side):
            read |= {*self.filled, *self.never_null}
        there = [pl.col(name).is_not_null() for name in (*self.never_null, *self.columns(side)) if name in read]
        return pl.all_horizontal(pl.lit(value=True), *there, *self.only[side]).fill_null(value=False)

    def paired(self, left: pl.LazyFrame, right: pl.LazyFrame, *, beside: Sequence[str] = ()) -> pl.LazyFrame:
        """The pairs among possible rows; all of them are equal in the columns `beside` the keys, too."""
        if not self.keys:
            return left.join(right, how="cross").filter(*self.conditions)
        never, keys = self.never_null, list(self.named_keys)
        if 0 < len(never) < len(keys):
            left = left.filter(pl.col(name).is_not_null() for name in never)
        pairs = left.join(right, on=[*keys, *beside], nulls_equal=len(never) < len(keys))
        return pairs.filter(*self.conditions) if self.conditions else pairs

    @cached_property
    def never_null(self) -> list[str]:
        """The keys in which a null is equal to nothing."""
        return [name for name, key in self.named_keys.items() if not key.nulls_equal]

    def alone(self, rows: pl.LazyFrame, side: Side) -> pl.LazyFrame:
        """Rows without a partner, with nulls in its place."""
        other = self.columns("right" if side == "left" else "left")
        return rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in other.items())

    def keeps(self, side: Side) -> bool:
        """Whether rows without a partner come out, with nulls in its place, beside those that have one."""
        return self.how in ("full", side)

    def shows_alone(self, side: Side) -> bool:
        """Whether rows without a partner come out."""
        return self.keeps(side) or (self.how, side) == ("anti", "left")

    @cached_property
    def answer(self) -> list[pl.Expr]:
        """The columns of the answer, over pairs."""
        return [
            (pl.col(names[0]) if len(names) == 1 else pl.coalesce(names)).alias(name)
            for name, names in self.outputs.items()
        ]

    # Columns --------------------------------------------------------------------------------------
    @cached_property
    def named_keys(self) -> dict[str, Key]:
        """The keys under the names that they have beside the columns of a side; floats as integers of their bits."""
        floats = [dtype.is_float() for dtype in self._dtypes([key.left for key in self.keys])]
        exact = [
            replace(key, left=bits(key.left), right=bits(key.right)) if is_float else key
            for key, is_float in zip(self.keys, floats, strict=True)
        ]
        return {f"__key_{i}": key for i, key in enumerate(exact)}

    @cached_property
    def key_schema(self) -> dict[str, pl.DataType]:
        """The keys as they are compared."""
        named = self.named_keys
        return dict(zip(named, self._dtypes([key.left for key in named.values()]), strict=True))

    @property
    def _on_floats(self) -> bool:
        return any(dtype.is_float() for dtype in self._dtypes([key.left for key in self.keys]))

    def _dtypes(self, of_left: Sequence[pl.Expr]) -> list[pl.DataType]:
        named = (one.alias(str(i)) for i, one in enumerate(of_left))
        return pl.LazyFrame(schema=self.columns("left")).select(named).collect_schema().dtypes()

    def columns(self, side: Side) -> dict[str, pl.DataType]:
        """The columns of a side by their names in a pair."""
        if side == "left":
            return dict(self.left.schema)
        return {self.renamed[name]: dtype for name, dtype in self.right.schema.items()}

    def plain(self, side: Side) -> dict[str, str]:
        """The columns of a side that are a key as they stand: name in a pair -> name of the key."""
        found = {passes(key.of(side)): name for name, key in self.named_keys.items()}
        return {column: name for column, name in found.items() if column is not None}

    # Time -----------------------------------------------------------------------------------------
    def kept(self, side: Side) -> Kept:
        """How the watermark bounds a side, if it does."""
        return self._kept[side]

    @cached_property
    def _kept(self) -> dict[Side, Kept]:
        ours, theirs = self._clocks["left"], self._clocks["right"]
        return {"left": self._kept_by("left", ours, theirs), "right": self._kept_by("right", theirs, ours)}

    def _kept_by(self, side: Side, ours: Mapping[str, Clock], theirs: Mapping[str, Clock]) -> Kept:
        here = {*self.columns(side), *self.named_keys}
        keys = [Within(name, name, 0) for name in self.named_keys]
        bounding = [one for one in (*keys, *self.withins) if one.earlier in here and one.later in theirs]
        # Those that meet in the conditions decide which rows are late: a row is then forgotten only when it has no
        # partner in time. Where no condition is about time, all of them do, as in Spark.
        met = {name for one in (*keys, *self.withins) for name in (one.earlier, one.later)}
        judged = {name: clock for name, clock in ours.items() if name in met}
        return Kept(judged or dict(ours), tuple(Reach(one, theirs[one.later]) for one in bounding))

    @cached_property
    def _clocks(self) -> dict[Side, dict[str, Clock]]:
        """The event times of each side, in the names of a pair, and those of its keys.

        A key is event time on both sides as soon as it is on one: rows of the other are late by it, too, for what
        they could have met is forgotten.
        """
        ours = clocks(self.left)
        theirs = {self.renamed[name]: clock for name, clock in clocks(self.right).items()}
        for name, key in self.named_keys.items():
            found = [_of_key(key.left, ours), _of_key(key.right, theirs)]
            first, second = (mine or other for mine, other in (found, found[::-1]))
            if first is not None and second is not None:
                ours[name], theirs[name] = first, second
        return {"left": ours, "right": theirs}

    def clock(self, column: str, side: Side) -> Clock | None:
        """What a column of a side tells of event time in the answer, where its rows come out later than they came."""
        key = self.plain(side).get(column)
        names = [name for name in (column, key) if name is not None]
        kept = self.kept(side)
        own = next((kept.judged[name] for name in names if name in kept.judged), None)
        if own is not None:
            waits = [_wait(one, own) for one in kept.reaches if one.within.earlier in names]
        else:  # a row waits for the end of its window, and its time is not before the start
            own = self._clocks[side].get(column)
            waits = [one.milliseconds for one in kept.reaches if column in self._times_within(one.within.earlier, side)]
        return Clock(own.lasts, max(own.behind, min(waits))) if own is not None and waits else None

    def time(self, side: Side) -> str | None:
        """The column of a side that tells event time, or that could if it had a watermark; None if there is none."""
        times = {name: dtype for name, dtype in self.columns(side).items() if isinstance(dtype, pl.Datetime)}
        return min(times, key=lambda name: name not in self._clocks[side], default=None)

    def _times_within(self, window: str, side: Side) -> frozenset[str]:
        """The columns of a side that are times in the windows of which a key of its is the start."""
        if window not in self.named_keys:
            return frozenset()
        key = self.named_keys[window].of(side)
        if (column := passes(key)) is None:
            return frozenset(name for name in [start_of(key)] if name is not None)
        if side == "left":
            return times_within(self.left, column)
        own = {pair: name for name, pair in self.renamed.items()}
        return frozenset(self.renamed[name] for name in times_within(self.right, own[column]))


def bounded_by(node: StreamJoin, sides: Sequence[Side]) -> str:
    """For people: what to write, so that rows of these sides are remembered until no partner can come."""
    left, right = (node.time(side) or name for side, name in zip(SIDES, ("time", "time_right"), strict=True))
    own = {pair: name for name, pair in node.renamed.items()}
    # A row waits for what the other side says of time.
    others = [side for side in SIDES if any(side != one for one in sides)]
    silent = {"left": left, "right": own.get(right, right)}
    marks = [
        f'on the {side} .pipe(ub.with_watermark, {silent[side]!r}, "10m")'
        for side in others
        if not clocks(node.left if side == "left" else node.right)
    ]
    near = {
        "left": f"pl.col({right!r}) <= pl.col({left!r}) + pl.duration(minutes=5)",
        "right": f"pl.col({right!r}) >= pl.col({left!r}) - pl.duration(minutes=5)",
    }
    declare = f"Declare a watermark before the join, {' and '.join(marks)}, and say" if marks else "Say"
    return (
        f"{declare} in predicates of join_where(...) how far apart two rows may be in time, such as "
        f"{', '.join(near[side] for side in sides)}"
    )


def _of_key(key: pl.Expr, below: Mapping[str, Clock]) -> Clock | None:
    column = passes(key)
    return below.get(column) if column is not None else window_of(key, below)


def _wait(reach: Reach, own: Clock) -> int:
    """How far behind the watermark a row may come out that waits so long, as its own clock counts."""
    same = reach.clock.lasts == own.lasts and reach.within.nanoseconds == 0
    return reach.clock.behind if same else reach.milliseconds


@clocks.register
def _(node: StreamJoin) -> dict[str, Clock]:
    found = {}
    for name, columns in node.outputs.items():
        told = [node.clock(column, "left" if column in node.left.schema else "right") for column in columns]
        known = [clock for clock in told if clock is not None]
        if len(known) == len(told) and len({clock.lasts for clock in known}) == 1:
            found[name] = Clock(known[0].lasts, max(clock.behind for clock in known))
    return found
