"""Which windows hold a row?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from math import gcd
from typing import Final, Literal, cast, get_args

import polars as pl

from unbounded.durations import (
    divides_the_hour,
    fixed_nanoseconds,
    has_hours,
    is_calendar,
    is_positive,
    most_windows,
    polars_duration,
    times,
)
from unbounded.errors import PlanError, UnsupportedOperationError, nearest
from unbounded.expressions import passes, python_function
from unbounded.expressions.trees import tree_of, unaliased
from unbounded.plan import Node

__all__ = [
    "LABEL",
    "LAST",
    "NANOSECONDS_PER_TICK",
    "Closed",
    "Window",
    "last_instant_of",
    "later",
    "shifted",
    "window_time",
    "time_column",
    "windows_of",
]

LABEL = "__window__"
"""The column in which `Window` puts a window's label, beside the user's own columns."""

LAST: Final = "1us"
"""How long before its end the last instant of a window lies, that `window_time` gives."""

NANOSECONDS_PER_TICK = {"ns": 1, "us": 1_000, "ms": 1_000_000, "d": 86_400_000_000_000}
"""Of a Datetime by its unit, and of a Date, whose unit is the day."""

_LOWER = "__lower__"

Closed = Literal["left", "right", "both", "none"]


@dataclass(frozen=True, eq=False)
class Window(Node):
    """Each row once for every window that holds it, with the window's label in `LABEL`.

    Windows start at `dt.truncate(every)` of the column's own dtype and zone, plus `offset`, and last
    `period`; a row belongs to every window that contains it. Rows with a null time belong to none.
    """

    input: Node
    column: str
    every: str
    period: str
    offset: str | None
    closed: Closed
    label: Literal["left", "right"]
    boundaries: bool

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return self.assign(rows[0]).filter(pl.col(LABEL).is_not_null())

    def assign(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Like `apply`, but rows with a null time stay, once, with a null label, so that they can be counted."""
        return self._assign(rows, pl.col(self.column))

    def assign_slices(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Like `assign`, of rows that have their `slice` in `LABEL` and need no time of their own."""
        return self._assign(rows, pl.col(LABEL))

    def _assign(self, rows: pl.LazyFrame, time: pl.Expr) -> pl.LazyFrame:
        dtype = self.input.schema[self.column]
        newest = self._newest(time)
        if self.is_tumbling:
            rows = rows.with_columns(newest.alias(_LOWER))
        else:
            back = [times(self.every, -i) for i in range(most_windows(self.every, self.period))]
            starts = [shifted(newest, length, dtype) for length in back]
            if _may_lack(self.every, dtype):  # a day that begins at 1:00, where midnight is left out
                starts = [self._newest(start) for start in starts]
            within: list[pl.Expr] = [pl.when(self._contains(start, time)).then(start) for start in starts]
            # A row without a time is kept once, for one of its windows; the start of that is taken away below.
            any_start = pl.lit(0).cast(dtype)
            within[0] = pl.when(time.is_null()).then(any_start).otherwise(within[0])
            # Measured: lists of 920,000 rows in five windows take 4 to 7 s, arrays 0.2 to 0.5.
            rows = (
                rows.with_columns(pl.concat_arr(within).alias(_LOWER))
                .explode(_LOWER)
                .filter(pl.col(_LOWER).is_not_null())
                .with_columns(pl.when(time.is_not_null()).then(pl.col(_LOWER)))
            )
        lower = pl.col(_LOWER)
        upper = self._end(lower)
        columns = [(lower if self.label == "left" else upper).alias(LABEL)]
        if self.boundaries:
            columns += [lower.alias("_lower_boundary"), upper.alias("_upper_boundary")]
        return rows.with_columns(columns).drop(_LOWER)

    def _newest(self, time: pl.Expr) -> pl.Expr:
        """The start of the last window at or before a time."""
        if self.offset is None:
            return time.dt.truncate(self.every)
        back = self.offset[1:] if self.offset.startswith("-") else f"-{self.offset}"
        return time.dt.offset_by(back).dt.truncate(self.every).dt.offset_by(self.offset)

    def _end(self, start: pl.Expr) -> pl.Expr:
        dtype = self.input.schema[self.column]
        end = shifted(start, self.period, dtype)
        # A day that begins at 1:00 for want of a midnight ends with the midnight that there is.
        return end.dt.truncate("1d") if _may_lack(self.every, dtype) and not has_hours(self.period) else end

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that it adds."""
        return (LABEL, "_lower_boundary", "_upper_boundary") if self.boundaries else (LABEL,)

    @cached_property
    def slice(self) -> pl.Expr | None:
        """A time for each row, in its place: it is in the same windows, and the same for all rows between two bounds.

        Rows with one slice are in the same windows, so they can be aggregated before they are repeated for each of
        these; a null time has a null slice. None for tumbling windows, where it would not help, and where a bound
        depends on the calendar or on a zone.
        """
        dtype = self.input.schema[self.column]
        every, period, offset = map(fixed_nanoseconds, (self.every, self.period, self.offset or "0s"))
        from_monday = "w" in self.every
        local = getattr(dtype, "time_zone", None) not in (None, "UTC")
        if self.is_tumbling or from_monday or local or every is None or period is None or offset is None:
            return None
        tick = NANOSECONDS_PER_TICK["d" if dtype == pl.Date else cast("pl.Datetime", dtype).time_unit]
        width, first = gcd(every, period), offset % gcd(every, period)
        if width % tick or first % tick:
            return None
        width, first = width // tick, first // tick
        ticks = pl.col(self.column).to_physical().cast(pl.Int64)
        bound = (ticks - first) // width * width + first  # at or before the time
        match self.closed:
            case "left":
                slice = bound
            case "right":
                slice = (ticks - 1 - first) // width * width + first + width
            case "both" | "none":  # a time that is a bound is alone; between two bounds any time stands for all
                slice = pl.when(ticks == bound).then(bound).otherwise(bound + 1)
        return slice.cast(dtype)

    @property
    def has_gaps(self) -> bool:
        """Whether a time may be in no window."""
        every, period = fixed_nanoseconds(self.every), fixed_nanoseconds(self.period)
        if self.is_tumbling:
            return False
        return self.closed == "none" or self.slice is None or every is None or period is None or period < every

    @property
    def is_tumbling(self) -> bool:
        """Whether every row is in exactly one window, the one at or before its time."""
        return self.every == self.period and self.closed == "left"

    def _contains(self, start: pl.Expr, time: pl.Expr) -> pl.Expr:
        end = self._end(start)
        above = time >= start if self.closed in ("left", "both") else time > start
        below = time <= end if self.closed in ("right", "both") else time < end
        return above & below


def later(time: pl.Expr, ticks: int | pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A time so many ticks later, or earlier if they are negative; the last or the first one where that is beyond."""
    most = 2**31 - 1 if dtype == pl.Date else 2**63 - 1
    if isinstance(ticks, int):
        ticks = max(-most, min(ticks, most))
    length = pl.lit(ticks, pl.Int64) if isinstance(ticks, int) else ticks.cast(pl.Int64)
    first, last = -most - length.clip(upper_bound=0), most - length.clip(lower_bound=0)
    return (time.to_physical().cast(pl.Int64).clip(first, last) + length).cast(dtype)


def shifted(time: pl.Expr, length: str, dtype: pl.DataType) -> pl.Expr:
    """A time of that type, so long after; of calendar units the same hour, or the first one behind it that there is.

    Where the clocks leave midnight out, Polars takes the hour before, coming from earlier times, and the one behind,
    coming from later ones: a day would end at 23:00, without its last hour.
    """
    found = time.dt.offset_by(length)
    if not _may_lack(length, dtype):
        return found
    lacks = time.dt.replace_time_zone(None).dt.offset_by(length) - found.dt.replace_time_zone(None)
    nothing = pl.duration(time_unit=getattr(dtype, "time_unit", "us"))  # of another unit it would make times of that
    return found + pl.when(lacks > nothing).then(lacks).otherwise(nothing)


def _may_lack(length: str, dtype: pl.DataType) -> bool:
    """Whether there are times of this type so long after which there is no such hour."""
    return getattr(dtype, "time_zone", None) not in (None, "UTC") and is_calendar(length)


def window_time(end: str | pl.Expr = "_upper_boundary") -> pl.Expr:
    """The last instant of a window, one microsecond before its `end`: the event time of a row that is a window.

    By it windows of windows are right and wait no longer than they must: a window that ends at 10:00 is in
    [9:00, 10:00), and has come out when the watermark closes that. `end` is the column of
    `group_by_dynamic(include_boundaries=True)`, or the index column with `label="right"`: Datetime, of any unit or zone
    (cast Date before). The answer is `window_time: Datetime("us")` in that zone, and still event time where `end` is.
    Before the start of a window it would lie in another one: a stream refuses that. On a bounded frame the windows of
    windows need `ub.with_watermark("window_time", ...)` before them, which sorts; on a stream it changes nothing there.

    >>> import polars as pl, unbounded as ub
    >>> from datetime import datetime
    >>> pl.select(_upper_boundary=datetime(2026, 3, 1)).select(ub.window_time()).item()
    datetime.datetime(2026, 2, 28, 23, 59, 59, 999999)
    """
    column = pl.col(end) if isinstance(end, str) else end
    return column.dt.cast_time_unit("us").dt.offset_by(f"-{LAST}").alias("window_time")


def last_instant_of(expr: pl.Expr) -> str | None:
    """The column of which an expression is `window_time`, under any name; None for anything else."""
    if python_function(expr):
        return None
    match unaliased(tree_of(expr)):
        case {
            "Function": {
                "function": {"TemporalExpr": "OffsetBy"},
                "input": [
                    {"Function": {"function": {"TemporalExpr": {"CastTimeUnit": _}}, "input": [{"Column": str(end)}]}},
                    {"Literal": {"Scalar": {"String": offset}}},
                ],
            }
        } if offset == f"-{LAST}":
            return end
    return None


def time_column(node: Node, index_column: str | pl.Expr, verb: str, needs: str) -> str:
    """The name of the column that a verb groups by; PlanError if there is none of that name, or it is no event time."""
    column = passes(index_column) if isinstance(index_column, pl.Expr) else index_column
    there = ", ".join(node.schema)
    if not isinstance(column, str):
        raise PlanError(f"{verb}({index_column!s}): write the name of a column; there are: {there}")
    if column not in node.schema:
        meant = nearest(column, node.schema) or "."
        raise PlanError(f"{verb}({column!r}): there is no such column{meant} There are: {there}")
    dtype = node.schema[column]
    if not (isinstance(dtype, pl.Datetime) or dtype == pl.Date):
        made = f"pl.col({column!r}).cast(pl.Datetime)"
        if dtype == pl.String:  # with the format, without which each batch would guess one
            made = f'pl.col({column!r}).str.to_datetime("%Y-%m-%d %H:%M:%S")'
        elif dtype.is_numeric():  # a cast would take seconds for microseconds
            made = f'pl.from_epoch({column!r}, time_unit="s")'
        raise PlanError(
            f"{verb}({column!r}): the column is {dtype}, and {needs} Datetime or Date. Write .with_columns({made}) "
            "before it"
        )
    return column


def windows_of(
    node: Node,
    index_column: str | pl.Expr,
    *,
    every: str | timedelta,
    period: str | timedelta | None,
    offset: str | timedelta | None,
    closed: Closed,
    label: Literal["left", "right", "datapoint"],
    boundaries: bool,
    start_by: str,
) -> Window:
    """The `Window` node of `group_by_dynamic`'s arguments; PlanError for those that have no meaning here."""
    column = time_column(node, index_column, "group_by_dynamic", "windows need")
    dtype = node.schema[column]
    _check_words(start_by, closed, label, column)
    length = polars_duration(every, "every")
    window = Window(
        node,
        column,
        every=length,
        period=length if period is None else polars_duration(period, "period"),
        offset=None if offset is None else polars_duration(offset, "offset"),
        closed=closed,
        label=cast('Literal["left", "right"]', label),
        boundaries=boundaries,
    )
    _check_lengths(window, dtype)
    taken = {_LOWER, *window.labels} & set(node.schema)
    if taken:
        raise PlanError(
            f"group_by_dynamic adds the column {min(taken)!r}, and the frame has one. Rename yours before it"
        )
    # Polars refuses some lengths ("1mo2d") only when it computes.
    window.assign(pl.DataFrame({column: [0]}, schema={column: pl.Int64}).lazy().cast({column: dtype})).collect()
    return window


def _check_words(start_by: str, closed: str, label: str, column: str) -> None:
    because = "the first row of a window is unknown while earlier ones may come"
    if start_by != "window":
        raise UnsupportedOperationError(
            f"group_by_dynamic(start_by={start_by!r})", because=because, instead="leave it out, and use offset="
        )
    if label == "datapoint":
        instead = f"label='left', and pl.col({column!r}).min() in agg"
        raise UnsupportedOperationError("group_by_dynamic(label='datapoint')", because=because, instead=instead)
    for name, value, valid in (("closed", closed, get_args(Closed)), ("label", label, ("left", "right"))):
        if value not in valid:
            raise PlanError(f"group_by_dynamic({name}={value!r}) is not known. Write one of {', '.join(valid)}")


def _check_lengths(window: Window, dtype: pl.DataType) -> None:
    for name, length in (("every", window.every), ("period", window.period)):
        if not is_positive(length):
            raise PlanError(f"group_by_dynamic({name}={length!r}): windows need a length above zero")
    lengths = [length for length in (window.every, window.period, window.offset) if length is not None]
    if dtype == pl.Date and any(has_hours(length) for length in lengths):
        raise PlanError(
            f"group_by_dynamic({window.column!r}) with {', '.join(lengths)}: the column is Date, which has no hours. "
            f"Write whole days, or .cast({{{window.column!r}: pl.Datetime}}) before it"
        )
    if getattr(dtype, "time_zone", None) in (None, "UTC"):
        return
    uneven = [window.every] if not is_calendar(window.every) and not divides_the_hour(window.every) else []
    if window.offset is not None and is_calendar(window.every) and has_hours(window.offset):
        uneven.append(window.offset)
    if uneven:
        raise PlanError(
            f"group_by_dynamic({window.column!r}) with {', '.join(uneven)}: days of {dtype} have 23 or 25 hours where "
            "the clocks change, and such windows would overlap or leave gaps. Use parts of an hour or whole days, or "
            f'.with_columns(pl.col({window.column!r}).dt.convert_time_zone("UTC")) before it'
        )
