"""What is the row of a key now? Rows in slot columns, folded together by Polars expressions."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from unbounded.errors import PlanError
from unbounded.state import TableSpec
from unbounded.state.expiry import NEVER, Calendar
from unbounded.state.folding import Fold
from unbounded.state.index import Hashes, Index, canonical, hash_rows
from unbounded.state.slots import Mask, Rows, Slots, Values, frame_of, grown, places

__all__ = ["LIVE", "SLOT", "VERSION", "Part", "SlotTable"]

SLOT, LIVE, VERSION = "__slot", "__live", "__version"
"""The columns that a changed row has besides its own: its place, whether it is there, and the version that wrote it."""

_BEGINNING = int(np.iinfo(np.int64).min)
_SLACK = 4096  # garbage that is never worth collecting
_HASH_BLOCK = 1 << 18


@dataclass(frozen=True)
class Part:
    """The rows of a range of slots as they were at one moment; read later, by any thread."""

    low: int
    names: tuple[str, ...]
    live: Mask
    keys: Rows
    values: Rows

    def frame(self) -> pl.DataFrame:
        """The rows that were there, with SLOT."""
        slots = np.flatnonzero(self.live)
        place = pl.Series((slots + self.low).astype(np.uint32))
        return frame_of([SLOT, *self.names], [place, *self.keys.take(slots), *self.values.take(slots)])


class SlotTable:
    """Rows by key in this process's memory: every call costs what its rows cost, on average.

    Equal keys are found by hash and decided by comparing them with the stored key. Growing an array, rebuilding the
    index and collecting garbage cost what the table holds, but happen only after as many rows have changed.
    """

    def __init__(self, name: str, spec: TableSpec) -> None:
        self.name, self.spec = name, spec
        self._schema = pl.Schema({**spec.key, **spec.values})
        self._fold = Fold(spec.values, spec.merge)
        self._check()
        self._expiry = 0 if spec.expiry is None else spec.values.names().index(spec.expiry)
        self._canonical = [
            expr.alias(key) for key, dtype in spec.key.items() if (expr := canonical(pl.col(key), dtype)) is not None
        ]
        self.clear()

    def _check(self) -> None:
        """Refuse a spec that could not be kept, before any row arrives."""
        if not self._schema or len(self._schema) != len(self.spec.key) + len(self.spec.values):
            raise PlanError(f"table {self.name!r} needs columns with different names, not {self.spec}")
        if self.spec.expiry is not None and self.spec.values.get(self.spec.expiry) != pl.Int64:
            raise PlanError(f"table {self.name!r} has expiry {self.spec.expiry!r}, which is no Int64 among its values")
        if any(dtype == pl.Object for dtype in self._schema.dtypes()):
            raise PlanError(f"table {self.name!r} holds a column of Python objects; give it a Polars type")
        merged = self._fold.schema()
        if merged != self.spec.values:
            raise PlanError(f"table {self.name!r} merges to {merged}, but keeps {self.spec.values}; cast the merge")

    def clear(self) -> None:
        """Forget everything, also what a commit would have written."""
        self._keys, self._values = Rows(self.spec.key), Rows(self.spec.values)
        self._index, self._seed = Index(), secrets.randbits(63)  # nobody can prepare keys that collide
        self._live: Mask = np.zeros(0, np.bool_)
        self._free: list[Slots] = []
        self._rows = self._size = self._capacity = 0
        self._calendar = Calendar() if self.spec.expiry is not None else None
        self._touched: list[Slots] = []
        self.watermark = _BEGINNING
        self.expired_at, self._expired = -1, False

    # -------------------------------------------------------------------------------- the promise
    def merge(self, partials: pl.DataFrame) -> pl.DataFrame:
        rows = self._accept(partials, self._schema)
        if not rows.height:
            return rows
        slots, fresh = self._open(rows)
        if fresh.all():  # nothing was stored and nothing repeats, so there is nothing to fold
            self._write(slots, self._values_of(rows))
            self._schedule(slots)
            return rows
        first = _first_of_each(slots)
        touched, stays = slots[first], ~fresh[first]
        known, new = touched[stays], touched[~stays]
        before = self._expiries(known)
        if len(first) == len(slots) and self._fold.has_pairs:
            self._pair_up(slots, fresh, rows)
        else:
            self._write(*self._fold.groups(known, self._values.take(known), slots, self._values_of(rows)))
            rows = rows if len(first) == len(slots) else rows[places(first)]
        # A row that moved later keeps its promise; only new rows and those that moved sooner need one.
        self._schedule(np.concatenate([known[self._expiries(known) < before], new]))
        keys = rows.get_columns()[: len(self.spec.key)]
        return frame_of(self._schema.names(), [*keys, *self._values.take(touched)])

    def _pair_up(self, slots: Slots, fresh: Mask, rows: pl.DataFrame) -> None:
        """Fold rows whose keys do not repeat: a known one with what is stored, a fresh one with nothing."""
        if fresh.any():
            new, stays = np.flatnonzero(fresh), np.flatnonzero(~fresh)
            self._write(slots[new], self._values_of(rows), new)
            slots, rows = slots[stays], rows[places(stays)]
        self._write(slots, self._fold.pairs(self._values.take(slots), self._values_of(rows)))

    def insert(self, rows: pl.DataFrame) -> pl.DataFrame:
        accepted = self._accept(rows, self._schema)
        if not rows.height:
            return rows
        slots, fresh = self._open(accepted)
        chosen = places(np.flatnonzero(fresh))
        self._write(slots[fresh], self._values_of(accepted[chosen]))
        self._schedule(slots[fresh])
        return rows[chosen]

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        accepted = self._accept(keys, self.spec.key).get_columns()
        slots, _ = self._find(accepted, hash_rows(accepted, keys.height, self._seed))
        here = np.flatnonzero(slots >= 0)
        found = keys if len(here) == len(slots) else keys[places(here)]
        return found.hstack(frame_of(self.spec.values.names(), self._values.take(slots[here])).get_columns())

    def expire(self, watermark: int) -> pl.DataFrame:
        self.watermark, self._expired = max(watermark, self.watermark), True
        looked = self._calendar.pop(self.watermark) if self._calendar is not None else np.zeros(0, np.int64)
        due = self._expiries(looked) <= self.watermark
        self._schedule(looked[~due])
        rows = self._frame(looked[due])
        self._release(looked[due])
        return rows

    def remove(self, keys: pl.DataFrame) -> None:
        accepted = self._accept(keys, self.spec.key).get_columns()
        found, _ = self._find(accepted, hash_rows(accepted, keys.height, self._seed))
        slots = np.unique(found[found >= 0])
        self._release(slots)
        self._touched.append(slots)

    def scan(self) -> pl.DataFrame:
        return self._frame(np.flatnonzero(self._live[: self._size]))

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        calendar = 0 if self._calendar is None else self._calendar.nbytes
        return self._index.nbytes + self._live.nbytes + calendar + self._keys.nbytes + self._values.nbytes

    # ----------------------------------------------------------------------------- for durability
    @property
    def size(self) -> int:
        """How many slots were ever used."""
        return self._size

    def changes(self) -> pl.DataFrame | None:
        """What the touched slots hold since `settle`: SLOT, LIVE and the row; None if no slot was touched.

        Full rows by slot, so replaying them is idempotent and needs no merge, no hash and no comparison of keys. A row
        that only expired is not here: the watermark tells it.
        """
        touched = np.unique(np.concatenate(self._touched)) if self._touched else np.zeros(0, np.int64)
        if not len(touched):
            return None
        live = self._live.take(touched)
        here, gone = touched[live], touched[~live]
        rows = self._placed(here, [*self._keys.take(here), *self._values.take(here)], live=True)
        if len(gone):
            nothing = pl.DataFrame(schema=self._schema).clear(len(gone))
            rows = rows.vstack(self._placed(gone, nothing.get_columns(), live=False))
        return rows

    def _placed(self, slots: Slots, columns: Sequence[Values], *, live: bool) -> pl.DataFrame:
        place, there = pl.Series(slots.astype(np.uint32)), pl.Series(np.full(len(slots), live))
        return frame_of([SLOT, LIVE, *self._schema], [place, there, *columns])

    def expired_by(self, version: int) -> int:
        """The last version in which rows were expired, if the next commit is `version`; -1 for none."""
        return version if self._expired else self.expired_at

    def settle(self, version: int) -> None:
        """What changed is durable in this version."""
        self.expired_at, self._expired, self._touched = self.expired_by(version), False, []

    def part(self, low: int, high: int) -> Part:
        """The rows in the slots from `low` to before `high`; copies no more than these."""
        keys, values = self._keys.part(low, high), self._values.part(low, high)
        return Part(low, tuple(self._schema), self._live[low:high].copy(), keys, values)

    def load(self, frames: Iterable[pl.DataFrame], watermark: int, expired_at: int) -> None:
        """Become what these changed rows say, oldest first: SLOT, LIVE, VERSION and the row.

        A row is gone if its expiry is not above the watermark and rows were expired after the version that wrote it;
        so one that was written when its time had already passed stays until the next time, as it did in memory.
        """
        self.clear()
        versions = np.zeros(0, np.int64)
        for frame in frames:
            slots = frame[SLOT].cast(pl.Int64).to_numpy()
            if not len(slots):
                continue
            self._reach(int(slots.max()) + 1)
            versions = grown(versions, self._capacity)
            versions[slots] = frame[VERSION].to_numpy()
            self._live[slots] = frame[LIVE].to_numpy()
            self._keys.put(slots, [frame[name] for name in self.spec.key])
            self._values.put(slots, [frame[name] for name in self.spec.values])
        self.watermark, self.expired_at = watermark, expired_at
        slots = np.flatnonzero(self._live[: self._size])
        if self._calendar is not None:
            times = self._expiries(slots)
            stays = (times > watermark) | (versions[slots] >= expired_at)
            self._live[slots[~stays]] = False
            self._calendar.schedule(slots[stays], times[stays])
            slots = slots[stays]
        self._rows = len(slots)
        self._free = [np.flatnonzero(~self._live[: self._size])]
        self._collect()
        for low in range(0, len(slots), _HASH_BLOCK):
            block = slots[low : low + _HASH_BLOCK]
            keys = frame_of(self.spec.key.names(), self._keys.take(block)).get_columns()
            hashes = hash_rows(keys, len(block), self._seed)
            self._index.reserve(len(block))
            self._index.insert(hashes, block, self._index.home(hashes))

    # ------------------------------------------------------------------------------------ looking
    def _accept(self, rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
        """The rows with the columns in order and canonical keys."""
        if rows.columns != schema.names():
            rows = rows.select(schema.names())
        if rows.dtypes != schema.dtypes():
            raise PlanError(f"table {self.name!r} holds {schema}, not {rows.schema}; cast the rows")
        return rows.with_columns(self._canonical) if self._canonical else rows

    def _values_of(self, rows: pl.DataFrame) -> list[pl.Series]:
        return rows.get_columns()[len(self.spec.key) :]

    def _find(self, keys: list[pl.Series], hashes: Hashes) -> tuple[Slots, Slots]:
        """The slot of each key, or a negative number, and the cell where its search ended.

        The index proposes, the stored key decides. Another key with such a hash, which only an adversary or a test
        makes likely, sends the search on.
        """
        slots, cells = self._index.find(hashes)
        hits = np.flatnonzero(slots >= 0)
        while len(hits):
            every = len(hits) == len(slots)
            wrong = hits[~self._keys.equal(slots[hits], keys, None if every else hits)]
            if not len(wrong):
                break
            slots[wrong], cells[wrong] = self._index.find(hashes[wrong], cells[wrong] + 1)
            hits = wrong[slots[wrong] >= 0]
        return slots, cells

    def _open(self, rows: pl.DataFrame) -> tuple[Slots, Mask]:
        """The slot of each row, and whether the row is the first of a new key; new slots hold their key."""
        keys = rows.get_columns()[: len(self.spec.key)]
        hashes = hash_rows(keys, rows.height, self._seed)
        self._index.reserve(len(hashes))
        slots, cells = self._find(keys, hashes)
        fresh = slots < 0
        waiting = np.flatnonzero(fresh)
        while len(waiting):
            # Equal keys have equal hashes: the first row of each hash makes a slot, the others look again.
            first = waiting[_first_of_each(hashes[waiting])]
            slots[first] = self._allocate(len(first))
            self._keys.put(slots[first], keys, None if len(first) == len(slots) else first)
            self._index.insert(hashes[first], slots[first], cells[first])
            others = waiting[slots[waiting] < 0]
            if not len(others):
                break
            slots[others], cells[others] = self._find([values[places(others)] for values in keys], hashes[others])
            fresh[others] = slots[others] < 0
            waiting = others[slots[others] < 0]
        return slots, fresh

    # ------------------------------------------------------------------------------------ storing
    def _reach(self, slots: int) -> None:
        """Use slots up to this many."""
        self._size = max(self._size, slots)
        if self._size <= self._capacity:
            return
        self._live = grown(self._live, self._size)
        self._capacity = len(self._live)
        self._index.resize(self._capacity)
        self._keys.resize(self._capacity)
        self._values.resize(self._capacity)
        if self._calendar is not None:
            self._calendar.resize(self._capacity)

    def _allocate(self, count: int) -> Slots:
        """Slots for new rows, used ones first."""
        slots: list[Slots] = []
        missing = count
        while missing and self._free:
            block = self._free.pop()
            slots.append(block[:missing])
            if len(block) > missing:
                self._free.append(block[missing:])
            missing -= len(slots[-1])
        slots.append(np.arange(self._size, self._size + missing))
        self._reach(self._size + missing)
        taken = np.concatenate(slots)
        self._live[taken] = True
        self._rows += count
        return taken

    def _write(self, slots: Slots, values: Sequence[pl.Series], rows: Slots | None = None) -> None:
        """Store the values of rows whose keys are stored: of these rows, or of all."""
        self._values.put(slots, values, rows)
        self._touched.append(slots)
        self._collect()

    def _collect(self) -> None:
        """Drop garbage once it is more than the live rows."""
        limit = 2 * self._rows + _SLACK
        for rows in (self._keys, self._values):
            if rows.garbage > limit:
                rows.compact(np.flatnonzero(self._live[: self._size]))
        if self._calendar is not None and self._calendar.entries > limit:
            self._calendar.clear()
            self._schedule(np.flatnonzero(self._live[: self._size]))

    def _release(self, slots: Slots) -> None:
        if not len(slots):
            return
        self._index.remove(slots)
        self._live[slots] = False
        self._free.append(slots)
        self._rows -= len(slots)
        if self._calendar is not None:
            self._calendar.forget(slots)

    def _schedule(self, slots: Slots) -> None:
        if self._calendar is not None and len(slots):
            self._calendar.schedule(slots, self._expiries(slots))

    def _expiries(self, slots: Slots) -> npt.NDArray[np.int64]:
        if self.spec.expiry is None:
            return np.full(len(slots), NEVER)
        return self._values.integers(slots, self._expiry, null=NEVER)

    def _frame(self, slots: Slots) -> pl.DataFrame:
        return frame_of(self._schema.names(), [*self._keys.take(slots), *self._values.take(slots)])


def _first_of_each(values: npt.NDArray[np.int64] | Hashes) -> Slots:
    """The places of the first of equal values, ascending."""
    ordered = np.sort(values)  # without places, sorting is ten times faster, and mostly nothing repeats
    if not (ordered[1:] == ordered[:-1]).any():
        return np.arange(len(values))
    _, first = np.unique(values, return_index=True)
    return np.sort(first)
