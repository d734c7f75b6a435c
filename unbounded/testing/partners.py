"""What has come out of a join of two streams, when the watermark stands at some time?"""

from __future__ import annotations

from typing import Final

import polars as pl

from unbounded.operators import FINAL, closing_instant
from unbounded.plan.asof import FOUND, AsofJoin
from unbounded.plan.pairs import SIDES, Side, StreamJoin
from unbounded.plan.windows import NANOSECONDS_PER_TICK

__all__ = ["added", "met"]

_NEW: Final = "__new__"
_ROW: Final = "__row__"
_UNTIL: Final = "__until__"


def met(join: StreamJoin | AsofJoin, left: pl.LazyFrame, right: pl.LazyFrame, mark: int | None) -> pl.DataFrame:
    """All pairs of these rows, and where they are shown the rows without a partner that can find none any more.

    Of a `join_asof` the rows whose nearest one is known. `mark` is the watermark in epoch ms, None before there is one.
    """
    if isinstance(join, AsofJoin):
        return _settled(join, left, right, mark)
    answer = join.apply(left, right).collect(engine="in-memory")
    rows = dict(zip(SIDES, (left, right), strict=True))
    possible = {
        side: join.ready(some, side).with_row_index(f"{_ROW}{side}").filter(join.possible(side)).collect().lazy()
        for side, some in rows.items()
    }
    pairs = join.paired(possible["left"], possible["right"])
    for side in SIDES:
        if join.shows_alone(side):
            waits = possible[side].filter(_last_partner(join, side).fill_null(FINAL - 1) > (mark or -FINAL))
            alone = join.alone(waits.join(pairs, on=f"{_ROW}{side}", how="anti"), side)
            answer = added(alone.select(join.answer).collect(engine="in-memory"), answer)
    return answer


def _last_partner(join: StreamJoin, side: Side) -> pl.Expr:
    """The watermark at which a row of a side finds no further partner, in epoch ms; null where none says so."""
    schema = {**join.columns(side), **join.key_schema}
    found = []
    for reach in join.kept(side).reaches:
        within, clock = reach.within, reach.clock
        time = pl.col(within.earlier).cast(pl.Datetime("ns", getattr(schema[within.earlier], "time_zone", None)))
        tick = NANOSECONDS_PER_TICK[getattr(schema[within.earlier], "time_unit", "ms")]
        latest = time + pl.duration(nanoseconds=within.nanoseconds - within.strict * tick)
        if clock.lasts is not None:
            latest = latest.dt.offset_by(clock.lasts)
        found.append(-(-latest.to_physical() // 1_000_000) + clock.behind)
    return pl.min_horizontal(pl.lit(None, pl.Int64), *found)


def _settled(join: AsofJoin, left: pl.LazyFrame, right: pl.LazyFrame, mark: int | None) -> pl.DataFrame:
    able = pl.all_horizontal(pl.col(name).is_not_null() for name in {join.left_on, *(ours for ours, _ in join.by)})
    parts = [join.apply(left.filter(~able), right.clear())]
    if mark is not None:
        reached = right.filter(_reached(join, join.right_on) <= mark)
        time, found = pl.col(join.left_on), pl.col(FOUND)
        as_far_ahead = time.to_physical() + (time.to_physical() - found.to_physical()).clip(lower_bound=0)
        furthest = time.to_physical() + pl.lit(join.ticks, pl.Int64)
        until = pl.when(found.is_null()).then(furthest).otherwise(as_far_ahead).cast(join.dtype)
        rows = join.apply(left.filter(able), reached.with_columns(pl.col(join.right_on).alias(FOUND)))
        rows = rows.with_columns((until if join.waits else time).alias(_UNTIL))
        last = _reached(join, _UNTIL).fill_null(FINAL - 1)
        parts.append(rows.filter(_reached(join, join.left_on) <= mark, last <= mark).select(*join.schema))
    return pl.concat(parts).collect(engine="in-memory")


def _reached(join: AsofJoin, time: str) -> pl.Expr:
    """The watermark at which both sides have come as far as a time."""
    return pl.max_horizontal(closing_instant({time: join.clock(side)}, {time: join.dtype}) for side in SIDES)


def added(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """The rows that are there more often now than before."""
    number = pl.int_range(pl.len()).over(now.columns).alias(_ROW)
    numbered = [rows.with_columns(number, pl.lit(new).alias(_NEW)) for rows, new in ((before, False), (now, True))]
    once = pl.concat(numbered).unique([*now.columns, _ROW], keep="first", maintain_order=True)  # to which NaN is equal
    return once.filter(_NEW).select(now.columns)
