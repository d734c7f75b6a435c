"""Which files have not been read, which of them may be read now, and in which order?

Found by comparing names with those already read, never by a time: a file moved in with an old date is
new. Memory grows with history by a digest a file. A listing looks at every name of the folder, and asks the disk
for more only about new ones; none is made while files of the last one wait.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from unbounded.sources.compression import is_compressed, is_whole, unreadable
from unbounded.sources.folder import File, Folder, Glimpse
from unbounded.sources.reading import Format

__all__ = ["Discovery", "Limits", "Order", "digest_of"]

Order: TypeAlias = Literal["oldest_first", "latest_first"]

_Check: TypeAlias = Callable[[Glimpse], None]

_PATIENCE = 60.0  # seconds an unfinished file may rest before that is worth a warning


@dataclass(frozen=True)
class Limits:
    """How much one trigger takes at most; None for no limit. One file is always taken."""

    files: int | None = None
    bytes: int | None = None

    def allow(self, files: int, size: int) -> bool:
        """Whether so many files of so many bytes together may be taken."""
        few = self.files is None or files <= self.files
        return files <= 1 or (few and (self.bytes is None or size <= self.bytes))


class _Backlog:
    """Files in the order of reading. Mutable, since a long one is consumed over many triggers."""

    def __init__(self, files: Iterable[File] = ()) -> None:
        self.files = deque(files)
        self.bytes = sum(file.size for file in self.files)

    def pop(self) -> File:
        file = self.files.popleft()
        self.bytes -= file.size
        return file

    def drop(self, unwanted: Callable[[File], bool]) -> None:
        """Forget the first files, up to one that is wanted."""
        while self.files and unwanted(self.files[0]):
            self.pop()

    def put_back(self, files: Sequence[File]) -> None:
        """Offer files again, in their order, before all others."""
        self.files.extendleft(reversed(files))
        self.bytes += sum(file.size for file in files)


def digest_of(name: str) -> bytes:
    """What is remembered of a file that was read: 16 bytes, whatever the length of its name."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


class Discovery:
    """The files of a folder that were not read yet.

    Mutable: `_seen` are digests of the names read, as keys, for Python's garbage collector goes through all of a set
    each time, and leaves a dictionary of bytes alone. `_backlog` is what the last listing found beside them,
    `_frozen` the backlogs that an end was set to, `_current` the one last taken from, `_waiting` unfinished
    files with the time of a first look.
    """

    def __init__(
        self, folder: Folder, form: Format, *, order: Order, min_age: float, clock: Callable[[], float]
    ) -> None:
        self._folder, self._form, self._order = folder, form, order
        self._min_age, self._clock = min_age, clock
        self._seen: dict[bytes, None] = {}
        self._read: dict[str, None] = {}  # names that were read: cheaper than their digests
        self._few = 0  # how many these were when all of them were in the folder
        self._backlog = self._current = _Backlog()
        self._frozen: list[_Backlog] = []
        self._waiting: dict[str, tuple[File, float]] = {}
        self._warned: set[File] = set()
        self._ignored: Counter[str] = Counter()

    def remember(self, digests: Iterable[bytes]) -> None:
        """Never offer the files with these digests again."""
        self._seen.update(dict.fromkeys(digests))
        self._current.drop(self._was_read)

    def _was_read(self, file: File) -> bool:
        return digest_of(file.name) in self._seen

    def look(self) -> None:
        """List the folder, and find the files that are new in it."""
        known = {file.name: file for file in self._backlog.files}
        ignored: Counter[str] = Counter()
        found = []
        young = self._clock() - self._min_age
        if len(self._read) > 2 * self._few:  # some may be gone, and would be remembered for ever
            self._read, self._few = {}, 0
        for name, listed in self._folder.names(ignored, self._read.keys()):
            file = known.get(name)
            if file is None:
                if self._seen and digest_of(name) in self._seen:
                    self._read[name] = None
                    continue
                file = listed or self._folder.stat(name)
            if file is None:
                ignored["vanished"] += 1
            elif file.size == 0:
                ignored["empty"] += 1
            elif self._min_age and file.mtime_ns > young * 1e9:
                ignored["young"] += 1
            else:
                found.append(file)
        self._few = self._few or len(self._read)
        found.sort(key=lambda file: (file.mtime_ns, file.name), reverse=self._order == "latest_first")
        self._ignored = ignored
        self._backlog = _Backlog(found)
        names = {file.name for file in found}
        self._waiting = {name: since for name, since in self._waiting.items() if name in names}
        self._warned = {file for file in self._warned if file.name in names}

    def freeze(self) -> int | None:
        """Fix the files that are new now under a number; None if there never was any."""
        self.look()
        if not self._backlog.files and not self._seen:
            return None
        self._frozen.append(self._backlog)  # the next listing makes another
        return len(self._frozen) - 1

    def take(self, frozen: int | None, limits: Limits, check: _Check) -> list[File]:
        """The next files to read, as they are now.

        What the last listing found comes first, so that a long history is listed once: but not when the
        newest are wanted first, nor without limits. The same call gives the same files until they are
        remembered. `check` may refuse a file by raising, before anything was promised about it.
        """
        if frozen is not None:
            return self._next(self._frozen[frozen], limits, check)
        if limits != Limits() and self._order == "oldest_first":
            chosen = self._next(self._backlog, limits, check)
            if chosen:
                return chosen
        self.look()
        return self._next(self._backlog, limits, check)

    def _next(self, backlog: _Backlog, limits: Limits, check: _Check) -> list[File]:
        self._current = backlog
        chosen: list[File] = []
        kept: list[File] = []
        size = 0
        try:
            while backlog.files and limits.allow(len(chosen) + 1, size + backlog.files[0].size):
                listed = backlog.pop()
                if self._was_read(listed):
                    continue
                kept.append(listed)
                glimpse = self._folder.glimpse(listed.name, head=self._form.edges[0], tail=self._form.edges[1])
                if glimpse is None or not self._is_ready(glimpse):
                    kept.pop()  # the next listing finds it again, if it is still there
                    continue
                check(glimpse)
                chosen.append(glimpse.file)
                size += glimpse.file.size
        finally:
            backlog.put_back(kept)
        return chosen

    def _is_ready(self, glimpse: Glimpse) -> bool:
        """Whether a file may be read: finished, or plain text without a last newline that nobody touched for long."""
        file, now = glimpse.file, self._clock()
        if file.size == 0 or (self._min_age and file.mtime_ns > (now - self._min_age) * 1e9):
            return False
        before, since = self._waiting.get(file.name, (None, now))
        if before != file:  # else the same bytes are as unfinished as they were
            if self._is_finished(glimpse):
                self._waiting.pop(file.name, None)
                return True
            since = now
        self._waiting[file.name] = (file, since)
        # Its own date, unless that lies in the future: then the time it was not seen to change.
        if now - min(since, file.mtime_ns / 1e9) < _PATIENCE:
            return False
        path = self._folder.path(file.name)
        rested = f"was not written to for {_PATIENCE:.0f} s"
        if not self._form.is_text or is_compressed(glimpse.head):
            lacks = "is not a whole compressed file" if self._form.is_text else "has no footer"
            self._warn(
                file,
                f"{path} {lacks}, {rested}, and is not read: its writer died or still holds it open. Finish it, or "
                "move it away",
            )
            return False
        self._warn(
            file,
            f"{path} does not end in a newline, {rested}, and is read as it is: its last line may be cut. Write files "
            "under another name and rename them",
        )
        del self._waiting[file.name]
        return True

    def _is_finished(self, glimpse: Glimpse) -> bool:
        if not self._form.is_text or not is_compressed(glimpse.head):
            # Text that is compressed otherwise does not wait for a newline, but is refused when it is checked.
            return self._form.is_complete(glimpse) or (self._form.is_text and unreadable(glimpse.head) is not None)
        try:
            with self._folder.open(glimpse.file.name) as file:
                return is_whole(file)
        except FileNotFoundError:
            return False

    def _warn(self, file: File, message: str) -> None:
        if file not in self._warned:
            self._warned.add(file)
            warnings.warn(message, UserWarning, stacklevel=2)

    def metrics(self) -> dict[str, Any]:
        """What is known of the folder: files read, backlog, files that wait (by name), names ignored (by reason)."""
        return {
            "seen": len(self._seen),
            "backlog_files": len(self._current.files),
            "backlog_bytes": self._current.bytes,
            "waiting": sorted(self._waiting),
            "ignored": dict(self._ignored),
        }
