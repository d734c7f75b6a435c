"""What does an update sink hold besides its newest batches? Runs of merged files, each smaller than the one below.

    out._unbounded/levels/000000000042    the 42nd list of them; the one with the highest number counts

A run has one row per key and is cut into slices, intervals of the hash of the key, a file each. A row of a later
run counts more than one of an earlier run, and a row of a batch behind `until` more than both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unbounded.sinks.manifest import DataFile
from unbounded.storage import Record, Storage, decode, encode

__all__ = ["Levels", "Replaced", "Run", "Slice", "generation_of", "newest", "put"]

_LOOKS = 10  # a reader that lists while a merge deletes looks again; a merge takes longer than a look


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

    def record(self) -> dict[str, Any]:
        return {"file": self.file.record(), "low": self.low, "high": self.high, "removed": self.removed}

    @staticmethod
    def of(record: Record) -> Slice:
        return Slice(DataFile.of(record["file"]), record["low"], record["high"], record["removed"])


Run = tuple[Slice, ...]
"""Slices that do not meet, by hash."""


@dataclass(frozen=True)
class Replaced:
    """A file that new readers do not need. It was replaced when `batch` was the newest, at `time` since 1970."""

    name: str
    batch: int
    time: float


@dataclass(frozen=True)
class Levels:
    """All runs, oldest rows first, which hold what the batches up to `until` left; and the files they replaced."""

    generation: int = 0
    until: int = -1
    runs: tuple[Run, ...] = ()
    replaced: tuple[Replaced, ...] = ()

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
            "replaced": [vars(file) for file in self.replaced],
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
        tuple(Replaced(**file) for file in record["replaced"]),
    )


def put(records: Storage, levels: Levels) -> None:
    """Let levels count from now on, durably. FileExistsError if another writer made this generation."""
    data = encode("sink-levels", levels.generation, levels.record())
    records.put(f"levels/{levels.generation:012d}", data)
    records.remove(f"levels/{name}" for name in records.names("levels") if int(name) < levels.generation)
