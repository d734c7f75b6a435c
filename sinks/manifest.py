"""What does a file sink hold? Its owner, and a log with one entry per batch; what the log does not name does not exist.

    out._unbounded/
      owner                               who writes here, what and how; written once
      log/000000000042                    the entry of one batch; putting it is the point at which its output exists
      log/segment-000000000000-...0015    the entries of 16, 256 or 4096 batches, merged in the background
      levels/000000000042                 what was merged of an update sink; see `levels`
      replaced/000000000007               files that merges replaced and that wait to be deleted; see `levels`
      data/                               data files, under names that no other attempt uses

Batches follow each other without gaps. A batch inside a segment is *settled*: published for good, its orphans gone.
A piece that lies within a wider one is what a crash left of a merge, and counts for nothing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unbounded.connectors import Receipt
from unbounded.errors import ConcurrentQueryError, CorruptRecordError
from unbounded.storage import Record, Storage, decode, encode

__all__ = ["FANOUT", "DataFile", "Entry", "Log", "batch_of", "beside"]

FANOUT = 16  # pieces per merge: an entry is rewritten 3 times, and n batches are n / 4096 + at most 3 * 16 reads
_LARGEST = FANOUT**3  # a merge stays below some 10 ms, whatever the history
_PIECE = re.compile(r"(?:segment-(\d+)-)?(\d+)")
_LOOKS = 10  # a reader that lists while a merge deletes looks again; a merge takes longer than a look


def beside(path: str) -> str:
    """Where the manifest of a sink lies."""
    return f"{path}._unbounded"


@dataclass(frozen=True)
class DataFile:
    """One file of rows. `path` is its place below the sink's folder if it is shown there, with `/` between parts."""

    path: str
    size: int
    rows: int
    crc32: int
    partition: tuple[str | None, ...] = ()

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @staticmethod
    def holding(path: str, content: bytes, rows: int, partition: tuple[str | None, ...] = ()) -> DataFile:
        """A file with this content."""
        return DataFile(path, len(content), rows, zlib.crc32(content), partition)

    def record(self) -> dict[str, Any]:
        return vars(self)

    @staticmethod
    def of(record: Record) -> DataFile:
        return DataFile(**{**record, "partition": tuple(record["partition"])})


@dataclass(frozen=True)
class Entry:
    """What one batch put into the sink. `time` is seconds since 1970, when it was recorded.

    `removed` holds the keys that left the table before the rows of `files` entered it. `receipt` is None once it
    was forgotten.
    """

    batch: int
    time: float
    files: tuple[DataFile, ...]
    removed: DataFile | None
    receipt: Receipt | None

    def all_files(self) -> tuple[DataFile, ...]:
        return (self.removed, *self.files) if self.removed else self.files

    def record(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "time": self.time,
            "files": [file.record() for file in self.files],
            "removed": self.removed.record() if self.removed else None,
            "receipt": dict(self.receipt) if self.receipt is not None else None,
        }

    @staticmethod
    def of(record: Record) -> Entry:
        removed = record["removed"]
        return Entry(
            batch=record["batch"],
            time=record["time"],
            files=tuple(DataFile.of(file) for file in record["files"]),
            removed=DataFile.of(removed) if removed else None,
            receipt=record["receipt"],
        )


def batch_of(name: str) -> int | None:
    """The batch of a data file by its name; None if the name is not one of ours."""
    ours = re.fullmatch(r"(\d{12,})-[0-9a-f]{16}-[^/]*", name.rpartition("/")[2])
    return int(ours[1]) if ours else None


@dataclass(frozen=True)
class _Piece:
    """A file of the log: the entries of the batches `first` to `last`, both included."""

    name: str
    first: int
    last: int

    @property
    def width(self) -> int:
        return self.last - self.first + 1

    @property
    def is_segment(self) -> bool:
        return self.name.startswith("segment-")


class Log:
    """The entries of a sink, in the order of their batches."""

    def __init__(self, records: Storage) -> None:
        self._records = records

    def append(self, entry: Entry) -> None:
        """Make a batch exist. ConcurrentQueryError if another writer recorded it first."""
        try:
            self._records.put(f"log/{entry.batch:012d}", encode("sink", entry.batch, entry.record()))
        except FileExistsError:
            raise _overtaken(self._records.url, entry.batch) from None

    def find(self, batch: int) -> Entry | None:
        """The entry of a batch, wherever it lies."""
        try:
            return next(iter(self._read(_Piece(f"{batch:012d}", batch, batch))))
        except FileNotFoundError:
            return next(iter(self.entries(since=batch, until=batch)), None)

    def find_loose(self, batch: int) -> Entry | None:
        """The entry of a batch that is not settled, with one look and no listing."""
        try:
            entry = next(iter(self._read(_Piece(f"{batch:012d}", batch, batch))))
        except FileNotFoundError:
            return None
        self._records.settle("log")  # its writer may have failed before the name was durable
        return entry

    def last(self) -> int | None:
        """The newest batch; None if there is none."""
        return max((piece.last for piece in self._pieces()), default=None)

    def settled(self) -> int:
        """Up to which batch everything is settled; -1 if nothing is."""
        names = (name for name in self._records.names("log") if name.startswith("segment-"))
        return max((int(name.rpartition("-")[2]) for name in names), default=-1)

    def is_settled(self, batch: int) -> bool:
        """Whether a batch is settled, by three looks and no listing."""
        width = FANOUT
        while width <= _LARGEST:  # in this order: a segment goes only when the wider one is there
            first = batch // width * width
            try:
                self._records.read(_segment(first, first + width - 1))
            except FileNotFoundError:
                width *= FANOUT
            else:
                return True
        return False

    def loose(self) -> list[Entry]:
        """The entries that may not be settled: few, however long the history, if the log is merged now and then."""
        return list(self._entries([piece for piece in self._live() if not piece.is_segment], self.settled() + 1))

    def entries(self, since: int = 0, until: int | None = None) -> list[Entry]:
        """The entries of the batches `since` to `until`, both included.

        CorruptRecordError if a batch from `since` to the last one is missing.
        """
        for look in range(_LOOKS):
            try:
                return list(self.walk(since, until))
            except FileNotFoundError:
                if look == _LOOKS - 1:
                    raise
        raise AssertionError("unreachable")

    def walk(self, since: int, until: int | None = None) -> Iterator[Entry]:
        """As `entries`, read as far as they are asked for; FileNotFoundError if they are merged meanwhile."""
        end = float("inf") if until is None else until
        pieces = [piece for piece in self._live() if piece.last >= since and piece.first <= end]
        first = min([since, *(piece.first for piece in pieces)])
        return (entry for entry in self._entries(pieces, first) if since <= entry.batch <= end)

    def merge(
        self, committed: int, *, settle: Callable[[Sequence[Entry]], None], keep: Callable[[Entry], Entry]
    ) -> None:
        """Merge pieces up to batch `committed` until fewer than `FANOUT` of a width stand side by side.

        `settle` sees entries before they enter a segment for the first time; `keep` says what is kept of each one.
        """
        live = self._live()
        self._forget([piece for piece in self._pieces() if piece not in live])
        while run := _mergeable([piece for piece in self._live() if piece.last <= committed]):
            entries = list(self._entries(run, run[0].first))
            if not run[0].is_segment:
                settle(entries)
            self._put_segment([keep(entry) for entry in entries])
            self._forget(run)

    def _put_segment(self, entries: Sequence[Entry]) -> None:
        first, last = entries[0].batch, entries[-1].batch
        record = {"entries": [entry.record() for entry in entries]}
        try:
            self._records.put(_segment(first, last), encode("sink-segment", last, record))
        except FileExistsError:
            return  # the same entries, by an earlier attempt at this merge

    def _forget(self, pieces: Sequence[_Piece]) -> None:
        self._records.remove(f"log/{piece.name}" for piece in pieces)

    def _pieces(self) -> list[_Piece]:
        """All files of the log, the wider first where several start at the same batch."""
        matches = ((name, _PIECE.fullmatch(name)) for name in self._records.names("log"))
        found = [_Piece(name, int(ours[1] or ours[2]), int(ours[2])) for name, ours in matches if ours]
        return sorted(found, key=lambda piece: (piece.first, -piece.last))

    def _live(self) -> list[_Piece]:
        """The pieces that are not within a wider one."""
        live: list[_Piece] = []
        for piece in self._pieces():
            if not live or piece.last > live[-1].last:
                live.append(piece)
        return live

    def _entries(self, pieces: Sequence[_Piece], first: int) -> Iterator[Entry]:
        """The entries from batch `first` on; CorruptRecordError at a gap."""
        seen = first - 1
        for piece in pieces:
            for entry in self._read(piece):
                if entry.batch <= seen:  # two attempts at a merge that overlap hold the same entries
                    continue
                if entry.batch != seen + 1:
                    raise CorruptRecordError(
                        f"{self._records.url}/log has no entry of batch {seen + 1}, but one of batch {entry.batch}; "
                        "a file was deleted. Restore it from a backup, or start with a new output path"
                    )
                seen = entry.batch
                yield entry

    def _read(self, piece: _Piece) -> Iterator[Entry]:
        data = self._records.read(f"log/{piece.name}")
        kind = "sink-segment" if piece.is_segment else "sink"
        record, _ = decode(data, kind, piece.last, f"{self._records.url}/log/{piece.name}")
        return map(Entry.of, record["entries"] if piece.is_segment else [record])


def _segment(first: int, last: int) -> str:
    return f"log/segment-{first:012d}-{last:012d}"


def _mergeable(pieces: Sequence[_Piece]) -> Sequence[_Piece]:
    """The first `FANOUT` neighbours of one width that may grow; empty if there are none.

    They begin where a segment of their width would, so it is known without a look in which ones a batch can lie.
    """
    for at in range(len(pieces) - FANOUT + 1):
        run = pieces[at : at + FANOUT]
        begins = run[0].first % (FANOUT * run[0].width) == 0
        if begins and len({(piece.width, piece.is_segment) for piece in run}) == 1 and run[0].width < _LARGEST:
            return run
    return ()


def _overtaken(url: str, batch: int) -> ConcurrentQueryError:
    return ConcurrentQueryError(
        f"batch {batch} was recorded in {url} by another writer while this one ran; nothing of this attempt is shown. "
        "Run one query on one checkpoint, and do not copy a checkpoint that is in use"
    )
