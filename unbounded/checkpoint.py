"""What survives a crash: intents, commits, the lock, and what the query was.

    metadata            the query's id and what a restart compares (`Flow.pinned`)
    offsets/<batch>     the intent: what batch will read, and the watermarks it decides by
    state/...           what operators and sources remember (written by the home of the state)
    operators/<n>       what that means, from some batch on, for readers of the state
    moved/<n>           the state of a batch lies in another home now
    homes/<name>/...    the files of homes other than the first one in memory
    commits/<batch>     the batch happened; holds its intent, and refers to the digest of its state
    lock                held while a process runs the query

A batch happened if and only if its commit exists, or its sink says so: then the commit is the sink's receipt. A sink
that can say so needs no intent: without its receipt nobody saw a row of the batch, so it may be planned anew.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from unbounded.connectors import Offset
from unbounded.errors import CheckpointError, ConcurrentQueryError, QueryChangedError
from unbounded.state import StateRef
from unbounded.state.folders import files_of, folder_of
from unbounded.storage import Lock, Storage, decode, encode

__all__ = ["RETAIN", "Checkpoint", "Commit", "Intent", "everything", "owner"]

RETAIN = 100
"""Batches whose records and state stay readable."""


@dataclass(frozen=True)
class Intent:
    """What a batch will do, fixed before it starts, so that it does the same when run again.

    `offsets` holds the sources with new rows only. `late` and `watermark` are epoch milliseconds;
    `final` says that the input was declared ended.
    """

    batch: int
    offsets: Mapping[str, Offset]
    late: int | None
    watermark: int | None
    time: str
    final: bool = False


@dataclass(frozen=True)
class Commit:
    """What is true after a batch: all the next one builds on."""

    intent: Intent
    attempt: str
    positions: Mapping[str, Offset]
    """The last offset per source name, of sources that need it handed back."""
    watermarks: Mapping[str, int]
    """Per watermark name: newest event time seen, less the delay."""
    state: StateRef | None
    late: Sequence[str] = ()
    """What the batch staged of rows that came too late, to be seen from now on."""
    ended: Sequence[str] = ()
    """The sources that are never read again, because others that waited for their end have begun."""

    @property
    def batch(self) -> int:
        """The batch that happened."""
        return self.intent.batch

    @property
    def watermark(self) -> int | None:
        """By which the batch evicted; the next one judges lateness by it."""
        return self.intent.watermark

    def record(self) -> dict[str, Any]:
        """As JSON; the receipt of the batch at its sink, too."""
        return {**vars(self), "intent": vars(self.intent)}

    @staticmethod
    def of(record: Mapping[str, Any]) -> Commit:
        """The inverse of `record`."""
        return Commit(**{**record, "intent": Intent(**record["intent"])})


class Checkpoint:
    """The records of one query in one folder, open for one run."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock: Lock | None = None
        self.id = ""
        self.pinned: Mapping[str, Any] = {}
        self.last: Commit | None = None
        self.pending: Intent | None = None
        self._oldest: int | None = None  # batch that may have a record; None before the first tidying
        self._left: dict[str, int] = {}  # folders that the state has left, and the last batch that is there

    @property
    def url(self) -> str:
        return self._storage.url

    def open(
        self,
        run_id: str,
        name: str | None,
        pinned: Mapping[str, Any],
        make_room: Callable[[], None] = lambda: None,
        *,
        may_differ: Collection[str] = (),
    ) -> None:
        """Take the lock, read what is there, and refuse a query that does not fit it.

        `may_differ` are dotted paths in `pinned` that the user allowed to change. `make_room` is called for a query
        that fits, before the lock is taken: to stop who holds it.

        Afterwards `id`, `pinned` (as of the first start), `last` (the newest commit, None before the first batch)
        and `pending` (an intent without a commit) are set.
        """
        with suppress(FileNotFoundError):
            self._compare(pinned, may_differ)
        make_room()
        self._take(owner(run_id, name))
        commits, offsets = self._numbers("commits"), self._numbers("offsets")
        self._read_metadata(pinned, may_differ, fresh=not commits and not offsets)
        gaps = sorted(set(range(commits[0], commits[-1])).difference(commits)) if commits else []
        if gaps:
            raise CheckpointError(
                f"{self.url}/commits has no record of batch {gaps[0]}, though later ones are there. Restore the file "
                "from a backup, or start with a new checkpoint and a new output path"
            )
        self.last = self.committed(commits[-1]) if commits else None
        here = folder_of(self.last.state) if self.last is not None else ""
        left = {move["left"]: move["batch"] for move in self._series("moved")}
        self._left = {folder: until for folder, until in left.items() if folder not in (here, None)}
        after = 0 if self.last is None else self.last.batch + 1
        self.pending = self._read_intent(after) if after in offsets else None

    def intend(self, intent: Intent) -> None:
        """Write an intent durably."""
        self._put("offsets", intent.batch, vars(intent))

    def commit(self, commit: Commit) -> None:
        """Write a commit durably: now the batch happened."""
        self._put("commits", commit.batch, commit.record())

    def tidy(self, committed: int) -> None:
        """Delete the records of batches that are no longer retained, oldest first."""
        if self._oldest is None:  # a listing, which a batch need not wait for
            self._oldest = min([*self._numbers("offsets"), *self._numbers("commits")], default=0)
        old = range(self._oldest, committed - RETAIN + 1)
        self._storage.remove(f"{folder}/{batch:012d}" for batch in old for folder in ("offsets", "commits"))
        self._oldest = max(self._oldest, old.stop)
        for folder, until in list(self._left.items()):
            if until <= committed - RETAIN:
                self._storage.remove(files_of(self._storage, folder))
                del self._left[folder]

    def close(self, *, forget: bool = False) -> None:
        """Give the lock back; with `forget`, delete everything first, for nobody can come back."""
        if forget:
            self._storage.remove(everything(self._storage))
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # For readers of the state -------------------------------------------------------------------
    @property
    def batches(self) -> list[int]:
        """The batches whose commits are retained, ascending."""
        return self._numbers("commits")

    def committed(self, batch: int) -> Commit:
        """The commit of a batch; its state is where it was moved to, if it was."""
        commit = self._read_commit(batch)
        moved = [move["state"] for move in self._series("moved") if move["attempt"] == commit.attempt]
        return replace(commit, state=moved[-1]) if moved else commit

    def describe(self, described: Mapping[str, Any]) -> None:
        """Write down what the state means from the next batch on, if that is new."""
        before = self._series("operators")
        if not before or before[-1]["described"] != described:
            since = 0 if self.last is None else self.last.batch + 1
            self._put("operators", len(before), {"since": since, "described": described})

    def described(self, batch: int) -> Mapping[str, Any] | None:
        """What the state of a batch means; None if that was not written down."""
        found = [one["described"] for one in self._series("operators") if one["since"] <= batch]
        return found[-1] if found else None

    def hold(self, purpose: str) -> None:
        """Take the lock for something else than a run."""
        self._take(owner(purpose, None))

    def _take(self, owner: Mapping[str, Any]) -> None:
        self._lock = self._storage.lock(owner)
        for folder in ("", "offsets", "commits", "state", "operators", "moved"):
            self._storage.settle(folder)

    def began(self, batch: int) -> StateRef | None:
        """Where the state of a batch was written at first, wherever it lies now."""
        return self._read_commit(batch).state

    @property
    def state(self) -> StateRef | None:
        """Where the state of the last commit lies, whoever holds the lock."""
        batches = self.batches
        return self.committed(batches[-1]).state if batches else None

    @property
    def free_folder(self) -> str:
        """A folder for the home to which the state moves next."""
        return f"homes/{len(self._numbers('moved'))}"

    def move(self, commit: Commit, state: StateRef, left: str | None) -> None:
        """Write durably that the state of a commit lies elsewhere now; what it `left` is a folder of the checkpoint."""
        move = {"batch": commit.batch, "attempt": commit.attempt, "state": state, "left": left}
        self._put("moved", len(self._numbers("moved")), move)

    def _series(self, kind: str) -> list[dict[str, Any]]:
        """Records that are numbered one after another; there are few."""
        return [self._read(kind, number) for number in self._numbers(kind)]

    def _put(self, kind: str, batch: int, record: Mapping[str, Any]) -> None:
        try:
            self._storage.put(f"{kind}/{batch:012d}", encode(kind, batch, record))
        except FileExistsError:
            raise ConcurrentQueryError(
                f"another process wrote {kind} of batch {batch} in {self.url} meanwhile. This run committed "
                "nothing of that batch. Let only one process run a query"
            ) from None

    def _numbers(self, folder: str) -> list[int]:
        return sorted(int(name) for name in self._storage.names(folder) if name.isdigit())

    def _read(self, kind: str, batch: int) -> dict[str, Any]:
        name = f"{kind}/{batch:012d}"
        return decode(self._storage.read(name), kind, batch, f"{self.url}/{name}")[0]

    def _read_intent(self, batch: int) -> Intent:
        return Intent(**self._read("offsets", batch))

    def _read_commit(self, batch: int) -> Commit:
        return Commit.of(self._read("commits", batch))

    def _read_metadata(self, pinned: Mapping[str, Any], may_differ: Collection[str], *, fresh: bool) -> None:
        try:
            self._compare(pinned, may_differ)
        except FileNotFoundError:
            if not fresh:
                raise CheckpointError(
                    f"{self.url} holds batches but no metadata, so it is unknown which query wrote them. Restore the "
                    "file metadata from a backup, or start with a new checkpoint and a new output path"
                ) from None
            self.id, self.pinned = str(uuid.uuid4()), pinned
            self._storage.put("metadata", encode("metadata", 0, {"id": self.id, "pinned": pinned}))

    def _compare(self, pinned: Mapping[str, Any], may_differ: Collection[str]) -> None:
        """Refuse a query that is not that of the first start. FileNotFoundError if this is the first."""
        found, _ = decode(self._storage.read("metadata"), "metadata", 0, f"{self.url}/metadata")
        self.id, self.pinned = str(found["id"]), found["pinned"]
        differences = [line for path, line in _differences(found["pinned"], pinned) if path not in may_differ]
        if differences:
            raise QueryChangedError(self.url, differences)


def owner(run_id: str, name: str | None) -> dict[str, Any]:
    """Who holds the lock, for those who find it taken."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": os.getuid(),
        "run": run_id,
        "name": name,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _differences(stored: Any, current: Any, path: str = "") -> list[tuple[str, str]]:
    """Where two JSON values differ: the dotted path, and one readable line."""
    if isinstance(stored, Mapping) and isinstance(current, Mapping):
        found: list[tuple[str, str]] = []
        for name in [*stored, *(name for name in current if name not in stored)]:
            here = f"{path}.{name}" if path else str(name)
            if name not in current:
                found.append((here, f"- {here}{_named(stored[name])} is gone"))
            elif name not in stored:
                found.append((here, f"+ {here}{_named(current[name])} is new"))
            else:
                found += _differences(stored[name], current[name], here)
        return found
    if _are_parts(stored) and _are_parts(current) and len(stored) == len(current):
        pairs = enumerate(zip(stored, current, strict=True), 1)
        return [one for place, (was, now) in pairs for one in _differences(was, now, f"{path}.{place}")]
    if stored == current:
        return []
    hint = " (if it is the same data in another place: allow_source_change=True)" if path.endswith(".place") else ""
    was, now = str(stored), str(current)
    # Long texts may differ far behind their beginning.
    alike = next((at for at, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
    return [(path, f"~ {path}: was {_short(was, alike)}, is {_short(now, alike)}{hint}")]


def _named(value: Any) -> str:
    """What follows the name of a value that one side alone has: of a source or an operator no more than its keys."""
    if not isinstance(value, Mapping):
        return f": {_short(value)}"
    keys = value.get("keys")
    return f" by {', '.join(map(str, keys))}" if isinstance(keys, Mapping) and keys else ""


def _are_parts(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, Mapping) for one in value)


def _short(value: Any, differs_at: int = 0) -> str:
    """At most 200 signs of a value, among them the one where it begins to differ."""
    text, since = str(value), max(0, differs_at - 100)
    if len(text) <= 200:
        return text
    return f"{'...' if since else ''}{text[since : since + 200]}{'...' if since + 200 < len(text) else ''}"


def everything(storage: Storage) -> list[str]:
    """All records of a checkpoint. The metadata first: without them, a start refuses instead of half-continuing."""
    folders = ("commits", "offsets", "operators", "moved")
    records = ["metadata", *(f"{folder}/{name}" for folder in folders for name in storage.names(folder))]
    homes = ["", *(f"homes/{name}" for name in storage.names("homes"))]
    return [*records, *(name for folder in homes for name in files_of(storage, folder))]
