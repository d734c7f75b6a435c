"""What does an update sink hold besides its newest batches? Runs of merged files, each smaller than the one below.

    out._unbounded/
      levels/000000000042      the 42nd list of them; the one with the highest number counts
      replaced/000000000007    a page of the names of files that wait to be deleted

A run has one row per key and is cut into slices, intervals of the hash of the key, a file each. A row of a later
run counts more than one of an earlier run, and a row of a batch behind `until` more than both.

Thousands of files may wait for ten minutes. Levels are written with every step, so they name the newest of these
alone; when those fill a page, it is written once, and the levels behind it count it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unbounded.sinks.manifest import DataFile
from unbounded.storage import Record, Storage, decode, encode

__all__ = [
    "Levels",
    "Replaced",
    "Run",
    "Slice",
    "forget_page",
    "generation_of",
    "newest",
    "page",
    "pages",
    "put",
    "turned",
]

_LOOKS = 10  # a reader that lists while a merge deletes looks again; a merge takes longer than a look
_PAGE = 256  # files named by a page: levels name no more, and of those that wait a page is read and written once


@dataclass(frozen=True)
class Slice:
    """A file of the rows whose keys have hashes from `low` to `high`; `removed` of them say that their key left."""

    file: DataFile
    low: int
    high: int
    removed: int

    @property
    def weight(self) -> int:
        """Rows that may be superfluous or make others so: a removed key makes three, its mark and what it removes.

        With s rows at the bottom and runs of weight w above, s + w rows stand for at least s - w / 3 keys.
        """
        return self.file.rows + 2 * self.removed

    def meets(self, other: Slice) -> bool:
        return self.low <= other.high and other.low <= self.high

    def record(self) -> list[Any]:
        """Without the names of its fields, for a large table has many slices."""
        file = self.file
        return [file.path, file.size, file.rows, file.crc32, self.low, self.high, self.removed]

    @staticmethod
    def of(record: Sequence[Any]) -> Slice:
        path, size, rows, crc32, low, high, removed = record
        return Slice(DataFile(path, size, rows, crc32), low, high, removed)


Run = tuple[Slice, ...]
"""Slices that do not meet, by hash."""


@dataclass(frozen=True)
class Replaced:
    """Files that new readers do not need. A step replaced them when `batch` was the newest, at `time` since 1970."""

    names: tuple[str, ...]
    batch: int
    time: float

    def record(self) -> list[Any]:
        return [self.names, self.batch, self.time]

    @staticmethod
    def of(record: Sequence[Any]) -> Replaced:
        names, batch, time = record
        return Replaced(tuple(names), batch, time)


@dataclass(frozen=True)
class Levels:
    """All runs, oldest rows first, which hold what the batches up to `until` left; and the files they replaced.

    Those not in `replaced` are named by the pages from `first_page` to before `next_page`, the oldest first.
    """

    generation: int = 0
    until: int = -1
    runs: tuple[Run, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    first_page: int = 0
    next_page: int = 0

    def slices(self) -> Iterator[Slice]:
        for run in self.runs:
            yield from run

    @property
    def rows(self) -> int:
        return sum(slice.file.rows for slice in self.slices())

    def record(self) -> Record:
        return {
            "until": self.until,
            "runs": [[slice.record() for slice in run] for run in self.runs],
            "replaced": [files.record() for files in self.replaced],
            "pages": [self.first_page, self.next_page],
        }


def generation_of(name: str) -> int | None:
    """The generation for which a merged file was written; None if the name is not that of one."""
    ours = re.fullmatch(r"merged-(\d{12,})-[0-9a-f]{16}-[^/]*", name)
    return int(ours[1]) if ours else None


def newest(records: Storage) -> Levels:
    """The levels that count; without any, nothing was merged yet."""
    for look in range(_LOOKS):
        names = records.names("levels")
        try:
            return _read(records, int(names[-1])) if names else Levels()
        except FileNotFoundError:
            if look == _LOOKS - 1:
                raise
    raise AssertionError("unreachable")


def _read(records: Storage, generation: int) -> Levels:
    name = f"levels/{generation:012d}"
    record, _ = decode(records.read(name), "sink-levels", generation, f"{records.url}/{name}")
    return Levels(
        generation,
        record["until"],
        tuple(tuple(Slice.of(slice) for slice in run) for run in record["runs"]),
        tuple(Replaced.of(files) for files in record["replaced"]),
        *record["pages"],
    )


def put(records: Storage, levels: Levels) -> None:
    """Let levels count from now on, durably. FileExistsError if another writer made this generation."""
    data = encode("sink-levels", levels.generation, levels.record())
    records.put(f"levels/{levels.generation:012d}", data)
    records.remove(f"levels/{name}" for name in records.names("levels") if int(name) < levels.generation)


# ------------------------------------------------------------------------- files that wait to be deleted
def turned(records: Storage, levels: Levels) -> Levels:
    """The same levels with what they name of replaced files on a page of its own, durably, if it fills one."""
    if sum(len(files.names) for files in levels.replaced) < _PAGE:
        return levels
    record = {"replaced": [files.record() for files in levels.replaced]}
    number = levels.next_page
    try:
        records.put(_page_name(number), encode("sink-replaced", number, record))
    except FileExistsError:  # by an earlier attempt at the step behind these levels: a page has what they have
        records.settle("replaced")
    return replace(levels, replaced=(), next_page=number + 1)


def page(records: Storage, number: int) -> tuple[Replaced, ...]:
    """What a page names; nothing if another writer was done with it."""
    name = _page_name(number)
    try:
        data = records.read(name)
    except FileNotFoundError:
        return ()
    record, _ = decode(data, "sink-replaced", number, f"{records.url}/{name}")
    return tuple(Replaced.of(files) for files in record["replaced"])


def pages(records: Storage, levels: Levels) -> Iterator[Replaced]:
    """All files that wait to be deleted, oldest first; read from every page."""
    for number in range(levels.first_page, levels.next_page):
        yield from page(records, number)
    yield from levels.replaced


def forget_page(records: Storage, number: int) -> None:
    """Delete a page that no levels count any more."""
    records.remove([_page_name(number)])


def _page_name(number: int) -> str:
    return f"replaced/{number:012d}"
