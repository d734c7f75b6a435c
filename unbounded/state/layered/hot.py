"""Which rows of a table that lies elsewhere are in memory, and which of them changed?"""

from __future__ import annotations

import numpy as np
import polars as pl

from unbounded.state.memory.index import hash_rows
from unbounded.state.memory.keys import Keys, first_of_each
from unbounded.state.memory.numbers import Numbers
from unbounded.state.memory.slots import Mask, Slots, frame_of, places
from unbounded.state.memory.stored import LIVE
from unbounded.state.memory.table import SlotTable

__all__ = ["Hot", "KeySet", "keys_of", "rows_at", "rows_where"]


def keys_of(rows: pl.DataFrame, key: pl.Schema) -> pl.DataFrame:
    """The key columns of rows; as many rows also if there are none."""
    return pl.DataFrame([rows[name] for name in key]) if key else pl.DataFrame(height=rows.height)


def rows_at(rows: pl.DataFrame, at: Slots) -> pl.DataFrame:
    """The rows at these places, as often as asked; also of a frame without columns."""
    return rows[places(at)] if rows.width else pl.DataFrame(height=len(at))


def rows_where(rows: pl.DataFrame, mask: Mask) -> pl.DataFrame:
    """The rows that a mask chooses; all of them cost nothing."""
    return rows if mask.all() else rows_at(rows, np.flatnonzero(mask))


class KeySet:
    """Distinct keys, numbered in the order in which they came. Frames hold canonical keys, and may hold more."""

    def __init__(self, key: pl.Schema) -> None:
        self._key, self._keys, self._numbers = key, Keys(key), Numbers()

    def number(self, rows: pl.DataFrame) -> Slots:
        """The number of the key of each row; keys that are new come to stay."""
        return self._keys.open([rows[name] for name in self._key], rows.height, self._allocate)[0]

    def _allocate(self, count: int) -> Slots:
        numbers = self._numbers.take(count)
        self._keys.resize(self._numbers.size)
        return numbers

    def has(self, rows: pl.DataFrame) -> Mask:
        """Which rows have a key that is here."""
        if not len(self):
            return np.zeros(rows.height, np.bool_)
        return self._keys.find([rows[name] for name in self._key], rows.height) >= 0

    def firsts(self, rows: pl.DataFrame) -> Slots:
        """The places of the rows whose key is not here, of each key the first; their keys come to stay."""
        before = len(self)
        numbers = self.number(rows)
        first = first_of_each(numbers)
        return first[numbers[first] >= before]

    def frame(self) -> pl.DataFrame:
        """The keys, by number."""
        if not self._key:
            return pl.DataFrame(height=len(self))
        return frame_of(self._key.names(), self._keys.take(np.arange(len(self))))

    def __len__(self) -> int:
        return self._numbers.size

    @property
    def nbytes(self) -> int:
        """An estimate of the bytes in memory, 0 for an empty one."""
        return self._keys.nbytes if len(self) else 0


class Hot(SlotTable):
    """Some rows of a table: rows that changed here, and rows that are as they are elsewhere."""

    _movable = 0  # a row that moves would look as if it had changed

    def canonical_keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The keys of rows as they are stored."""
        return self._accept(keys_of(rows, self.spec.key), self.spec.key)

    def has(self, rows: pl.DataFrame) -> Mask:
        """Which rows have a key that is here."""
        return self._find(keys_of(rows, self.spec.key)) >= 0

    def absent(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Those of the keys, which are canonical, that are not here, each once."""
        missing = rows_where(keys, ~self.has(keys))
        ordered = np.sort(hash_rows(missing.get_columns(), missing.height, 0))
        if not (ordered[1:] == ordered[:-1]).any():  # without equal hashes there are no equal keys
            return missing
        return rows_at(missing, KeySet(self.spec.key).firsts(missing))

    def held(self, keys: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows of keys that are here, and the keys of those that are not."""
        slots = self._find(keys)
        return self._frame(slots[slots >= 0]), rows_where(keys, slots < 0)

    def admit(self, rows: pl.DataFrame) -> None:
        """Take in rows as they are elsewhere; their keys are not here, are canonical, and do not repeat."""
        if rows.height:
            accepted = self._accept(rows, self._schema)
            slots, _ = self._open(accepted)
            self._write(slots, self._values_of(accepted))
            self._touched.pop()  # a commit has not to write what is elsewhere
            self._schedule(slots)

    def changed(self) -> pl.DataFrame:
        """The rows that are here and were written since `settle`."""
        changes = self.changes()
        if changes is None:
            return pl.DataFrame(schema=self._schema)
        live = changes.head(int(changes[LIVE].sum()))  # these stand first
        return pl.DataFrame([live[name] for name in self._schema])
