"""Which slot may hold the row of a key? Hash cells, probed for a whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
from polars._typing import PolarsDataType

from unbounded.state.memory.arrays import Elastic
from unbounded.state.memory.slots import Slots

__all__ = ["Hashes", "Index", "canonical", "dtype_of", "hash_rows"]

Hashes: TypeAlias = npt.NDArray[np.uint64]

# An entry is the upper half of the hash and slot + 2; its tag is odd, so neither of these can look like one.
_EMPTY, _TOMBSTONE = np.uint64(0), np.uint64(1)
_FIRST = 2
_ODD = np.uint64(1 << 32)
_LOW = np.uint64((1 << 32) - 1)
_LEAST = 1024  # cells
_SPARSE, _SHRUNK = 128, 16  # with less than one key in so many cells, a sixteenth of them will do
_RATE = 6  # old cells passed per new key, at least
_ALWAYS = 128  # keys that come with every batch at least, so that small ones get on, too
_WORTH_A_PASS = 1 << 13  # cells; fewer are not worth the calls of numpy
_BLOCK = 1 << 16  # cells passed at once: that many stay in the CPU cache
_MANY = 16  # more new keys than one in so many old cells are paid for in advance
_AT_ONCE = 1 << 14  # a region of so few cells is passed in one go
_WIDTHS = [1 << bits for bits in range(6, 33, 4)]  # how far to look for an empty cell: mostly 64 cells are plenty


def canonical(value: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """`value` with one bit pattern per key: -0.0 becomes 0.0 and every NaN the same NaN, at any depth.

    None if the type holds no floats, so that nothing has to be done. `value + 0.0` would not do: Polars folds it away.
    """
    if dtype.is_float():
        nan = pl.lit(float("nan"), dtype)
        return pl.when(value == 0).then(pl.lit(0.0, dtype)).when(value.is_nan()).then(nan).otherwise(value)
    if isinstance(dtype, pl.Struct):
        fields = [(each.name, canonical(value.struct.field(each.name), dtype_of(each.dtype))) for each in dtype.fields]
        changed = [expr.alias(name) for name, expr in fields if expr is not None]
        return pl.when(value.is_not_null()).then(value.struct.with_fields(changed)) if changed else None
    if isinstance(dtype, pl.List | pl.Array):
        inner = canonical(pl.element(), dtype_of(dtype.inner))
        if inner is None:
            return None
        return value.list.eval(inner) if isinstance(dtype, pl.List) else value.arr.eval(inner)
    return None


def dtype_of(dtype: PolarsDataType) -> pl.DataType:
    """A type that stands as its bare class, as those within nested types may, as a type."""
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def hash_rows(keys: Sequence[pl.Series], height: int, seed: int) -> Hashes:
    """64 bits per key. Equal canonical keys have equal hashes within this process; nothing else is promised."""
    if not keys:
        return np.zeros(height, np.uint64)
    return pl.DataFrame(list(keys)).hash_rows(seed).to_numpy()


@dataclass(frozen=True)
class _Region:
    """A power of two of cells that follow each other; behind the last one comes the first."""

    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size

    def home(self, hashes: Hashes) -> Slots:
        """The cell where the search for each hash begins."""
        return (hashes & np.uint64(self.size - 1)).view(np.int64) + self.start


class Index:
    """Vectorised open addressing with linear probing: from the hash of a key to a slot that may hold it.

    An entry is in the first free cell from the home of its hash on. All keys of a batch are probed at once; the loops
    run over rounds, with fewer rows in each, never over rows.

    At most two fifths of the cells of a region are used. Then, and when hardly any are, the entries move to another
    region, from the last home to the first, some with each batch. How far that has come says in which of the two an
    entry is, so a search looks in one place only; and pages are touched for the first time one after the other.
    """

    def __init__(self) -> None:
        self._memory: Elastic[np.uint64] = Elastic(np.uint64)
        self._cells: Hashes = self._memory.resize(_LEAST)
        self._region = _Region(0, _LEAST)
        self._used = 0  # cells of the region that are not empty, and those that moving will fill
        self._old: _Region | None = None
        self._left = 0  # entries whose home is in the old region before this cell are still there
        self._rate = 0  # old cells to pass per new key
        self._owed = 0  # new keys for which none were passed yet
        self._keys = 0
        self._hashes: Elastic[np.uint64] = Elastic(np.uint64)  # by slot, for moving and removing

    @property
    def nbytes(self) -> int:
        old = self._old  # another thread may ask
        cells = self._region.size + (0 if old is None else max(self._left - old.start, 0))
        return cells * self._cells.itemsize + self._hashes.nbytes

    def resize(self, slots: int) -> None:
        """Keep slots below this one."""
        self._hashes.resize(slots)

    # ------------------------------------------------------------------------------------- moving
    def reserve(self, extra: int) -> None:
        """Make room for `extra` keys, and move some of the entries that have to move: O(1) per key."""
        if self._old is not None:
            # Much is paid for in advance, for the old cells must not fill up before they are passed.
            ahead = extra if _MANY * extra > self._left - self._old.start else 0
            self._owed += _ALWAYS
            if ahead or self._rate * self._owed >= _WORTH_A_PASS:
                self._pass(self._owed + ahead)
        size, sparse = self._region.size, _SPARSE * (self._keys + extra) < self._region.size
        if self._used + extra > _room(size):
            self._pass(self._owed + extra)
            self._begin(extra, size // (_SHRUNK if sparse else 2))
        elif sparse and size > _LEAST and self._old is None:
            self._begin(extra, size // _SHRUNK)

    def _begin(self, extra: int, least: int) -> None:
        """Use another region from now on, so large that the old one is empty before there is no room in it."""
        assert self._old is None
        size = max(1 << (4 * (self._keys + extra) - 1).bit_length(), least, _LEAST)
        old = self._region
        self._region, self._old, self._left = _Region(0 if size <= old.start else old.end, size), old, old.end
        self._cells = self._memory.resize(max(self._region.end, old.end))
        slow = _RATE if size > old.size // _SHRUNK else _SPARSE  # passing a cell costs little, moving an entry more
        self._rate = max(slow, old.size // (_room(size) - self._keys) + 1)
        self._used = self._keys
        self._pass(extra if old.size > _AT_ONCE else old.size)

    def _pass(self, keys: int) -> None:
        """Pass the old cells that so many new keys pay for."""
        count, self._owed = self._rate * keys, 0
        while self._old is not None and count > 0:
            count -= self._move_last(self._old, min(count, _BLOCK))

    def _move_last(self, old: _Region, count: int) -> int:
        """Move the entries of the last `count` homes, or of a few more, for clusters stay together; how many homes."""
        low = self._empty_before(old, max(self._left - count, old.start))
        entries = self._cells[low : self._left]
        self._insert_again(entries[entries > _TOMBSTONE])
        if low > old.start or self._left < old.end:  # a cluster may go on behind the last home, or around the end
            cells = self._used_from(old, self._left)
            cells = cells[(cells < low) | (cells >= self._left)]
            entries = self._cells.take(cells)
            late = np.flatnonzero(entries > _TOMBSTONE)
            late = late[old.home(self._hashes.items.take(_slots(entries[late]))) >= low]
            self._insert_again(entries[late])
            self._cells[cells[late]] = _TOMBSTONE
            self._cells[cells[cells >= self._left]] = _EMPTY
        self._memory.clear(low, self._left, old.end)
        passed, self._left = self._left - low, low
        if low == old.start:
            self._old = None
            self._cells = self._memory.resize(self._region.end)
        return passed

    def _insert_again(self, entries: Hashes) -> None:
        slots = _slots(entries)
        self._fill(entries, self._region.home(self._hashes.items.take(slots)))

    def _empty_before(self, region: _Region, cell: int) -> int:
        """The next empty cell at or before this one, or the first."""
        for width in _WIDTHS:
            low = max(cell + 1 - width, region.start)
            found = np.flatnonzero(self._cells[low : cell + 1] == _EMPTY)
            if len(found):
                return low + int(found[-1])
            if low == region.start:
                break
        return region.start

    def _used_from(self, region: _Region, cell: int) -> Slots:
        """The cells from this one, or around the end, to before the first empty one."""
        for width in _WIDTHS:
            cells = np.arange(cell, cell + min(width, region.size))
            cells = ((cells - region.start) & (region.size - 1)) + region.start
            empty = np.flatnonzero(self._cells.take(cells) == _EMPTY)
            if len(empty):
                return cells[: empty[0]]
        raise AssertionError("a region without an empty cell")

    # ------------------------------------------------------------------------------------ probing
    def home(self, hashes: Hashes) -> Slots:
        """The cell where the search for each hash begins."""
        homes = self._region.home(hashes)
        if self._old is None:
            return homes
        before = self._old.home(hashes)
        return np.where(before < self._left, before, homes)

    def _around(self, cells: Slots) -> Slots:
        """Cells behind the last one of a region are the first one."""
        ends = cells == self._region.end
        if self._old is not None:  # first, for one region may begin where the other ends
            cells[cells == self._old.end] = self._old.start
        cells[ends] = self._region.start
        return cells

    def find(self, hashes: Hashes, cells: Slots | None = None) -> tuple[Slots, Slots]:
        """The next slot whose key has such a hash, or a negative number; and the cell where the search ended.

        The search begins at `cells`, or at home. For an absent key the cell is the first empty one, which `insert`
        wants. If the slot turns out to hold another key, go on with that cell + 1. Cells are good until `reserve`.
        """
        at = self.home(hashes) if cells is None else self._around(cells.copy())
        wanted = hashes | _ODD
        entries = self._cells.take(at)
        final, ends = entries, at.copy()
        rows = going = (((entries ^ wanted) > _LOW) & (entries != _EMPTY)).nonzero()[0]
        while len(rows):  # `nonzero` itself, for these rounds are short: `flatnonzero` takes twice as long
            wanted, at = wanted[going], self._around(at[going] + 1)
            entries = self._cells.take(at)
            final[rows], ends[rows] = entries, at
            going = (((entries ^ wanted) > _LOW) & (entries != _EMPTY)).nonzero()[0]
            rows = rows[going]
        return _slots(final), ends

    def insert(self, hashes: Hashes, slots: Slots, cells: Slots) -> None:
        """Add slots of absent keys; `cells` is where their search ended, or their home."""
        self._hashes.items[slots] = hashes
        self._keys, self._used, self._owed = (each + len(slots) for each in (self._keys, self._used, self._owed))
        self._fill(_entries(hashes, slots), cells)

    def _fill(self, entries: Hashes, cells: Slots) -> None:
        """Put each entry into the first free cell."""
        while len(entries):
            free = (self._cells.take(cells) <= _TOMBSTONE).nonzero()[0]
            self._cells[cells[free]] = entries[free]
            # Several may have wanted one cell: one of them has it, the others look further.
            lost = (self._cells.take(cells) != entries).nonzero()[0]
            entries, cells = entries[lost], self._around(cells[lost] + 1)

    def remove(self, slots: Slots) -> None:
        """Forget slots that are in the index."""
        self._keys -= len(slots)
        self._replace(slots, np.full(len(slots), _TOMBSTONE))

    def move(self, slots: Slots, targets: Slots) -> None:
        """What was found in `slots` is in `targets` now."""
        hashes = self._hashes.items.take(slots)
        self._replace(slots, _entries(hashes, targets))
        self._hashes.items[targets] = hashes

    def _replace(self, slots: Slots, entries: Hashes) -> None:
        wanted, cells = (slots + _FIRST).view(np.uint64), self.home(self._hashes.items.take(slots))
        while len(wanted):
            here = (self._cells.take(cells) & _LOW) == wanted
            self._cells[cells[here]] = entries[here]
            going = (~here).nonzero()[0]
            wanted, entries, cells = wanted[going], entries[going], self._around(cells[going] + 1)


def _room(size: int) -> int:
    """How many of so many cells are used at most."""
    return 2 * size // 5


def _entries(hashes: Hashes, slots: Slots) -> Hashes:
    return ((hashes | _ODD) & ~_LOW) | (slots + _FIRST).view(np.uint64)


def _slots(entries: Hashes) -> Slots:
    return (entries & _LOW).view(np.int64) - _FIRST
