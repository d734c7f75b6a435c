"""How does a multimap lie outside of memory? Rows that arrived since the last commit, over those that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from unbounded.errors import PlanError
from unbounded.state import MultimapSpec
from unbounded.state.layered.cold import NUMBER, Changes, ColdRows
from unbounded.state.layered.hot import KeySet, rows_at, rows_where
from unbounded.state.memory.expiry import LAST
from unbounded.state.memory.index import canonical

__all__ = ["LayeredMultimap"]

_ASKED = "__asked"
_BEGINNING = int(np.iinfo(np.int64).min)


class LayeredMultimap:
    """Any number of rows per key; those of earlier commits are not kept in memory. `spent` as of a table."""

    _arrived: list[pl.DataFrame]
    _gone: KeySet  # rows outside that were removed since the last commit
    _told: int  # bytes of these that are in answers of `expire`
    _rows: int
    _next: int
    _watermark: int

    def __init__(self, name: str, spec: MultimapSpec, cold: ColdRows, spent: Callable[[], None]) -> None:
        self.name, self.spec = name, spec
        self._cold, self._spent = cold, spent
        self._given = pl.Schema({**spec.key, **spec.values})
        self._check()
        self._identity = cold.layout.identity
        self._canonical = [
            expr.alias(key) for key, dtype in spec.key.items() if (expr := canonical(pl.col(key), dtype)) is not None
        ]
        self.load({})

    def _check(self) -> None:
        """Refuse a spec that could not be kept, before any row arrives."""
        spec = self.spec
        if not spec.key or len(self._given) != len(spec.key) + len(spec.values):
            raise PlanError(f"multimap {self.name!r} needs a key and columns with different names, not {spec}")
        if spec.expiry is not None and spec.values.get(spec.expiry) != pl.Int64:
            raise PlanError(f"multimap {self.name!r} has expiry {spec.expiry!r}, which is no Int64 among its values")
        if not set(spec.order) <= set(spec.values):
            raise PlanError(f"multimap {self.name!r} is ordered by {spec.order}, not all among its values")

    # -------------------------------------------------------------------------------- the promise
    def append(self, rows: pl.DataFrame) -> None:
        """As `Multimap.append`."""
        rows = self._accept(rows, self._given)
        if rows.height:
            numbers = pl.Series(NUMBER, np.arange(self._next, self._next + rows.height))
            self._arrived.append(rows.with_columns(numbers).select(self._cold.layout.schema.names()))
            self._next += rows.height
            self._rows += rows.height
            self._spent()

    def probe(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `Multimap.probe`."""
        accepted = self._accept(keys, self.spec.key)
        asked_keys = KeySet(self.spec.key)
        asked = asked_keys.number(accepted)
        rows = self._under(asked_keys)
        rows = rows.sort(_ASKED, *self.spec.order, NUMBER, nulls_last=False)
        owner = rows[_ASKED].to_numpy()
        first, last = np.searchsorted(owner, asked, "left"), np.searchsorted(owner, asked, "right")
        count = last - first
        before = np.cumsum(count) - count
        found = np.repeat(first - before, count) + np.arange(int(count.sum()))
        values = rows_at(rows.select(self.spec.values.names()), found)
        return rows_at(keys, np.repeat(np.arange(keys.height), count)).hstack(values.get_columns())

    def under(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `Multimap.under`; just these rows."""
        asked = KeySet(self.spec.key)
        asked.number(self._accept(keys, self.spec.key))
        return self._under(asked).select(self._given.names())

    def expire(self, watermark: int) -> pl.DataFrame:
        """As `Multimap.expire`."""
        self._watermark = max(min(watermark, LAST), self._watermark)
        arrived = self._arrivals()
        if self.spec.expiry is None:
            return arrived.clear().select(self._given.names())
        due = pl.col(self.spec.expiry).le(self._watermark).fill_null(value=False)
        gone, stays = arrived.filter(due), arrived.filter(~due)
        self._arrived = [stays] if stays.height else []
        cold = self._known(self._cold.due(self._watermark))
        before = self._gone.nbytes
        self._forget(cold)
        self._told += self._gone.nbytes - before
        self._rows -= gone.height + cold.height
        return pl.concat([gone, cold]).select(self._given.names())

    def remove(self, keys: pl.DataFrame) -> None:
        """As `Multimap.remove`."""
        accepted = self._accept(keys, self.spec.key)
        unwanted = KeySet(self.spec.key)
        unwanted.number(accepted)
        cold = self._known(self._cold.find(unwanted.frame()))
        self._forget(cold)
        self._spent()
        arrived = self._arrivals()
        stays = rows_where(arrived, ~unwanted.has(arrived))
        self._arrived = [stays] if stays.height else []
        self._rows -= cold.height + arrived.height - stays.height

    def scan(self) -> pl.DataFrame:
        """As `Multimap.scan`."""
        rows = [self._arrivals(), *(self._known(cold) for cold in self._cold.scan())]
        return pl.concat(rows).select(self._given.names())

    def __len__(self) -> int:
        return self._rows

    # --------------------------------------------------------------------------------- the layers
    def _accept(self, rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
        """The rows with the columns in order and canonical keys."""
        rows = rows.select(schema.names())
        if rows.dtypes != schema.dtypes():
            raise PlanError(f"multimap {self.name!r} holds {schema}, not {rows.schema}; cast the rows")
        return rows.with_columns(self._canonical) if self._canonical else rows

    def _arrivals(self) -> pl.DataFrame:
        """What arrived since the last commit and is still there."""
        if len(self._arrived) != 1:
            self._arrived = [pl.concat([pl.DataFrame(schema=self._cold.layout.schema), *self._arrived])]
        return self._arrived[0]

    def _known(self, cold: pl.DataFrame) -> pl.DataFrame:
        """Those of the rows outside that were not removed since the last commit."""
        cold = cold.select(self._cold.layout.schema.names())
        return rows_where(cold, ~self._gone.has(cold)) if len(self._gone) and cold.height else cold

    def _under(self, keys: KeySet) -> pl.DataFrame:
        """The rows of these keys, and the number of their key."""
        rows = [self._known(self._cold.find(keys.frame()))]
        if self._arrived:
            arrived = self._arrivals()
            rows.append(rows_where(arrived, keys.has(arrived)))
        under = pl.concat(rows)
        return under.with_columns(pl.Series(_ASKED, keys.number(under)))

    def _forget(self, cold: pl.DataFrame) -> None:
        if cold.height:
            self._gone.number(cold)

    # ------------------------------------------------------------------------- durability and size
    @property
    def young(self) -> int:
        """Bytes that cannot be forgotten before a commit, but for `told`."""
        arrived = sum(int(rows.estimated_size()) for rows in self._arrived)
        return arrived + self._gone.nbytes - self._told + self._cold.nbytes

    @property
    def told(self) -> int:
        """As of a table."""
        return self._told

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.young + self._told

    def changes(self) -> Changes:
        """What the place does not have yet."""
        return Changes(self._arrivals(), self._gone.frame())

    def note(self) -> dict[str, Any]:
        """What has to be known besides the rows."""
        return {"rows": self._rows, "watermark": self._watermark, "next": self._next}

    def settle(self, version: int) -> None:
        """What changed is durable."""
        self._arrived = []
        if len(self._gone):
            self._gone, self._told = KeySet(self._identity), 0

    def load(self, note: Mapping[str, Any]) -> None:
        """Begin with what the place holds."""
        self._arrived = []
        self._gone, self._told = KeySet(self._identity), 0
        self._rows, self._watermark = int(note.get("rows", 0)), int(note.get("watermark", _BEGINNING))
        self._next = int(note.get("next", 0))

    def shrink(self) -> None:
        """Nothing is kept that is also outside."""

    def age(self) -> None:
        """Nothing is kept that is also outside."""
