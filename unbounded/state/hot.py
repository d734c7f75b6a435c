"""Which rows of a table that lies elsewhere are in memory, and which of them changed?"""

from __future__ import annotations

import numpy as np
import polars as pl

from unbounded.state import TableSpec
from unbounded.state.index import hash_rows
from unbounded.state.slots import Mask, Slots, places
from unbounded.state.table import LIVE, SLOT, SlotTable

__all__ = ["Hot", "first_of_each", "keys_of", "members", "rows_at", "rows_where"]

_THERE = "__there"


def keys_of(rows: pl.DataFrame, key: pl.Schema) -> pl.DataFrame:
    """The key columns of rows; as many rows also if there are none."""
    return rows.select(key.names()) if key else pl.DataFrame(height=rows.height)


class Hot(SlotTable):
    """Some rows of a table: rows that changed here, and rows that are as they are elsewhere."""

    def has(self, keys: pl.DataFrame) -> Mask:
        """Which of these keys are here."""
        accepted = self._accept(keys_of(keys, self.spec.key), self.spec.key).get_columns()
        slots, _ = self._find(accepted, hash_rows(accepted, keys.height, self._seed))
        return slots >= 0

    def absent(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Those of the keys, canonical, that are not here, each once."""
        accepted = self._accept(keys_of(keys, self.spec.key), self.spec.key)
        hashes = hash_rows(accepted.get_columns(), accepted.height, self._seed)
        slots, _ = self._find(accepted.get_columns(), hashes)
        missing = np.flatnonzero(slots < 0)
        rows, ordered = rows_at(accepted, missing), np.sort(hashes[missing])
        if not (ordered[1:] == ordered[:-1]).any():  # without equal hashes there are no equal keys
            return rows
        return rows_at(rows, first_of_each(members(self.name, self.spec.key).number(rows)))

    def number(self, keys: pl.DataFrame) -> Slots:
        """A number for each key, equal for equal keys and for no others; keys that are new come to stay."""
        accepted = self._accept(keys, self.spec.key)
        return self._open(accepted)[0]

    def admit(self, rows: pl.DataFrame) -> None:
        """Take in rows as they are elsewhere; their keys are not here, and do not repeat."""
        if rows.height:
            accepted = self._accept(rows, self._schema)
            slots, _ = self._open(accepted)
            self._values.put(slots, self._values_of(accepted))
            self._schedule(slots)

    def changed(self) -> pl.DataFrame:
        """The rows that are here and were written since `settle`."""
        changes = self.changes()
        if changes is None:
            return pl.DataFrame(schema=self._schema)
        return changes.filter(LIVE).drop(SLOT, LIVE)


def members(name: str, key: pl.Schema) -> Hot:
    """An empty set of keys; also of a key without columns, which a table without values cannot have."""
    if key:
        return Hot(name, TableSpec(key, pl.Schema(), (), None))
    return Hot(name, TableSpec(key, pl.Schema({_THERE: pl.Boolean()}), (pl.col(_THERE).first(),), None))


def first_of_each(numbers: Slots) -> Slots:
    """The places of the first of equal numbers, ascending."""
    _, first = np.unique(numbers, return_index=True)
    return np.sort(first)


def rows_at(rows: pl.DataFrame, at: Slots) -> pl.DataFrame:
    """The rows at these places, as often as asked; also of a frame without columns."""
    return rows[places(at)] if rows.width else pl.DataFrame(height=len(at))


def rows_where(rows: pl.DataFrame, mask: Mask) -> pl.DataFrame:
    """The rows that a mask chooses; all of them cost nothing."""
    return rows if mask.all() else rows_at(rows, np.flatnonzero(mask))
