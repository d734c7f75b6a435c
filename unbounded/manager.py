"""The queries that run in this process: how they start, who listens, and their end."""

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
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from unbounded.cards import ShownQueries
from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Mode, Sink, WatermarkPolicy
from unbounded.errors import PlanError, UnboundedStateWarning
from unbounded.plan import Node
from unbounded.progress import Listener, LiveLine
from unbounded.query import MicroBatches
from unbounded.running.beside import Beside
from unbounded.running.handle import StreamingQuery
from unbounded.spark.listener import SparkListener, as_listener
from unbounded.state.homes import StateOptions, checked_state, folder_for, open_home
from unbounded.storage import open_storage
from unbounded.trigger import AvailableNow, Once, Trigger, checked

__all__ = ["StreamingQueryManager", "await_end", "is_awaited", "start", "streams"]

_log = logging.getLogger("unbounded")


class StreamingQueryManager(ShownQueries):
    """All queries of this process, as `ub.streams`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queries: list[StreamingQuery] = []
        self._watched: list[StreamingQuery] = []  # whose end `await_any_termination` tells
        self._listeners: list[Listener] = []

    @property
    def active(self) -> list[StreamingQuery]:
        """The queries that run now."""
        return [query for query in self._queries if query.is_active]

    def get(self, id: str) -> StreamingQuery | None:
        """The running query with this id."""
        return next((query for query in self.active if query.id == id), None)

    def add_listener(self, listener: Listener | SparkListener) -> None:
        """Tell a listener of queries that start from now on. One written for Spark hears Spark's events."""
        self._listeners.append(as_listener(listener))

    def remove_listener(self, listener: Listener | SparkListener) -> None:
        """Tell a listener of no further query."""
        self._listeners.remove(as_listener(listener))

    def await_any_termination(self, timeout: float | None = None) -> bool:
        """Wait until a query has ended; True if one did within `timeout` seconds. Raises its error.

        As in Spark, one that ended before counts, until `reset_terminated` is called; runs that their own sink call
        waited for do not. False at once if none runs and none has ended.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            running = self.active
            ended = self._terminated()
            if ended:
                return ended[0].await_termination()
            if not running or (until is not None and time.monotonic() >= until):
                return False
            time.sleep(0.01)

    def reset_terminated(self) -> None:
        """Forget the queries that have ended, so that `await_any_termination` waits for the next one."""
        self._watched = [query for query in self._watched if not query.has_ended]

    def _terminated(self) -> list[StreamingQuery]:
        """The watched queries that have ended, failed ones first."""
        ended = [query for query in self._watched if query.has_ended]
        return sorted(ended, key=lambda query: not query.has_failed)

    def make_room(self, place: str, name: str | None) -> None:
        """Stop a run of this process that holds the same checkpoint or name, after its batch."""
        for query in self.active:
            if query.place == place or (name is not None and query.name == name):
                _log.warning("stopping the earlier run of %r, which this start replaces", query.name or query.place)
                query.stop()

    def hold(self, query: StreamingQuery, listeners: Sequence[Listener], *, watched: bool = True) -> None:
        """Begin a query, and know it until the process ends."""
        with self._lock:
            if watched:  # of those that ended, one is enough
                self._watched = [one for one in self._watched if not one.has_ended] + self._terminated()[:1] + [query]
            self._queries = [one for one in self._queries if one.is_active or one.failed_unobserved] + [query]
        query.begin([*self._listeners, *listeners])

    def end(self) -> None:
        """At interpreter exit: let running queries finish their batch; fail loudly for what nobody looked at."""
        for query in self.active:
            _log.warning("stopping query %r after its batch, for the interpreter exits", query.name or query.place)
            query.stop()
        failed = [query.exception() for query in self._queries if query.failed_unobserved]
        for error in failed:
            traceback.print_exception(error)
        if failed:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    # Spark's spelling ---------------------------------------------------------------------------
    addListener, removeListener = add_listener, remove_listener
    awaitAnyTermination, resetTerminated = await_any_termination, reset_terminated


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
    state: str | StateOptions | None,
    wait: bool | None,
    watermark_policy: WatermarkPolicy | None,
    reread_bounded: str | timedelta | None,
    late: str | os.PathLike[str] | None = None,
) -> StreamingQuery:
    """Check, open and begin a query; see `StreamFrame.sink`."""
    trigger = checked(trigger)
    home = checked_state(state)
    if watermark_policy not in (None, "min", "max"):
        raise PlanError(f"watermark_policy is {watermark_policy!r}. Write 'min' (the slowest input decides) or 'max'")
    if checkpoint is None and sink.guarantee != "none":
        raise PlanError(
            f'{sink.description} needs a checkpoint to continue where it stopped. Write checkpoint="ckpt/<name>", a '
            "folder of its own for this query"
        )
    storage = open_storage(f"memory://unbounded-{uuid.uuid4()}" if checkpoint is None else checkpoint)
    queries: list[StreamingQuery] = []
    records = Checkpoint(storage)
    batches = MicroBatches(
        plan,
        sink,
        mode=mode,
        checkpoint=records,
        home=open_home(home, storage, folder_for(home, records.state)),
        name=name,
        watermark_policy=watermark_policy,
        reread_bounded=reread_bounded,
        late=late,
        background=lambda task: queries[0].tidy_later(task),
        beside=Beside(f"unbounded durable {name or storage.url}"),
        forget_at_end=checkpoint is None,
    )
    for growth in batches.growths():
        warnings.warn(growth, UnboundedStateWarning, stacklevel=4)  # at the user's own call of a sink
    query = StreamingQuery(batches, sink, trigger, name, storage.url)
    queries.append(query)
    try:
        batches.open(partial(streams.make_room, storage.url, name))
    except BaseException:
        batches.close()
        raise
    waits = is_awaited(trigger, wait)
    streams.hold(query, [LiveLine()] if waits else [], watched=not waits)
    if waits:
        await_end(query)
    return query


def is_awaited(trigger: object, wait: bool | None) -> bool:
    """Whether the call that starts a query returns when it has ended; by itself where that will come."""
    return isinstance(trigger, AvailableNow | Once) if wait is None else wait


def await_end(query: StreamingQuery) -> None:
    """Wait in the call that starts a query. An interrupt stops it, for nobody has the handle yet."""
    try:
        query.await_termination()
    except KeyboardInterrupt:
        query.stop()
        raise
