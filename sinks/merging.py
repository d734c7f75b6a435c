"""How do the files of an update sink stay few? Beside the loop, batches are merged into runs, and runs with each other.

Every run weighs less than a quarter of the one below, so all of them hold less than twice the rows of the table, and
a row is rewritten some four times per run. A large run is merged into the one below slice by slice. A removed key
is remembered until it reaches the lowest run, where nothing is left that it could remove.

A step writes new files, makes them durable, puts the levels that name them, and only then is what it replaced left
to be deleted, once no reader can need it. Whatever a crash leaves of a step is deleted by the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from secrets import token_hex
from typing import Any

import numpy as np
import polars as pl

from unbounded.sinks import formats
from unbounded.sinks.changes import REMOVED, changes_of, newest_per_key
from unbounded.sinks.levels import (
    Levels,
    Replaced,
    Run,
    Slice,
    forget_page,
    generation_of,
    newest,
    page,
    pages,
    put,
    turned,
)
from unbounded.sinks.manifest import FANOUT, DataFile, Entry
from unbounded.sinks.owner import Owner
from unbounded.sinks.places import Place
from unbounded.sinks.slices import hashes, slices
from unbounded.storage import Storage

__all__ = ["Merger"]

_RATIO = 4  # a row is rewritten so often per run, and all runs but the lowest have a third of its rows
_SLICE = 50_000  # rows of a file at most: a step reads some six of them, which takes a tenth of a second
_FEW = 4_096  # rows of batches that may wait beside a small table


@dataclass(frozen=True)
class _Step:
    """Batches and slices to merge into the run `into` of the runs that are left, or into a new one on top of them."""

    entries: tuple[Entry, ...]
    slices: tuple[Slice, ...]
    left: tuple[Run, ...]
    into: int


class Merger:
    """The levels of an update sink that is open. `take` and `tidy` may be called from two threads."""

    def __init__(
        self,
        owner: Owner,
        place: Place,
        records: Storage,
        *,
        options: Mapping[str, Any],
        retain: int,
        keep_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._owner, self._place, self._records, self._options = owner, place, records, options
        self._retain, self._keep_seconds, self._clock = retain, keep_seconds, clock
        self._waiting: deque[Entry] = deque()  # `take` adds at its end, `tidy` takes from its beginning
        self._levels: Levels | None = newest(records)
        self.until = self._levels.until  # batches up to here are merged, durably
        # A merged file of a later generation may be of a writer that is alive, so it waits for that generation.
        merged = {name: number for name in place.staged() if (number := generation_of(name)) is not None}
        place.forget(self._unnamed(merged, self._levels))
        leftover = (int(name) for name in records.names("replaced"))
        for number in [number for number in leftover if number < self._levels.first_page]:
            forget_page(records, number)
        self._oldest: tuple[int, tuple[Replaced, ...]] | None = None  # the first page, which is read once
        self._orphans = {name: number for name, number in merged.items() if number > self._levels.generation}

    def _unnamed(self, merged: Mapping[str, int], levels: Levels) -> list[str]:
        """The merged files that nobody can name any more."""
        if not merged:
            return []
        named = {slice.file.name for slice in levels.slices()}
        named.update(name for files in pages(self._records, levels) for name in files.names)
        return [name for name, number in merged.items() if number <= levels.generation and name not in named]

    def take(self, entry: Entry) -> None:
        """Know of a batch that was recorded."""
        self._waiting.append(entry)

    def tidy(self, committed: int, last: int) -> None:
        """Merge what is due of the batches up to `committed`, and delete what was replaced; `last` is the newest."""
        levels, self._levels = self._levels, None  # not known again before all went well
        if levels is None:
            for folder in ("levels", "replaced"):
                self._records.settle(folder)
            levels = newest(self._records)
        while (step := self._due(levels, committed)) is not None:
            levels = self._take_step(step, levels, last)
        self._levels = levels

    # Which step --------------------------------------------------------------------------------
    def _due(self, levels: Levels, committed: int) -> _Step | None:
        self.until = levels.until
        while self._waiting and self._waiting[0].batch <= levels.until:
            self._waiting.popleft()
        ready = [entry for entry in islice(self._waiting.copy(), FANOUT) if entry.batch <= committed]
        rows = sum(file.rows for entry in ready for file in entry.all_files())
        # The first merge comes early, so that later ones fall between those of the home of the state.
        if len(ready) >= (FANOUT if levels.generation else FANOUT // 2) or rows >= max(_FEW, levels.rows // _RATIO):
            return _merge_batches(levels.runs, ready)
        for upper in range(len(levels.runs) - 1, 0, -1):
            if _weight(levels.runs[upper]) * _RATIO > _rows(levels.runs[upper - 1]):
                return _push(levels.runs, upper)
        for slice in levels.runs[0] if levels.runs else ():
            if slice.removed:  # the run was not the lowest when it was written
                return _Step((), (slice,), _without(levels.runs, [slice]), 0)
        return None

    # One step -----------------------------------------------------------------------------------
    def _take_step(self, step: _Step, levels: Levels, last: int) -> Levels:
        generation, now = levels.generation + 1, self._clock()
        kept = self._without_expired(turned(self._records, levels), last, now)
        rows = newest_per_key(changes_of(self._owner, self._place, step.slices, step.entries), self._owner.key)
        if step.into == 0:
            rows = rows.remove(pl.col(REMOVED))
        written = self._stage(generation, rows.collect())
        runs = [*step.left, ()]
        runs[step.into] = tuple(sorted((*runs[step.into], *written), key=lambda slice: slice.low))
        files = [slice.file for slice in step.slices] + [file for entry in step.entries for file in entry.all_files()]
        replaced = Replaced(tuple(file.name for file in files), last, now)
        after = Levels(
            generation,
            step.entries[-1].batch if step.entries else levels.until,
            tuple(run for run in runs if run),
            (*kept.replaced, replaced) if files else kept.replaced,
            kept.first_page,
            kept.next_page,
        )
        self._place.settle_staged()
        try:
            put(self._records, after)
        except FileExistsError:  # by another writer, or by a step of ours that failed when it was all but done
            self._place.forget(slice.file.name for slice in written)
            return newest(self._records)
        for number in range(levels.first_page, after.first_page):
            forget_page(self._records, number)
        done = {name: number for name, number in self._orphans.items() if number <= generation}
        self._place.forget(self._unnamed(done, after))
        self._orphans = {name: number for name, number in self._orphans.items() if name not in done}
        return after

    def _stage(self, generation: int, rows: pl.DataFrame) -> list[Slice]:
        """Write rows as slices; durable when staged files are settled."""
        found = hashes(rows.select(self._owner.key))
        order = np.argsort(found, kind="stable")
        found, rows = found[order], rows[order]
        stem = f"merged-{generation:012d}-{token_hex(8)}"
        end = formats.extension(self._owner.format, self._options)
        staged: list[Slice] = []
        try:
            for number, (begin, behind) in enumerate(slices(found, _SLICE)):
                part = rows[begin:behind]
                content = formats.encode(part, self._owner.format, self._options)
                file = DataFile.holding(f"{stem}-{number:04d}.{end}", content, part.height)
                staged.append(Slice(file, int(found[begin]), int(found[behind - 1]), int(part[REMOVED].sum())))
                self._place.stage(file, content)
        except Exception:  # a full disk must not stay full of files that nobody reads
            self._place.forget(slice.file.name for slice in staged)
            raise
        return staged

    def _without_expired(self, levels: Levels, last: int, now: float) -> Levels:
        """Delete the files that no reader needs any more: those of the oldest pages, or if there are none, newer ones.

        Two pages at most, also after a long pause: a step leaves one at most, so that catches up.
        """
        horizon = now - self._keep_seconds

        def expired(files: Replaced) -> bool:
            return files.batch <= last - self._retain and files.time <= horizon

        if levels.first_page == levels.next_page:
            self._place.forget(name for files in levels.replaced if expired(files) for name in files.names)
            return replace(levels, replaced=tuple(files for files in levels.replaced if not expired(files)))
        for number in range(levels.first_page, levels.next_page)[:2]:
            if self._oldest is None or self._oldest[0] != number:
                self._oldest = number, page(self._records, number)
            _, oldest = self._oldest
            if not all(expired(files) for files in oldest):
                break
            self._place.forget(name for files in oldest for name in files.names)
            levels = replace(levels, first_page=number + 1)
        return levels


def _merge_batches(runs: tuple[Run, ...], ready: Sequence[Entry]) -> _Step:
    """The oldest batches, with the runs that are not much larger than they are together."""
    taken: list[Entry] = []
    weight = 0
    while len(taken) < min(FANOUT, len(ready)) and weight < _RATIO * _SLICE:
        entry = ready[len(taken)]
        taken.append(entry)
        weight += sum(file.rows for file in entry.files) + 3 * (entry.removed.rows if entry.removed else 0)
    at = len(runs)
    while at and weight * _RATIO > _rows(runs[at - 1]) and _rows(runs[at - 1]) <= _RATIO * _SLICE:
        at -= 1
        weight += _weight(runs[at])
    return _Step(tuple(taken), tuple(slice for run in runs[at:] for slice in run), runs[:at], at)


def _push(runs: tuple[Run, ...], upper: int) -> _Step:
    """The heaviest slice of a run, with those that it meets in the run below, and a neighbour if they are small."""
    heaviest = max(runs[upper], key=lambda slice: slice.weight)
    below = runs[upper - 1]
    begin = sum(slice.high < heaviest.low for slice in below)
    behind = len(below) - sum(slice.low > heaviest.high for slice in below)
    if _rows(below[begin:behind]) + heaviest.file.rows < _SLICE // 2:
        begin, behind = (begin - 1, behind) if begin else (begin, min(behind + 1, len(below)))
    chosen = (heaviest, *below[begin:behind])
    return _Step((), chosen, _without(runs, chosen), upper - 1)


def _without(runs: tuple[Run, ...], chosen: Sequence[Slice]) -> tuple[Run, ...]:
    return tuple(tuple(slice for slice in run if slice not in chosen) for run in runs)


def _rows(run: Iterable[Slice]) -> int:
    return sum(slice.file.rows for slice in run)


def _weight(run: Iterable[Slice]) -> int:
    return sum(slice.weight for slice in run)
