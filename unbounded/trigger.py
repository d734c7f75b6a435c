"""When may the next batch start, and when is the run over?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from unbounded.durations import milliseconds
from unbounded.errors import PlanError

__all__ = ["AvailableNow", "Once", "ProcessingTime", "Trigger", "available_now", "checked", "once", "processing_time"]


@dataclass(frozen=True)
class ProcessingTime:
    """Run for ever; start a batch every `seconds`, or at once when the one before took longer."""

    seconds: float

    def pause(self, started: float, now: float) -> float:
        """Seconds to wait after a batch that began at `started`; none where it took longer than the interval."""
        return max(0.0, self.seconds - (now - started))


@dataclass(frozen=True)
class AvailableNow:
    """Process what is there at the start, in batches of the sources' limits, then stop.

    `final` declares the input ended: after the last row the watermark becomes infinite, every group
    closes, and the checkpoint is marked finished.
    """

    final: bool = False


@dataclass(frozen=True)
class Once:
    """One batch, of everything that is there, limits ignored; then stop, though the watermark may have moved."""


Trigger: TypeAlias = ProcessingTime | AvailableNow | Once


def processing_time(interval: str | timedelta = "0s") -> ProcessingTime:
    """A batch every `interval`, without end; "0s" starts the next as soon as there are rows.

    >>> processing_time("5 seconds")
    ProcessingTime(seconds=5.0)
    """
    return ProcessingTime(milliseconds(interval, "interval") / 1000)


def available_now(*, final: bool = False) -> AvailableNow:
    """Process all that is there now, then stop; with `final`, also close every group, for no more rows will come."""
    return AvailableNow(final)


def once() -> Once:
    """One batch, as Spark's deprecated trigger. Prefer `available_now`, which honours limits and closes windows."""
    return Once()


def checked(trigger: object) -> Trigger:
    """The trigger itself; PlanError for anything else, naming the function to call."""
    if isinstance(trigger, ProcessingTime | AvailableNow | Once):
        return trigger
    called = "ub.processing_time('5s'), ub.available_now() or ub.once()"
    if trigger in (processing_time, available_now, once):
        raise PlanError(f"trigger is the function {trigger.__name__}. Write it called: trigger=ub.{trigger.__name__}()")
    if isinstance(trigger, str) and not any(sign.isdigit() for sign in trigger):
        raise PlanError(f"trigger is {trigger!r}. Write trigger={called}")
    if isinstance(trigger, str | timedelta):
        raise PlanError(f"trigger is {trigger!r}, which is a length. Write trigger=ub.processing_time({trigger!r})")
    raise PlanError(f"trigger is {trigger!r}. Write trigger={called}")
