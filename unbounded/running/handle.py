"""One query that runs: the handle of those who watch it, and the thread that takes batch after batch."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import polars as pl

from unbounded.cards import ShownQuery
from unbounded.connectors import Sink
from unbounded.errors import PlanError
from unbounded.progress import Listener, Progress, QueryStatus
from unbounded.query import MicroBatches
from unbounded.trigger import AvailableNow, Once, Trigger

__all__ = ["StreamingQuery"]

_Task: TypeAlias = Callable[[], None]
_Look: TypeAlias = Callable[[], Progress | None]
_log = logging.getLogger("unbounded")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # seconds between looks for new rows while none come
_IDLE = 10.0  # seconds without a batch after which listeners are told so, each time


class StreamingQuery(ShownQuery):
    """A running query. Its answer is in the sink; this is the handle to watch and to stop it."""

    def __init__(self, batches: MicroBatches, sink: Sink, trigger: Trigger, name: str | None, place: str) -> None:
        self._batches, self._sink, self._trigger, self._name = batches, sink, trigger, name
        self.place = place
        self._progress: deque[Progress] = deque(maxlen=100)
        self._error: BaseException | None = None
        self._observed = False
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._idle = threading.Condition()
        self._told = time.monotonic()  # when listeners last heard of a batch, or that none came
        self._looks_begun = self._looks_in_vain = 0
        self._message = "Initializing"
        self._listeners: tuple[Listener, ...] = ()
        self._begun, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"unbounded {name or place}", daemon=True)
        self._maintenance = ThreadPoolExecutor(1, thread_name_prefix="unbounded maintenance")
        self._tidying: Future[None] | None = None

    # What it is ---------------------------------------------------------------------------------
    @property
    def id(self) -> str:
        """The same for every run on the same checkpoint."""
        return self._batches.id

    @property
    def run_id(self) -> str:
        """New for every start."""
        return self._batches.run_id

    @property
    def name(self) -> str | None:
        """As given at the start."""
        return self._name

    @property
    def is_active(self) -> bool:
        """Whether the query runs, or may still write."""
        return self._begun.is_set() and not self._ended.is_set()

    @property
    def status(self) -> QueryStatus:
        """What it does right now."""
        busy = self._message == "Processing new data"
        return QueryStatus(self._message, is_data_available=busy, is_trigger_active=busy)

    @property
    def last_progress(self) -> Progress | None:
        """The newest batch of this run; None before the first."""
        return self._progress[-1] if self._progress else None

    @property
    def recent_progress(self) -> list[Progress]:
        """Up to 100 batches of this run, oldest first."""
        return list(self._progress)

    def exception(self) -> BaseException | None:
        """The error that ended the query, or None."""
        self._observed = True
        return self._error

    def explain(self) -> str:
        """The plan, what is remembered, for how long and where, and what the sink guarantees."""
        return self._batches.explain()

    def read(self) -> pl.LazyFrame:
        """What a reader of the sink sees now."""
        return self._sink.read()

    # What one does with it ----------------------------------------------------------------------
    def stop(self, timeout: float | None = None) -> None:
        """Finish the batch that runs, commit it, and end. TimeoutError with the stuck stack after `timeout` seconds.

        While one becomes durable the next may run already: then both are committed.
        """
        self._stopping.set()
        self._wake.set()
        if threading.current_thread() is self._thread:
            return
        if not self._wait(timeout):
            frame = sys._current_frames().get(self._thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            raise TimeoutError(
                f"the batch did not end within {timeout} s; it will be the last one. It is here:\n{stack}"
            )

    def await_termination(self, timeout: float | None = None) -> bool:
        """Wait until the query ends; True if it did within `timeout` seconds. Raises the query's error."""
        self._refuse_own_thread("await_termination")
        ended = self._wait(timeout)
        self._raise()
        return ended

    def process_all_available(self) -> None:
        """Wait until everything that is there now has been processed and committed. Raises the query's error."""
        self._refuse_own_thread("process_all_available")
        with self._idle:
            begun = self._looks_begun
            self._wake.set()
            while self.is_active and self._looks_in_vain <= begun:
                self._idle.wait(0.05)
                self._wake.set()
        self._raise()

    def _wait(self, timeout: float | None) -> bool:
        """Whether the query ended in time. In short waits, for Ctrl-C does not wake a join once Polars is loaded."""
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ended.is_set():
            left = 0.1 if until is None else min(0.1, until - time.monotonic())
            if left <= 0:
                return False
            self._ended.wait(left)
        return True

    def _refuse_own_thread(self, asked: str) -> None:
        if threading.current_thread() is self._thread:
            raise PlanError(
                f"{asked}() inside the query's own batch would wait for itself. Call it from another thread"
            )

    def _raise(self) -> None:
        if self._error is not None:
            self._observed = True
            raise self._error

    # The thread ---------------------------------------------------------------------------------
    def begin(self, listeners: Sequence[Listener]) -> None:
        """Start the thread; the batches are open."""
        self._listeners = tuple(listeners)
        self._tell("on_query_started", self.id, self.run_id, self._name)
        self._begun.set()
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # the thread must not die silently, whatever was raised
            self._fail(error)
        try:
            self._maintenance.shutdown(wait=True)
            self._batches.close()
        except BaseException as error:
            if self._error is None:
                self._fail(error)
        finally:
            self._message = "Terminated with exception" if self._error else "Stopped"
            self._tell("on_query_terminated", self.id, self.run_id, self._error)
            self._ended.set()
            with self._idle:
                self._idle.notify_all()

    def _loop(self) -> None:
        match self._trigger:
            case Once():
                self._look(lambda: self._batches.run_once(limited=False))
            case AvailableNow(final=final):
                run = partial(self._batches.run_once, ends=self._batches.ends(), ahead=self._goes_on)
                while self._has_more() and self._look(run):
                    continue
                if final and not self._stopping.is_set():
                    self._look(self._batches.finish)
                elif not self._stopping.is_set() and (left := self._batches.still_open()):
                    _log.warning("%s", left)
            case every:
                pause = _SHORTEST_PAUSE
                # A batch of an interval begins at its tick; without one it may begin while the one before ends.
                run = partial(self._batches.run_once, ahead=lambda: every.seconds == 0 and self._goes_on())
                while self._has_more():
                    started = time.monotonic()
                    found = self._look(run)
                    pause = _SHORTEST_PAUSE if found else min(2 * pause, _LONGEST_PAUSE)
                    due = 0.0 if self._batches.is_catching_up else every.pause(started, time.monotonic())
                    wait = max(due, 0.0 if found else pause)
                    if self._wake.wait(wait):
                        self._wake.clear()

    def _goes_on(self) -> bool:
        """Whether a new batch may begin."""
        return not self._stopping.is_set()

    def _has_more(self) -> bool:
        """Whether there is another turn. A batch that was begun is the one that runs when the query is stopped."""
        return self._goes_on() or self._batches.is_ahead

    def _look(self, run: _Look) -> bool:
        with self._idle:
            self._looks_begun += 1
            mine = self._looks_begun
        self._message = "Processing new data"
        progress = run()
        if progress is not None:
            self._progress.append(progress)
            self._tell("on_query_progress", progress)
            self._told = time.monotonic()
            return True
        if time.monotonic() - self._told >= _IDLE:
            self._tell("on_query_idle", self.id, self.run_id)
            self._told = time.monotonic()
        self._message = "Waiting for data to arrive"
        with self._idle:
            self._looks_in_vain = mine
            self._idle.notify_all()
        return False

    def _fail(self, error: BaseException) -> None:
        where = self._batches.describe_pending()
        error.add_note(f"{where}, query {self._name or self.place!r}")
        self._error = error
        _log.error("query %r failed %s", self._name or self.place, where, exc_info=error)

    def tidy_later(self, task: _Task) -> None:
        """Run maintenance beside the next batches; one that still waits for its turn is left out for a newer one."""
        if self._tidying is not None:
            self._tidying.cancel()
        try:
            self._tidying = self._maintenance.submit(self._tidy, task)
        except RuntimeError:  # the interpreter exits, and takes no new work; the next start tidies
            return

    def _tidy(self, task: _Task) -> None:
        try:
            task()
        except Exception:
            _log.warning(
                "maintenance of query %r failed and will be tried again", self._name or self.place, exc_info=True
            )

    def _tell(self, event: str, *facts: object) -> None:
        for listener in self._listeners:
            try:
                if event != "on_query_idle" or hasattr(listener, event):
                    getattr(listener, event)(*facts)
            except BaseException:  # not even sys.exit() in a listener ends the query
                _log.warning("listener %r failed in %s", listener, event, exc_info=True)

    @property
    def has_ended(self) -> bool:
        """Whether it ran, and does no more."""
        return self._ended.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether an error ended it."""
        return self._error is not None

    @property
    def failed_unobserved(self) -> bool:
        """Whether it failed and nobody asked."""
        return self._error is not None and not self._observed

    # Spark's spelling ---------------------------------------------------------------------------
    runId, isActive, lastProgress, recentProgress = run_id, is_active, last_progress, recent_progress
    awaitTermination, processAllAvailable = await_termination, process_all_available
