"""Which rows are there, by slot, and which of them changed since the last commit?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from unbounded.errors import PlanError
from unbounded.state import MultimapSpec, TableSpec
from unbounded.state.memory.arrays import Elastic
from unbounded.state.memory.expiry import LAST, NEVER, Calendar
from unbounded.state.memory.index import canonical
from unbounded.state.memory.numbers import Numbers
from unbounded.state.memory.slots import Mask, Rows, Slots, Values, distinct, frame_of

__all__ = ["LIVE", "SLOT", "VERSION", "Part", "Stored"]

SLOT, LIVE, VERSION = "__slot", "__live", "__version"
"""The columns that a changed row has besides its own: its place, whether it is there, and the version that wrote it."""

_BEGINNING = int(np.iinfo(np.int64).min)
_SLACK = 4096  # garbage that is never worth collecting


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


class Stored(ABC):
    """Rows by slot, their expiry, and what a commit has to write of them; a shape of state says how keys find slots.

    `kept` are the columns of a row behind its key: the values of `spec`, and what the shape itself must remember.
    """

    _movable = 0
    """How many rows may move to other slots with a commit, so that there are fewer slots."""

    def __init__(self, name: str, spec: TableSpec | MultimapSpec, kept: pl.Schema) -> None:
        self.name = name
        self._key, self._kept = spec.key, kept
        self._schema = pl.Schema({**spec.key, **spec.values})
        self._columns = [*spec.key, *kept]
        self._expires = spec.expiry is not None
        self._expiry = 0 if spec.expiry is None or spec.expiry not in kept else kept.names().index(spec.expiry)
        self._check(spec)
        self._canonical = [
            expr.alias(key) for key, dtype in spec.key.items() if (expr := canonical(pl.col(key), dtype)) is not None
        ]

    def _check(self, spec: TableSpec | MultimapSpec) -> None:
        """Refuse a spec that could not be kept, before any row arrives."""
        if not self._schema or len(self._schema) != len(spec.key) + len(spec.values):
            raise PlanError(f"{self._what} needs columns with different names, not {spec}")
        if spec.expiry is not None and spec.values.get(spec.expiry) != pl.Int64:
            raise PlanError(f"{self._what} has expiry {spec.expiry!r}, which is no Int64 among its values")
        if any(dtype == pl.Object for dtype in self._schema.dtypes()):
            raise PlanError(f"{self._what} holds a column of Python objects; give it a Polars type")

    @property
    @abstractmethod
    def _what(self) -> str:
        """The shape and the name, for errors."""

    @abstractmethod
    def _keys_of(self, slots: Slots) -> list[Values]:
        """The keys of slots with rows, column by column."""

    @abstractmethod
    def _part_of_keys(self, low: int, high: int) -> Rows:
        """The keys of a range of slots, counted from 0; those of slots without a row are anything."""

    @abstractmethod
    def _enter(self, slots: Slots, keys: Rows) -> None:
        """Make the rows that were loaded into these slots be found; `keys` are by slot."""

    @abstractmethod
    def _release(self, slots: Slots) -> None:
        """Forget rows that are there, so that they are not found and their slots can be used again."""

    @abstractmethod
    def _collect_keys(self, limit: int, rows: int) -> None:
        """Drop some keys that are not needed, as many as `rows` pay for, if more than this are kept."""

    def clear(self) -> None:
        """Forget everything, also what a commit would have written."""
        self._values = Rows(self._kept)
        self._flags: Elastic[np.bool_] = Elastic(np.bool_, np.False_)
        self._live: Mask = self._flags.items
        self._slots = Numbers()
        self._rows = self._capacity = 0
        self._calendar = Calendar() if self._expires else None
        self._touched: list[Slots] = []
        self.watermark = _BEGINNING
        self.expired_at, self._expired = -1, False

    # -------------------------------------------------------------------------------- the promise
    def expire(self, watermark: int) -> pl.DataFrame:
        """As `Table.expire` and `Multimap.expire`."""
        self.watermark, self._expired = max(min(watermark, LAST), self.watermark), True
        looked = self._calendar.pop(self.watermark) if self._calendar is not None else np.zeros(0, np.int64)
        if not len(looked):
            return pl.DataFrame(schema=self._schema)
        due = self._expiries(looked) <= self.watermark
        self._schedule(looked[~due])
        rows = self._frame(looked[due])
        self._release(looked[due])
        return rows

    def scan(self) -> pl.DataFrame:
        """Every row."""
        return self._frame(np.flatnonzero(self._live[: self.size]))

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        """An estimate of the bytes in memory."""
        calendar = 0 if self._calendar is None else self._calendar.nbytes
        return self._live.nbytes + self._slots.nbytes + calendar + self._values.nbytes

    # ----------------------------------------------------------------------------- for durability
    @property
    def size(self) -> int:
        """All rows have slots below."""
        return self._slots.size

    def changes(self) -> pl.DataFrame | None:
        """What the touched slots hold since `settle`: SLOT, LIVE and the row; None if no slot was touched.

        Full rows by slot, so replaying them is idempotent and needs no merge, no hash and no comparison of keys. A row
        that only expired is not here: the watermark tells it.
        """
        self._shrink()
        touched = distinct(np.concatenate(self._touched)) if self._touched else np.zeros(0, np.int64)
        if not len(touched):
            return None
        live = np.zeros(len(touched), np.bool_)
        kept = np.searchsorted(touched, min(self.size, self._capacity))  # the others were cut off, or never stored
        live[:kept] = self._live.take(touched[:kept])
        here, gone = touched[live], touched[~live]
        rows = self._placed(here, [*self._keys_of(here), *self._values.take(here)], live=True)
        if len(gone):
            nothing = pl.DataFrame(schema={**self._key, **self._kept}).clear(len(gone))
            rows = rows.vstack(self._placed(gone, nothing.get_columns(), live=False))
        return rows

    def _placed(self, slots: Slots, columns: Sequence[Values], *, live: bool) -> pl.DataFrame:
        place, there = pl.Series(slots.astype(np.uint32)), pl.Series(np.full(len(slots), live))
        return frame_of([SLOT, LIVE, *self._columns], [place, there, *columns])

    def expired_by(self, version: int) -> int:
        """The last version in which rows were expired, if the next commit is `version`; -1 for none."""
        return version if self._expired else self.expired_at

    def settle(self, version: int) -> None:
        """What changed is durable in this version."""
        self.expired_at, self._expired, self._touched = self.expired_by(version), False, []

    def shown(self, version: int) -> int:
        """The version up to which a part has all rows, and perhaps later ones, if all is durable in `version`."""
        return version

    def part(self, low: int, high: int) -> Part:
        """The rows in the slots from `low` to before `high`; copies no more than these."""
        live = self._live[low:high].copy()
        live = live if live.any() else live[:0]
        high = low + len(live)
        return Part(low, tuple(self._columns), live, self._part_of_keys(low, high), self._values.part(low, high))

    def load(self, frames: Iterable[pl.DataFrame], watermark: int, expired_at: int) -> None:
        """Become what these changed rows say, oldest first: SLOT, LIVE, VERSION and the row.

        A row is gone if its expiry is not above the watermark and rows were expired after the version that wrote it;
        so one that was written when its time had already passed stays until the next time, as it did in memory.
        """
        self.clear()
        keys, versions = Rows(self._key), Elastic[np.int64](np.int64)
        for frame in frames:
            slots = frame[SLOT].cast(pl.Int64).to_numpy()
            if not len(slots):
                continue
            self._slots.reach(int(slots.max()) + 1)
            self._make_room()
            keys.resize(self._capacity)
            versions.resize(self._capacity)[slots] = frame[VERSION].to_numpy()
            self._live[slots] = frame[LIVE].to_numpy()
            keys.put(slots, [frame[name] for name in self._key])
            self._values.put(slots, [frame[name] for name in self._kept])
        self.watermark, self.expired_at = watermark, expired_at
        slots = np.flatnonzero(self._live[: self.size])
        if self._calendar is not None:
            times = self._expiries(slots)
            stays = (times > watermark) | (versions.items[slots] >= expired_at)
            self._live[slots[~stays]] = False
            self._calendar.schedule(slots[stays], times[stays])
            slots = slots[stays]
        self._rows = len(slots)
        self._slots.give_back(np.flatnonzero(~self._live[: self.size]))
        self._enter(slots, keys)
        self._collect(self.size)

    # ------------------------------------------------------------------------------------ storing
    def _accept(self, rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
        """The rows with the columns in order and canonical keys."""
        if rows.columns != schema.names():
            rows = rows.select(schema.names())
        if rows.dtypes != schema.dtypes():
            raise PlanError(f"{self._what} holds {schema}, not {rows.schema}; cast the rows")
        return rows.with_columns(self._canonical) if self._canonical else rows

    def _make_room(self) -> None:
        """Room for every slot in use."""
        if self.size > self._capacity:
            self._live = self._flags.reach(self.size)
            self._resize(len(self._live))

    def _resize(self, capacity: int) -> None:
        """Keep slots below this one."""
        self._capacity = capacity
        self._values.resize(self._capacity)
        if self._calendar is not None:
            self._calendar.resize(self._capacity)

    def _allocate(self, count: int) -> Slots:
        """Slots for new rows, used ones first."""
        slots = self._slots.take(count)
        self._make_room()
        self._live[slots] = True
        self._rows += count
        return slots

    def _write(
        self, slots: Slots, values: Sequence[pl.Series], rows: Slots | None = None, *, durable: bool = False
    ) -> None:
        """Store the values of rows: of these rows, or of all; a commit writes them unless they are durable."""
        self._values.put(slots, values, rows)
        if not durable:
            self._touched.append(slots)
        self._collect(len(slots))

    def _collect(self, rows: int) -> None:
        """Drop some garbage if it is more than the live rows: as much as so many rows pay for."""
        limit = 2 * self._rows + _SLACK
        self._collect_keys(limit, rows)
        self._values.collect(self._live, limit, rows)
        if self._calendar is not None:
            self._calendar.collect(limit, 8 * rows + _SLACK)

    def _shrink(self) -> None:
        """After a burst, give back a slice of what it needed; with every commit, when nobody else knows a slot."""
        self._collect(0)
        slots, targets = self._slots.shrink(self._movable)
        if len(slots):
            self._move(slots, targets)
        self._live = self._flags.fit(self.size)
        if len(self._live) < self._capacity:
            self._resize(len(self._live))

    def _move(self, slots: Slots, targets: Slots) -> None:
        """Have these rows in other slots, which are free; who reads the changes sees both as touched."""
        self._values.move(slots, targets)
        self._live[slots], self._live[targets] = False, True
        self._touched += [slots, targets]
        if self._calendar is not None:
            self._calendar.forget(slots)
            self._schedule(targets)

    def _forget(self, slots: Slots) -> None:
        """These rows are no longer there; whether their slots can be used again is for the shape to say."""
        self._live[slots] = False
        self._rows -= len(slots)
        if self._calendar is not None:
            self._calendar.forget(slots)

    def _schedule(self, slots: Slots) -> None:
        if self._calendar is not None and len(slots):
            self._calendar.schedule(slots, self._expiries(slots))

    def _expiries(self, slots: Slots) -> npt.NDArray[np.int64]:
        if not self._expires:
            return np.full(len(slots), NEVER)
        return self._values.integers(slots, self._expiry, null=NEVER)

    def _frame(self, slots: Slots) -> pl.DataFrame:
        values = self._values.take(slots)[: len(self._schema) - len(self._key)]
        return frame_of(self._schema.names(), [*self._keys_of(slots), *values])
