"""The queries that run in this process: their handles, their threads, their end."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TypeAlias

import polars as pl

from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Mode, Sink, WatermarkPolicy
from unbounded.errors import PlanError, UnboundedStateWarning
from unbounded.plan import Node
from unbounded.progress import Listener, LiveLine, Progress, QueryStatus
from unbounded.query import MicroBatches
from unbounded.storage import open_storage
from unbounded.trigger import AvailableNow, Once, Trigger, checked

__all__ = ["StreamingQuery", "StreamingQueryManager", "start", "streams"]

_Task: TypeAlias = Callable[[], None]
_Look: TypeAlias = Callable[[], Progress | None]
_log = logging.getLogger("unbounded")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0  # seconds between looks for new rows while none come


class StreamingQuery:
    """A running query. Its answer is in the sink; this is the handle to watch and to stop it."""

    def __init__(self, batches: MicroBatches, sink: Sink, trigger: Trigger, name: str | None, place: str) -> None:
        self._batches, self._sink, self._trigger, self._name = batches, sink, trigger, name
        self.place = place
        self._progress: deque[Progress] = deque(maxlen=100)
        self._error: BaseException | None = None
        self._observed = False
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._idle = threading.Condition()
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
        """The plan, what is remembered for how long, and what the sink guarantees."""
        return self._batches.explain()

    def read(self) -> pl.LazyFrame:
        """What a reader of the sink sees now."""
        return self._sink.read()

    def __repr__(self) -> str:
        label = self._name or self.place
        if self._error is not None:
            return f"<StreamingQuery {label!r} failed: {type(self._error).__name__}: {self._error}>"
        last = f", {self.last_progress.line}" if self.last_progress else ""
        return f"<StreamingQuery {label!r} {'active' if self.is_active else 'stopped'}{last}>"

    # What one does with it ----------------------------------------------------------------------
    def stop(self, timeout: float | None = None) -> None:
        """Finish the batch that runs, commit it, and end. TimeoutError with the stuck stack after `timeout` seconds."""
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
                ends = self._batches.ends()
                while not self._stopping.is_set() and self._look(lambda: self._batches.run_once(ends=ends)):
                    continue
                if final and not self._stopping.is_set():
                    self._look(self._batches.finish)
                elif not self._stopping.is_set() and (left := self._batches.still_open()):
                    _log.warning("%s", left)
            case every:
                pause = _SHORTEST_PAUSE
                while not self._stopping.is_set():
                    started = time.monotonic()
                    found = self._look(self._batches.run_once)
                    pause = _SHORTEST_PAUSE if found else min(2 * pause, _LONGEST_PAUSE)
                    wait = max(every.pause(started, time.monotonic()), 0.0 if found else pause)
                    if self._wake.wait(wait):
                        self._wake.clear()

    def _look(self, run: _Look) -> bool:
        with self._idle:
            self._looks_begun += 1
            mine = self._looks_begun
        self._message = "Processing new data"
        progress = run()
        if progress is not None:
            self._progress.append(progress)
            self._tell("on_query_progress", progress)
            return True
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
        """Run maintenance beside the next batches; while one still runs, the next is left out."""
        if self._tidying is None or self._tidying.done():
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
                getattr(listener, event)(*facts)
            except BaseException:  # not even sys.exit() in a listener ends the query
                _log.warning("listener %r failed in %s", listener, event, exc_info=True)

    @property
    def failed_unobserved(self) -> bool:
        """Whether it failed and nobody asked."""
        return self._error is not None and not self._observed


class StreamingQueryManager:
    """All queries of this process, as `ub.streams`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queries: list[StreamingQuery] = []
        self._listeners: list[Listener] = []

    @property
    def active(self) -> list[StreamingQuery]:
        """The queries that run now."""
        return [query for query in self._queries if query.is_active]

    def get(self, id: str) -> StreamingQuery | None:
        """The running query with this id."""
        return next((query for query in self.active if query.id == id), None)

    def add_listener(self, listener: Listener) -> None:
        """Tell a listener of queries that start from now on."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Tell a listener of no further query."""
        self._listeners.remove(listener)

    def await_any_termination(self, timeout: float | None = None) -> bool:
        """Wait until one of the queries that run now has ended; True if one did. Raises its error."""
        watched = self.active
        until = None if timeout is None else time.monotonic() + timeout
        while watched:
            for query in watched:
                if query.await_termination(0.01):
                    return True
            if until is not None and time.monotonic() >= until:
                return False
        return True

    def make_room(self, place: str, name: str | None) -> None:
        """Stop a run of this process that holds the same checkpoint or name, after its batch."""
        for query in self.active:
            if query.place == place or (name is not None and query.name == name):
                _log.warning("stopping the earlier run of %r, which this start replaces", query.name or query.place)
                query.stop()

    def hold(self, query: StreamingQuery, listeners: Sequence[Listener]) -> None:
        """Begin a query, and know it until the process ends."""
        with self._lock:
            self._queries = [one for one in self._queries if one.is_active or one.failed_unobserved] + [query]
        query.begin([*self._listeners, *listeners])

    def end(self) -> None:
        """At interpreter exit: let running queries finish their batch; fail loudly for what nobody looked at."""
        for query in self.active:
            _log.warning("stopping query %r after its batch, for the interpreter exits", query.name or query.place)
            query.stop()
        failed = [query for query in self._queries if query.failed_unobserved]
        for query in failed:
            traceback.print_exception(query._error)
        if failed:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


streams = StreamingQueryManager()
atexit.register(streams.end)


def start(
    plan: Node,
    sink: Sink,
    *,
    checkpoint: str | os.PathLike[str] | None,
    mode: Mode,
    trigger: Trigger,
    name: str | None,
    state: str | None,
    wait: bool | None,
    watermark_policy: WatermarkPolicy | None,
    reread_bounded: str | timedelta | None,
) -> StreamingQuery:
    """Check, open and begin a query; see `StreamFrame.sink`."""
    trigger = checked(trigger)
    if state not in (None, "memory"):
        raise PlanError(
            f"state is {state!r}, and there is no such home of state. Write state='memory', or leave it out"
        )
    if watermark_policy not in (None, "min", "max"):
        raise PlanError(f"watermark_policy is {watermark_policy!r}. Write 'min' (the slowest input decides) or 'max'")
    if checkpoint is None and sink.guarantee != "none":
        raise PlanError(
            f'{sink.description} needs a checkpoint to continue where it stopped. Write checkpoint="ckpt/<name>", a '
            "folder of its own for this query"
        )
    # numpy and pyarrow, which a script that only describes queries need not wait for.
    from unbounded.state.memory import MemoryHome  # noqa: PLC0415

    storage = open_storage(f"memory://unbounded-{uuid.uuid4()}" if checkpoint is None else checkpoint)
    queries: list[StreamingQuery] = []
    batches = MicroBatches(
        plan,
        sink,
        mode=mode,
        checkpoint=Checkpoint(storage),
        home=MemoryHome(storage),
        name=name,
        watermark_policy=watermark_policy,
        reread_bounded=reread_bounded,
        background=lambda task: queries[0].tidy_later(task),
        forget_at_end=checkpoint is None,
    )
    for growth in batches.growths():
        warnings.warn(growth, UnboundedStateWarning, stacklevel=4)  # at the user's own call of a sink
    query = StreamingQuery(batches, sink, trigger, name, storage.url)
    queries.append(query)
    streams.make_room(storage.url, name)
    try:
        batches.open()
    except BaseException:
        batches.close()
        raise
    waits = isinstance(trigger, AvailableNow | Once) if wait is None else wait
    streams.hold(query, [LiveLine()] if waits else [])
    if waits:
        try:
            query.await_termination()
        except KeyboardInterrupt:  # nobody has the handle yet
            query.stop()
            raise
    return query
