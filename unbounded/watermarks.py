"""What is a watermark on, and how far has it come, where several inputs tell? Instants are epoch milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import polars as pl

from unbounded.connectors import WatermarkPolicy
from unbounded.durations import milliseconds, shortest
from unbounded.errors import PlanError
from unbounded.plan import Node, Scan, Watermark, walk
from unbounded.plan.lineage import clocks
from unbounded.plan.windows import time_column

__all__ = ["Patience", "advanced", "settled", "watermarked"]

_FIRST: Final = -(2**63) + 1  # in epoch ms; without the very least Int64, which has no negative

_log = logging.getLogger("unbounded")


def watermarked(node: Node, column: str | pl.Expr, delay: str | timedelta) -> Node:
    """The node with a watermark on `column`; the node itself where that is event time, of this delay, already.

    PlanError if the column is missing or no event time, or if another watermark was declared below.
    """
    column = time_column(node, column, "with_watermark", "event time must be")
    asked = f"with_watermark({column!r})"
    length = milliseconds(delay, f"the delay of the watermark on {column!r}")
    name = "+".join(sorted({one.name for one in walk(node) if isinstance(one, Scan)}))
    marks = [one for one in walk(node) if isinstance(one, Watermark)]
    if not marks:
        return Watermark(node, column, length, name)
    if column in clocks(node) and all(one.delay == length for one in marks):
        return node
    other = next((one for one in marks if (one.column, one.delay) != (column, length)), None)
    if other is None and any(one.name == name for one in marks):
        raise PlanError(
            f"{asked}: source {name!r} has this watermark, and {column!r} was computed anew behind it, so that it is "
            "another time now. Declare it once, behind the computation, or give what is computed another name"
        )
    one = other or marks[0]
    raise PlanError(
        f"{asked} with a delay of {shortest(length)}: source {one.name!r} already has a watermark on {one.column!r} "
        f"with a delay of {shortest(one.delay)}. Keep one of the two"
    )


def advanced(marks: Mapping[str, int], seen: Mapping[str, int], delays: Mapping[str, int]) -> dict[str, int]:
    """The watermark of each input after a batch that saw these newest times; none goes back, nor before all time."""
    reached = {name: max(newest - delays[name], _FIRST) for name, newest in seen.items()}
    return {**marks, **{name: max(mark, marks.get(name, mark)) for name, mark in reached.items()}}


def _combined(
    marks: Mapping[str, int], names: Collection[str], policy: WatermarkPolicy, before: int | None
) -> int | None:
    """The one watermark of a query, which never goes back: the least of all once each has one, or the greatest."""
    known = [marks[name] for name in names if name in marks]
    if not known or (policy == "min" and len(known) < len(names)):
        return before
    found = min(known) if policy == "min" else max(known)
    return found if before is None else max(found, before)


class Patience:
    """For which watermarks does a query wait? Not for those of sources that have sent nothing for their timeout.

    `marks` are the watermarks by name, `scans` the sources. Time is that of the clock on the wall, and counts from the
    start of a run, for before it no source could send. What it decides goes into the intent of a batch as the
    watermark, so that the batch decides the same when it is run again. Mutable: it notes when each source was heard.
    """

    def __init__(self, marks: Mapping[str, Watermark], scans: Mapping[str, Scan]) -> None:
        self._timeouts = {
            name: timedelta(milliseconds=scan.idle_timeout)
            for name, scan in scans.items()
            if scan.idle_timeout is not None
        }
        self._sources = {
            name: {one.name for one in walk(mark) if isinstance(one, Scan)} for name, mark in marks.items()
        }
        self.delays = {name: mark.delay for name, mark in marks.items()}
        self._heard: dict[str, datetime] = {}

    def hear(self, sources: Iterable[str], now: datetime) -> None:
        """These sources have rows; any that was never heard begins to be silent now."""
        self._heard = dict.fromkeys(self._timeouts, now) | self._heard | dict.fromkeys(sources, now)

    def least(
        self,
        marks: Mapping[str, int],
        policy: WatermarkPolicy,
        before: int | None,
        now: datetime,
        resting: Collection[str] = (),
    ) -> int | None:
        """The watermark of the query by these of its inputs: that of `_combined`, without idle and `resting` ones.

        Where all are idle none is slower than the others, so it is the greatest.
        """
        idle = {
            *resting,
            *(one for one, timeout in self._timeouts.items() if now - self._heard.get(one, now) >= timeout),
        }
        awaited = [name for name, sources in self._sources.items() if not sources <= idle]
        if not awaited:
            return _combined(marks, self.delays, "max", before)
        return _combined(marks, awaited if policy == "min" else self.delays, policy, before)

    def explain(self, policy: WatermarkPolicy) -> list[str]:
        """A line that says how one watermark comes of several, and for which sources it does not wait for ever."""
        named = (f"{name!r} after {timeout.total_seconds():g} s" for name, timeout in self._timeouts.items())
        unless = f"; it no longer waits for a source without rows: {', '.join(named)}" if self._timeouts else ""
        return [f"watermark: the {policy} of {', '.join(self.delays)}{unless}"] if len(self.delays) > 1 else []


def settled(asked: WatermarkPolicy | None, began: WatermarkPolicy, *, where: str, several: bool) -> WatermarkPolicy:
    """The policy that a checkpoint began with: rows were dropped, and groups closed, by it. Says so if it matters."""
    if several and asked not in (None, began):
        _log.warning(
            "watermark_policy=%r is not used: %s began with %r, and keeps it. To change it, start with a new "
            "checkpoint and a new output path",
            asked,
            where,
            began,
        )
    return began
