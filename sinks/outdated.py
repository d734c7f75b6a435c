"""When may a staged file go that also stands in the sink's folder, or that holds a table of long ago?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from unbounded.sinks.manifest import Entry, Log, batch_of
from unbounded.sinks.places import Place

__all__ = ["Outdated"]

_MOST = 1024  # batches whose files are deleted at once, also after a long pause


class Outdated:
    """The staged files of an append or complete sink that is open, oldest batch first.

    A file is outdated when the batch behind its own is recorded, and stays readable for `retain` batches and
    `keep_seconds`. What waits is known from the batches of this run; the folder is listed once per start. `note` and
    `forget` may be called from two threads.
    """

    def __init__(self, log: Log, place: Place, *, retain: int, keep_seconds: float, clock: Callable[[], float]) -> None:
        self._log, self._place = log, place
        self._retain, self._keep_seconds, self._clock = retain, keep_seconds, clock
        self._waiting: deque[tuple[int, float, list[str]]] = deque()  # batch, when it was recorded, its files
        self._listed = False

    def note(self, entry: Entry) -> None:
        """Know of a batch that was recorded."""
        names = [self._place.staged_name(file) for file in entry.all_files()]
        if names:
            self._waiting.append((entry.batch, entry.time, names))

    def forget(self, committed: int) -> None:
        """Delete what no reader needs any more, once the log has settled it."""
        if not self._listed:
            self._list()
            self._listed = True
        until = min(self._log.settled(), committed - self._retain)
        horizon = self._clock() - self._keep_seconds
        for _ in range(min(_MOST, len(self._waiting) - 1)):
            (batch, _, names), (_, replaced, _) = self._waiting[0], self._waiting[1]
            if batch > until or replaced > horizon:
                return
            self._place.forget(names)
            self._waiting.popleft()

    def _list(self) -> None:
        """Find what earlier runs left. What they recorded lately counts as recorded now, so that no entry is read."""
        last = self._log.last()
        end = self._waiting[0][0] if self._waiting else math.inf if last is None else last + 1
        found: dict[int, list[str]] = {}
        for name in self._place.staged():
            batch = batch_of(name)
            if batch is not None and batch < end:
                found.setdefault(batch, []).append(name)
        if not found:
            return
        now = self._clock()
        times = {}
        for entry in self._log.walk(min(found)):
            if entry.time > now - self._keep_seconds:
                break
            times[entry.batch] = entry.time
        self._waiting.extendleft((batch, times.get(batch, now), found[batch]) for batch in sorted(found, reverse=True))
