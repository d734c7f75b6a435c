"""Which rows of these keys do sorted runs hold, and how do several runs become one?

A run holds rows in the order of the hash of their key, in memory or in mapped files. A row that is not LIVE says that
older runs no longer count for what it identifies. Runs are asked from the newest to the oldest, all keys at once; the
hash finds rows, comparing the key decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl

from unbounded.state.changelog import Reference
from unbounded.state.files.sorting import END, LIVE, Content, Form, map_file
from unbounded.state.layered.cold import NUMBER
from unbounded.state.layered.hot import KeySet, keys_of, rows_at, rows_where
from unbounded.state.memory.expiry import NEVER
from unbounded.state.memory.index import Hashes
from unbounded.state.memory.slots import Mask, Slots

__all__ = ["BEGINNING", "Piece", "Run", "due", "find", "merged"]

BEGINNING = int(np.iinfo(np.int64).min)
"""Before every time."""


# ------------------------------------------------------------------------------------------- runs
@dataclass(eq=False)
class Piece:
    """Some rows of a run and what is known of them without touching them; opened at the first touch."""

    first: int  # the lowest and highest hash
    last: int
    rows: int
    dead: int  # how many of them are not LIVE
    earliest: int  # when the first and the last of the live rows are due
    latest: int
    folder: str = field(default="", kw_only=True)
    file: Reference | None = field(default=None, kw_only=True)
    """Where it lies in the folder; None if it is in memory."""
    kept: Content | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, content: Content) -> Piece:
        """A piece in memory."""
        live = content.rows[LIVE].to_numpy()
        dead = len(live) - int(live.sum())
        earliest, latest = NEVER, NEVER
        if content.form.layout.expiry is not None:
            times, _ = content.due
            known = times[: len(times) - dead]
            earliest, latest = (int(known[0]), int(known[-1])) if len(known) else (NEVER, BEGINNING)
        first, last = int(content.hashes[0]), int(content.hashes[-1])
        return cls(first, last, len(live), dead, int(earliest), int(latest), kept=content)

    def content(self, form: Form) -> Content:
        """The rows; CorruptRecordError naming a file that is damaged."""
        if self.kept is None:
            assert self.file is not None
            self.kept = map_file(f"{self.folder}/{self.file.name}", form, self.file.digest)
        return self.kept


@dataclass(frozen=True, eq=False)
class Run:
    """Pieces by ascending hash. Rows below `since` no longer count; rows from `until` on are still to come."""

    pieces: tuple[Piece, ...]
    since: int = 0
    until: int = END

    @cached_property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @cached_property
    def nbytes(self) -> int:
        """The memory of rows that are not in files."""
        kept = [piece.kept for piece in self.pieces if piece.kept is not None and piece.file is None]
        return sum(content.hashes.nbytes + int(content.rows.estimated_size()) for content in kept)

    @cached_property
    def _bounds(self) -> tuple[Hashes, Hashes]:
        first = np.array([piece.first for piece in self.pieces], np.uint64)
        return first, np.array([piece.last for piece in self.pieces], np.uint64)

    def above(self, since: int) -> Run:
        """The rows from this hash on."""
        return Run(tuple(piece for piece in self.pieces if piece.last >= since), since)

    def touched(self, hashes: Hashes) -> Iterator[tuple[Piece, slice]]:
        """The pieces that may hold rows of these ascending hashes, and which of them."""
        first, last = self._bounds
        low, high = np.searchsorted(hashes, first, "left"), np.searchsorted(hashes, last, "right")
        if self.since:
            low = np.maximum(low, np.searchsorted(hashes, np.uint64(self.since), "left"))
        for place in np.flatnonzero(low < high):
            yield self.pieces[place], slice(low[place], high[place])

    def contents(self, form: Form, since: int, until: int) -> Iterator[Content]:
        """The rows whose hash is in [since, until)."""
        since = max(since, self.since)
        for piece in self.pieces:
            if since < until and piece.last >= since and piece.first < until:
                yield piece.content(form).between(since, until)


def _matches(
    form: Form, run: Run, hashes: Hashes, keys: pl.DataFrame, asked: Slots
) -> tuple[Slots, pl.DataFrame] | None:
    """The rows of a run, and for each which of the asked keys, by ascending hash, it has; None for none.

    All columns at once, and the keys compared once for all pieces: what counts is the number of calls to Polars.
    """
    looking = hashes[asked]
    owners, found = [], []
    for piece, some in run.touched(looking):
        content = piece.content(form)
        which, at = content.matches(looking[some])
        if len(at):
            owners.append(asked[some][which])
            found.append(rows_at(content.rows, at))
    if not found:
        return None
    owner, rows = np.concatenate(owners), found[0] if len(found) == 1 else pl.concat(found)
    same = _equal(rows, rows_at(keys, owner), form.key)
    return (owner, rows) if same.all() else (owner[same], rows_where(rows, same))


def find(form: Form, runs: Sequence[Run], keys: pl.DataFrame) -> pl.DataFrame:
    """The rows of these keys, as written, which do not repeat; runs newest first."""
    hashes = form.hash(keys)
    order = np.argsort(hashes)
    hashes, keys = hashes[order], rows_at(keys, order)
    waiting, known = np.arange(len(order)), np.zeros(len(order), np.bool_)
    owners, found = [waiting[:0]], [pl.DataFrame(schema={**form.schema, LIVE: pl.Boolean})]
    for run in runs:
        matches = _matches(form, run, hashes, keys, waiting)
        if matches is None:
            continue
        owners.append(matches[0])
        found.append(matches[1])
        if not form.layout.many:  # a newer row decides; of a multimap, each counts
            known[matches[0]] = True
            waiting = np.flatnonzero(~known)
            if not len(waiting):
                break
    rows = pl.concat(found)
    live = rows[LIVE].to_numpy()
    if live.all():
        return rows
    return _without_dead(np.concatenate(owners), rows, live) if form.layout.many else rows_where(rows, live)


def _without_dead(owners: Slots, rows: pl.DataFrame, live: Mask) -> pl.DataFrame:
    """The live rows of a multimap that no dead row, of the same key and number, takes away."""
    told = pl.DataFrame({"key": owners, NUMBER: rows[NUMBER], "live": live}).with_row_index("row")
    gone = told.filter(~pl.col("live"))
    kept = told.filter("live").join(gone, on=["key", NUMBER], how="anti", maintain_order="left")
    return rows[kept["row"]]


def _replaced(form: Form, newer: Sequence[Run], hashes: Hashes, rows: pl.DataFrame) -> Mask:
    """Which rows, by ascending hash, newer runs say something else about."""
    replaced, every = np.zeros(len(hashes), np.bool_), np.arange(len(hashes))
    for run in newer:
        matches = _matches(form, run, hashes, rows, every)
        if matches is not None:
            asked, others = matches
            if form.layout.many:
                asked = asked[rows[NUMBER].to_numpy()[asked] == others[NUMBER].to_numpy()]
            replaced[asked] = True
    return replaced


def due(form: Form, runs: Sequence[Run], after: int, watermark: int) -> list[pl.DataFrame]:
    """The rows that are due above `after` and not above the watermark. Costs what any run holds of these."""
    found = []
    for place, run in enumerate(runs):
        for piece in run.pieces:
            if piece.earliest > watermark or piece.latest <= after:
                continue
            content = piece.content(form)
            times, at = content.due
            low, high = np.searchsorted(times, [after, watermark], "right")
            chosen = np.sort(at[low:high]).astype(np.int64)
            if run.since:
                chosen = chosen[content.hashes[chosen] >= np.uint64(run.since)]
            if len(chosen):
                rows = rows_at(content.rows, chosen)
                found.append(rows_where(rows, ~_replaced(form, runs[:place], content.hashes[chosen], rows)))
    return found


def merged(form: Form, runs: Sequence[Run], since: int, until: int, *, oldest: bool) -> Content:
    """One content of several runs, newest first, for hashes in [since, until); dead rows stay unless nothing is older.

    What a row identifies is compared only among equal hashes, which are nearly always of one key.
    """
    contents = [content for run in runs for content in run.contents(form, since, until) if len(content.hashes)]
    if not contents:
        return form.content(pl.DataFrame(schema={**form.schema, LIVE: pl.Boolean}))
    hashes = np.concatenate([content.hashes for content in contents])
    rows = pl.concat([content.rows for content in contents], rechunk=True)
    order = form.order(hashes, rows)
    keep = np.ones(len(order), np.bool_)
    repeats = _repeats(form, hashes, rows, order)
    if len(repeats):
        identities = keys_of(rows, form.identity)
        same = _equal(rows_at(identities, order[repeats - 1]), rows_at(identities, order[repeats]), form.identity)
        if same.all():
            keep[repeats] = False
        else:  # another key has the hash of one, so equal ones may not be neighbours
            again = np.unique(np.concatenate([repeats - 1, repeats]))
            keep[again] = False
            keep[again[KeySet(form.identity).firsts(rows_at(identities, order[again]))]] = True
    if oldest:
        keep &= rows[LIVE].to_numpy()[order]
    order = order[keep]
    return Content(form, hashes[order], rows_at(rows, order))


def _repeats(form: Form, hashes: Hashes, rows: pl.DataFrame, order: Slots) -> Slots:
    """Where, in the order, a row has the hash, and the number, of the row before."""
    ordered = hashes[order]
    again = ordered[1:] == ordered[:-1]
    if form.layout.many and again.any():
        numbers = rows[NUMBER].to_numpy()[order]
        again &= numbers[1:] == numbers[:-1]
    return np.flatnonzero(again) + 1


def _equal(left: pl.DataFrame, right: pl.DataFrame, names: Iterable[str]) -> Mask:
    """Which rows are equal in these columns, exactly; null equals null. Floats must be canonical."""
    same = np.ones(left.height, np.bool_)
    for name in names:
        one, other = left[name], right[name]
        if not one.equals(other, null_equal=True):  # nearly always: 2 us for 100 rows, eq_missing takes 30
            same &= one.eq_missing(other).to_numpy()
    return same
