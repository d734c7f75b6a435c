"""What does a batch cost when the state, the history or the folder has grown? Law 3, measured."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

import unbounded as ub
from tests.benchmarks.results import Listing, Times
from tests.benchmarks.runs import Batches
from unbounded.connectors import Offset
from unbounded.sources.files import FileSource

__all__ = ["powers", "seen_files", "state_keys", "batch_numbers", "sheltered"]

_SCHEMA = pl.Schema({"key": pl.Int64, "value": pl.Int64})
_KEYS, _MEASURED, _UNMEASURED = 1_000, 200, 20  # of a batch; batches, and those before them that do not count
_FILL = 500_000  # keys that a batch adds between the measurements


def powers(least: int, most: int) -> list[int]:
    """The powers of ten from `least` up to `most`, which is the last whatever it is."""
    found = [least]
    while found[-1] * 10 <= most:
        found.append(found[-1] * 10)
    return found if found[-1] == most or len(found) > 1 else [most]


@dataclass(frozen=True)
class _Made:
    """A source whose batch `i` has the rows `make(i)`; it costs next to nothing itself."""

    make: Callable[[int], pl.DataFrame]
    batches: int

    default_name = "made"
    description = "rows made for a benchmark"
    schema = _SCHEMA

    def end(self) -> Offset | None:
        return self.batches

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        following = 1 if since is None else since + 1
        return following if following <= self.batches else None

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        return self.make(until - 1).lazy()

    def acknowledge(self, until: Offset) -> None: ...


def _kept(source: ub.Source, folder: Path, state: str | None = None, *, phase: str) -> list[float]:
    """Count and sum per key, until the source ends; the milliseconds of a phase in every batch."""
    batches = Batches()
    ub.streams.add_listener(batches)
    ub.scan(source).group_by("key").agg(pl.len().alias("rows"), pl.col("value").sum()).foreach_batch(
        lambda rows, _: None,
        checkpoint=folder,
        output_mode="update",
        trigger=ub.available_now(),
        state=state,
    )
    ub.streams.remove_listener(batches)
    return batches.with_rows(phase)


def _quiet() -> None:
    """State without a bound is the question here, and no news."""
    logging.getLogger("unbounded").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", ub.UnboundedStateWarning)


def state_keys(sizes: Sequence[int], folder: Path, state: str | None) -> dict[int, Times]:
    """Batches of 1,000 keys drawn from all that are known: merged, and durable in the checkpoint.

    One query fills its state to each of the sizes, and stops there for 200 batches.
    """
    _quiet()
    random = np.random.default_rng(0)
    ranges: list[tuple[int, int]] = []  # keys that a batch adds, or (0, size) to draw from
    places: dict[int, tuple[int, int]] = {}
    filled = 0
    for size in sizes:
        while filled < size:
            ranges.append((filled, min(filled + _FILL, size)))
            filled = ranges[-1][1]
        ranges += [(0, size)] * (_UNMEASURED + _MEASURED)
        places[size] = (len(ranges) - _MEASURED, len(ranges))
    drawn = {i for since, until in places.values() for i in range(since - _UNMEASURED, until)}

    def rows(batch: int) -> pl.DataFrame:
        low, high = ranges[batch]
        keys = random.integers(low, high, _KEYS) if batch in drawn else np.arange(low, high)
        return pl.DataFrame({"key": keys, "value": keys}, schema=_SCHEMA)

    times = _kept(_Made(rows, len(ranges)), folder, state, phase="addBatch")
    return {size: Times.of(times[since:until]) for size, (since, until) in places.items()}


def sheltered(folder: Path) -> Path:
    """A place for very many durable batches: a disk in memory if there is one, for a real one would take hours."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else folder


def batch_numbers(numbers: Sequence[int], folder: Path) -> dict[int, Times]:
    """Batches of ten rows, from the first to the last of these numbers; whole batches, around each number.

    The first thousand run once more at the end, and count with those of the beginning: a machine changes its pace.
    """
    _quiet()

    def rows(batch: int) -> pl.DataFrame:
        return pl.DataFrame({"key": (np.arange(10) + 7 * batch) % _KEYS, "value": np.arange(10)}, schema=_SCHEMA)

    last = max(numbers)
    runs = []
    for place, batches in (("first", last + 1), ("again", min(last, 1_000) + 1)):
        runs.append(_kept(_Made(rows, batches), folder / place, phase="triggerExecution"))
        rmtree(folder / place)
    found = {}
    for number in numbers:
        around = min(number // 2, 500)
        found[number] = Times.of([time for run in runs for time in run[number - around : number + around + 1]])
    return found


class _Acquainted(FileSource):
    """A folder whose files up to now were all read, without reading them."""

    known: Sequence[str] = ()

    def fresh(self, *, units: int | None = None) -> FileSource:
        twin = super().fresh(units=units)
        twin.remember(self.memory({"files": [[name, 1, 0, 0] for name in self.known]}))
        return twin


def seen_files(sizes: Sequence[int], folder: Path) -> dict[int, Listing]:
    """Batches of one small file each, from a folder that holds so many others that were read before."""
    _quiet()
    incoming = folder / "incoming"
    incoming.mkdir(parents=True)
    known: list[str] = []
    found = {}
    for size in (1, *sizes):  # the first is for what happens once in a process
        _link(incoming, known, size)
        source = _Acquainted(incoming, "parquet", schema=_SCHEMA, max_files_per_trigger=1)
        source.known = known
        look = source.fresh()
        listings = [(_milliseconds(look.end), _milliseconds(lambda: _names(incoming))) for _ in range(4)]
        new = [f"new-{size}-{i:03}.parquet" for i in range(100)]
        for i, name in enumerate(new):
            rows = pl.DataFrame({"key": [i], "value": [i]}, schema=_SCHEMA)
            rows.write_parquet(incoming / name)
        batches = Batches()
        ub.streams.add_listener(batches)
        ub.scan(source).foreach_batch(
            lambda rows, _: None, checkpoint=folder / f"checkpoint-{size}", trigger=ub.available_now()
        )
        ub.streams.remove_listener(batches)
        assert len(batches.progress) == len(new)
        known += new
        listing, scandir = (median(times) for times in zip(*listings[1:], strict=True))  # the first meets every name
        if size in sizes:
            found[size] = Listing(Times.of(batches.with_rows("triggerExecution")[10:]), listing, scandir)
    return found


def _link(folder: Path, known: list[str], size: int) -> None:
    """Add files until there are `size`: names for the same few, since file systems count the names of a file."""
    since = len(known)
    for i in range(since, size):
        if (i - since) % 50_000 == 0:
            template = folder / f"file-{i:07}.parquet"
            pl.DataFrame(schema=_SCHEMA).write_parquet(template)
        else:
            os.link(template, folder / f"file-{i:07}.parquet")
        known.append(f"file-{i:07}.parquet")


def _names(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(1 for _ in entries)


def _milliseconds(act: Callable[[], Any]) -> float:
    begin = perf_counter()
    act()
    return (perf_counter() - begin) * 1_000
