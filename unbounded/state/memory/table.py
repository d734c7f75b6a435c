"""What is the row of a key now? Rows by slot, folded together by Polars expressions."""

from __future__ import annotations

import numpy as np
import polars as pl

from unbounded.errors import PlanError
from unbounded.state import TableSpec
from unbounded.state.memory.folding import Fold
from unbounded.state.memory.keys import Keys, first_of_each
from unbounded.state.memory.slots import Mask, Rows, Slots, Values, distinct, frame_of, places, where
from unbounded.state.memory.stored import Stored

__all__ = ["SlotTable"]


class SlotTable(Stored):
    """Rows by key in this process's memory, each at the place of its key: every call costs what its rows cost.

    Growing, shrinking and collecting garbage are done a slice at a time, by calls that pay for it with their rows.
    """

    _movable = 1024

    def __init__(self, name: str, spec: TableSpec) -> None:
        super().__init__(name, spec, spec.values)
        self.spec, self._fold = spec, Fold(spec.values, spec.merge)
        merged = self._fold.schema()
        if merged != spec.values:
            raise PlanError(f"{self._what} merges to {merged}, but keeps {spec.values}; cast the merge")
        self.clear()

    @property
    def _what(self) -> str:
        return f"table {self.name!r}"

    def clear(self) -> None:
        super().clear()
        self._keys = Keys(self.spec.key)

    # -------------------------------------------------------------------------------- the promise
    def merge(self, partials: pl.DataFrame) -> pl.DataFrame:
        """As `Table.merge`."""
        rows = self._accept(partials, self._schema)
        if not rows.height:
            return rows
        slots, fresh = self._open(rows)
        if fresh.all():  # nothing was stored and nothing repeats, so there is nothing to fold
            self._write(slots, self._values_of(rows))
            self._schedule(slots)
            return rows
        first = first_of_each(slots)
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
            new = np.flatnonzero(fresh)
            self._write(slots[new], self._values_of(rows), new)
            slots, rows = slots[~fresh], where(rows, ~fresh)
        self._write(slots, self._fold.pairs(self._values.take(slots), self._values_of(rows)))

    def insert(self, rows: pl.DataFrame) -> pl.DataFrame:
        """As `Table.insert`."""
        accepted = self._accept(rows, self._schema)
        if not rows.height:
            return rows
        slots, fresh = self._open(accepted)
        if not fresh.all():
            slots, accepted, rows = slots[fresh], where(accepted, fresh), where(rows, fresh)
        self._write(slots, self._values_of(accepted))
        self._schedule(slots)
        return rows

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `Table.lookup`."""
        slots = self._find(keys)
        here = slots >= 0
        found = keys if here.all() else where(keys, here)
        return found.hstack(frame_of(self.spec.values.names(), self._values.take(slots[here])).get_columns())

    def remove(self, keys: pl.DataFrame) -> None:
        """As `Table.remove`."""
        found = self._find(keys)
        slots = distinct(found[found >= 0])
        self._release(slots)
        self._touched.append(slots)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._keys.nbytes

    # ---------------------------------------------------------------------------------- its slots
    def _values_of(self, rows: pl.DataFrame) -> list[pl.Series]:
        return rows.get_columns()[len(self.spec.key) :]

    def _find(self, keys: pl.DataFrame) -> Slots:
        """The slot of each key, or a negative number."""
        return self._keys.find(self._accept(keys, self.spec.key).get_columns(), keys.height)

    def _open(self, rows: pl.DataFrame) -> tuple[Slots, Mask]:
        """The slot of each row, and whether the row is the first of a new key; new slots hold their key."""
        return self._keys.open(rows.get_columns()[: len(self.spec.key)], rows.height, self._allocate)

    def _resize(self, capacity: int) -> None:
        super()._resize(capacity)
        self._keys.resize(capacity)

    def _move(self, slots: Slots, targets: Slots) -> None:
        self._keys.move(slots, targets)
        super()._move(slots, targets)

    def _keys_of(self, slots: Slots) -> list[Values]:
        return self._keys.take(slots)

    def _part_of_keys(self, low: int, high: int) -> Rows:
        return self._keys.part(low, high)

    def _enter(self, slots: Slots, keys: Rows) -> None:
        self._keys.adopt(keys, slots)

    def _release(self, slots: Slots) -> None:
        self._keys.forget(slots)
        self._forget(slots)
        self._slots.give_back(slots)

    def _collect_keys(self, limit: int, rows: int) -> None:
        self._keys.collect(self._live, limit, rows)
