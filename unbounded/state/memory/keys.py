"""Which place belongs to a key? A hash proposes one, the stored key decides."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from unbounded.state.memory.index import Hashes, Index, hash_rows
from unbounded.state.memory.slots import Mask, Rows, Slots, Values, frame_of, places

__all__ = ["Keys", "first_of_each"]

_HASH_BLOCK = 1 << 18


class Keys:
    """Distinct keys, canonical ones, each at the place that its owner has given it."""

    def __init__(self, schema: pl.Schema) -> None:
        self._names, self._rows = schema.names(), Rows(schema)
        self._index, self._seed = Index(), secrets.randbits(63)  # nobody can prepare keys that collide

    @property
    def nbytes(self) -> int:
        return self._index.nbytes + self._rows.nbytes

    def resize(self, places: int) -> None:
        """Keep places below this one."""
        self._index.resize(places)
        self._rows.resize(places)

    def take(self, places: Slots) -> list[Values]:
        """The keys at these places, column by column."""
        return self._rows.take(places)

    def find(self, keys: list[pl.Series], height: int) -> Slots:
        """The place of each key, or a negative number."""
        return self._find(keys, hash_rows(keys, height, self._seed))[0]

    def _find(self, keys: list[pl.Series], hashes: Hashes) -> tuple[Slots, Slots]:
        """The place of each key, or a negative number, and the cell where its search ended.

        Another key with such a hash, which only an adversary or a test makes likely, sends the search on.
        """
        found, cells = self._index.find(hashes)
        hits = np.flatnonzero(found >= 0)
        while len(hits):
            every = len(hits) == len(found)
            wrong = hits[~self._rows.equal(found[hits], keys, None if every else hits)]
            if not len(wrong):
                break
            found[wrong], cells[wrong] = self._index.find(hashes[wrong], cells[wrong] + 1)
            hits = wrong[found[wrong] >= 0]
        return found, cells

    def open(self, keys: list[pl.Series], height: int, allocate: Callable[[int], Slots]) -> tuple[Slots, Mask]:
        """The place of each key, and which are the first of a new key; `allocate` gives so many places for these."""
        hashes = hash_rows(keys, height, self._seed)
        self._index.reserve(len(hashes))
        found, cells = self._find(keys, hashes)
        fresh = found < 0
        waiting = np.flatnonzero(fresh)
        while len(waiting):
            # Equal keys have equal hashes: the first row of each hash gets a place, the others look again.
            first = waiting[first_of_each(hashes[waiting])]
            found[first] = allocate(len(first))
            self._rows.put(found[first], keys, None if len(first) == len(found) else first)
            self._index.insert(hashes[first], found[first], cells[first])
            others = waiting[found[waiting] < 0]
            if not len(others):
                break
            found[others], cells[others] = self._find([values[places(others)] for values in keys], hashes[others])
            fresh[others] = found[others] < 0
            waiting = others[found[others] < 0]
        return found, fresh

    def forget(self, places: Slots) -> None:
        """The keys at these places are not found any more, and the places are free."""
        self._index.remove(places)

    def adopt(self, rows: Rows, places: Slots) -> None:
        """Have just these keys, distinct ones at these places."""
        self._rows = rows
        self._index.reserve(len(places))
        for low in range(0, len(places), _HASH_BLOCK):
            block = places[low : low + _HASH_BLOCK]
            keys = frame_of(self._names, rows.take(block)).get_columns()
            hashes = hash_rows(keys, len(block), self._seed)
            self._index.insert(hashes, block, self._index.home(hashes))

    def move(self, places: Slots, targets: Slots) -> None:
        """The keys at these places are at others now, which are free."""
        self._rows.move(places, targets)
        self._index.move(places, targets)

    def collect(self, live: Mask, limit: int, rows: int) -> None:
        """As `Rows.collect`; without rows it is done for every batch, and the index may shrink then."""
        self._rows.collect(live, limit, rows)
        if not rows:
            self._index.reserve(0)

    def part(self, low: int, high: int) -> Rows:
        """The keys at the places from `low` to before `high`, counted from 0, as they are now."""
        return self._rows.part(low, high)

    def picked(self, places: Slots) -> Rows:
        """The keys at these places, counted from 0, as they are now."""
        return self._rows.picked(places)


def first_of_each(values: npt.NDArray[np.int64] | Hashes) -> Slots:
    """The positions of the first of equal values, ascending."""
    ordered = np.sort(values)  # without positions, sorting is ten times faster, and mostly nothing repeats
    if not (ordered[1:] == ordered[:-1]).any():
        return np.arange(len(values))
    _, first = np.unique(values, return_index=True)
    return np.sort(first)
