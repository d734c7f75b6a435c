"""How does a loop take the answer of a query, batch by batch, in its own thread?"""

from __future__ import annotations

import logging
import time
import uuid
import warnings
from collections.abc import Generator
from datetime import timedelta

import polars as pl

from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Mode, WatermarkPolicy
from unbounded.errors import UnboundedStateWarning
from unbounded.plan import Node
from unbounded.query import MicroBatches
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.state.homes import checked_state, open_home
from unbounded.storage import open_storage
from unbounded.trigger import AvailableNow, Once, Trigger, checked

__all__ = ["batches_of"]

_log = logging.getLogger("unbounded")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # seconds between looks for new rows while none come


def batches_of(
    plan: Node,
    *,
    mode: Mode,
    trigger: Trigger,
    watermark_policy: WatermarkPolicy | None,
    reread_bounded: str | timedelta | None,
    lazy: bool,
) -> Generator[pl.DataFrame, None, None]:
    """The rows of one batch after another; see `StreamFrame.collect_batches`.

    A batch runs when its frame is asked for, so there is no thread, no queue, and nothing ahead of the loop.
    """
    taken: list[pl.DataFrame] = []

    def take(rows: pl.DataFrame, batch_id: int) -> None:
        taken.append(rows)

    storage = open_storage(f"memory://unbounded-{uuid.uuid4()}")
    batches = MicroBatches(
        plan,
        EachBatchSink(take),
        mode=mode,
        checkpoint=Checkpoint(storage),
        home=open_home(checked_state(None), storage, ""),
        watermark_policy=watermark_policy,
        reread_bounded=reread_bounded,
        forget_at_end=True,
    )
    for growth in batches.growths():
        warnings.warn(growth, UnboundedStateWarning, stacklevel=3)  # at the user's own call
    steps = _steps(batches, checked(trigger))
    if not lazy:
        next(steps)
    return _frames(steps, taken)


def _frames(steps: Generator[None, None, None], taken: list[pl.DataFrame]) -> Generator[pl.DataFrame, None, None]:
    # When this ends or is forgotten, so is `steps`, which then closes the batches.
    for _ in steps:
        while taken:
            yield taken.pop()


def _steps(batches: MicroBatches, trigger: Trigger) -> Generator[None, None, None]:
    """Open the query, then run a batch a step, as the trigger says; close it at the end."""
    try:
        batches.open()
        ends = batches.ends()
        yield
        match trigger:
            case Once():
                batches.run_once(limited=False)
                yield
            case AvailableNow(final=final):
                while batches.run_once(ends=ends) is not None:
                    yield
                if final and batches.finish() is not None:
                    yield
                elif not final and (left := batches.still_open()):
                    _log.warning("%s", left)
            case every:
                pause = _SHORTEST_PAUSE
                while True:
                    started = time.monotonic()
                    found = batches.run_once() is not None
                    if found:
                        yield
                    pause = _SHORTEST_PAUSE if found else min(2 * pause, _LONGEST_PAUSE)
                    due = 0.0 if batches.is_catching_up else every.pause(started, time.monotonic())
                    _rest(max(due, 0.0 if found else pause))
    finally:
        batches.close()


def _rest(seconds: float) -> None:
    """Wait. In short naps, for Ctrl-C does not always wake a sleep once Polars is loaded."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
