"""Which windows of a slice are still to come, and what do those that are due hold?

Windows of `many` times `every` that start `every` so long overlap, and a slice is what lies between two of their
bounds: each of its rows is in the same `many` windows. So a group is kept by slices, which are never more than its
windows, and often `many` times fewer; a window is put together of its slices when it is due, and a slice is let go with
the last of its windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import polars as pl

from unbounded.durations import fixed_nanoseconds
from unbounded.plan.lineage import Clock
from unbounded.plan.windows import LABEL, NANOSECONDS_PER_TICK, Closed, Window

__all__ = ["EXPIRY", "Sliding"]

EXPIRY: Final = "__expiry__"
"""The column with the instant, in epoch ms, at which the first of a row's windows that is still to come closes."""

_END: Final = "__end__"
_MOST: Final = 2**62  # beyond the number of any bound, and twice that is an Int64 still
_LARGE: Final = 10_000
"""Rows from which the streaming engine wins; 52,000 rows in five windows each: 25 ms, in memory 60."""


@dataclass(frozen=True)
class Sliding:
    """Windows that overlap, and hold each of their slices whole. A slice is told by a time in it, in `LABEL`.

    Bounds are numbered: bound n lies at `first + n * every`, in ticks of the column. A window is told by the number of
    the bound at its end. It closes `behind` ms after its end.
    """

    every: int
    first: int
    many: int
    closed: Closed
    label: Literal["left", "right"]
    boundaries: bool
    behind: int

    @staticmethod
    def of(window: Window, clocks: Mapping[str, Clock]) -> Sliding | None:
        """The windows of a node, if a group of which these are the `clocks` can be kept by slices; or None."""
        every, period, offset = map(fixed_nanoseconds, (window.every, window.period, window.offset or "0s"))
        if window.slice is None or every is None or period is None or offset is None:
            return None
        # With both bounds or none a bound is a slice of its own. Windows side by side gain nothing.
        whole = window.closed in ("left", "right") and period > every and period % every == 0
        if not whole or not clocks or not clocks.keys() <= set(window.labels):
            return None
        (behind,) = {clock.behind for clock in clocks.values()}
        tick = NANOSECONDS_PER_TICK[_unit(window.input.schema[window.column])]
        first = offset % every // tick
        return Sliding(every // tick, first, period // every, window.closed, window.label, window.boundaries, behind)

    def next_closing(self, dtype: pl.DataType, mark: int | None) -> pl.Expr:
        """When the first window of a slice closes that is open at a watermark, if any is; in epoch ms."""
        end, passed = self._first_end, self._passed(dtype, mark)
        if passed is not None:
            end = pl.max_horizontal(end, pl.lit(passed + 1, pl.Int64))
        up, down = _milliseconds_per_tick(dtype)
        ticks = end * self.every + self.first
        return -(-ticks * up // down) + self.behind

    def closed_of(self, slices: pl.DataFrame, mark: int | None) -> pl.Series | None:
        """How many windows of each slice have closed at a watermark; None if no window of any."""
        passed = self._passed(slices.schema[LABEL], mark)
        if passed is None or not slices.height:
            return None
        ends = slices.select(self._first_end).to_series()
        if ends.min() > passed:  # type: ignore[operator]  # there are rows, and none is null
            return None
        return (passed + 1 - ends).clip(0, self.many)

    def staying(self, slices: pl.DataFrame, mark: int) -> pl.DataFrame:
        """The slices of which a window is open at a watermark, until the next one closes."""
        passed = self._passed(slices.schema[LABEL], mark)
        assert passed is not None
        kept = slices.filter(self._first_end > passed + 1 - self.many)
        return kept.with_columns(self.next_closing(slices.schema[LABEL], mark).alias(EXPIRY)) if kept.height else kept

    def windows(self, slices: pl.DataFrame, merge: tuple[pl.Expr, ...], until: int | None) -> pl.LazyFrame:
        """Every window of the slices that has not been shown, and closes at or before a watermark; of None, all.

        Slices have the columns of a group, `LABEL`, those that `merge` folds, and `EXPIRY`; so have the windows, but
        for the last.
        """
        dtype = slices.schema[LABEL]
        folded = [one.meta.output_name() for one in merge]
        own = [name for name in slices.columns if name not in (LABEL, EXPIRY, *folded)]
        up, down = _milliseconds_per_tick(dtype)
        shown = ((pl.col(EXPIRY) - (self.behind + 1)) * down // up - self.first) // self.every  # ends before that ms
        since, last = pl.max_horizontal(self._first_end, shown + 1), self._first_end + (self.many - 1)
        passed = self._passed(dtype, until)
        if passed is not None:
            last = pl.min_horizontal(last, pl.lit(passed, pl.Int64))
        several = slices.lazy().select(*own, pl.int_ranges(since, last + 1).alias(_END), *folded).explode(_END)
        found = several.group_by(*own, _END).agg(merge)
        if slices.height >= _LARGE:
            found = found.collect(engine="streaming").lazy()
        upper = pl.col(_END) * self.every + self.first
        lower = upper - self.many * self.every
        columns = [(lower if self.label == "left" else upper).cast(dtype).alias(LABEL)]
        if self.boundaries:
            columns += [lower.cast(dtype).alias("_lower_boundary"), upper.cast(dtype).alias("_upper_boundary")]
        return found.with_columns(columns).drop(_END)

    def record(self) -> dict[str, Any]:
        """As JSON: the arguments of another one."""
        return asdict(self)

    @property
    def _first_end(self) -> pl.Expr:
        """The number of the end of a slice's first window; it is in the window of each of the next ends, too."""
        # A slice is told by its lower bound if windows hold theirs, and else by its upper one.
        number = (pl.col(LABEL).to_physical().cast(pl.Int64) - self.first) // self.every
        return number + 1 if self.closed == "left" else number

    def _passed(self, dtype: pl.DataType, mark: int | None) -> int | None:
        """The number of the last end whose window has closed at a watermark; None without one."""
        if mark is None:
            return None
        up, down = _milliseconds_per_tick(dtype)
        found = ((mark - self.behind) * down // up - self.first) // self.every
        return max(-_MOST, min(found, _MOST))


def _unit(dtype: pl.DataType) -> str:
    return dtype.time_unit if isinstance(dtype, pl.Datetime) else "d"


def _milliseconds_per_tick(dtype: pl.DataType) -> tuple[int, int]:
    """As a fraction of whole numbers."""
    tick, millisecond = NANOSECONDS_PER_TICK[_unit(dtype)], NANOSECONDS_PER_TICK["ms"]
    return (tick // millisecond, 1) if tick >= millisecond else (1, millisecond // tick)
