"""Which rows are there under a key, in which order? Rows by slot, behind a list of slots for each key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from unbounded.errors import PlanError
from unbounded.state import MultimapSpec
from unbounded.state.memory.keys import Keys
from unbounded.state.memory.lists import Lists
from unbounded.state.memory.numbers import Numbers
from unbounded.state.memory.slots import Rows, Slots, Values, distinct, frame_of, places
from unbounded.state.memory.stored import LIVE, SLOT, Stored
from unbounded.state.memory.young import Arrived, Young

__all__ = ["SlotMultimap"]

_ARRIVAL = "__arrival"  # rises with each row; in memory the lists tell the order, but slots are used again
_ASKED = "__asked"
_LOAD_BLOCK = 1 << 18


class SlotMultimap(Stored):
    """Any number of rows by key in this process's memory: every call costs what its rows cost.

    A key is kept once, however many rows it has. Of 1e6 rows, also if half of them are under one key, 1,000 keys are
    probed in 2 ms and 1,000 rows appended in 1; a join with all rows takes 7.

    Who asks for rows `under` keys is content with a few too many. From then on rows that come are `Young` first, and
    found by their key, and counted as stored by slot, when they have stayed for a while.
    """

    def __init__(self, name: str, spec: MultimapSpec) -> None:
        super().__init__(name, spec, pl.Schema({**spec.values, _ARRIVAL: pl.Int64()}))
        self.spec = spec
        if not spec.key:
            raise PlanError(f"{self._what} needs a key: one column or more")
        if missing := [name for name in spec.order if name not in spec.values]:
            raise PlanError(f"{self._what} is in the order of {missing}, not among its values {spec.values.names()}")
        self._looks = False  # whether new rows are looked through before they are found by key
        self.clear()

    @property
    def _what(self) -> str:
        return f"multimap {self.name!r}"

    def clear(self) -> None:
        super().clear()
        self._keys, self._owners, self._lists = Keys(self.spec.key), Numbers(), Lists()
        self._keys.resize(1)  # owner 0 stands for that of slots in no list
        self._young = Young(self.spec)
        self._arrivals = 0

    # -------------------------------------------------------------------------------- the promise
    def append(self, rows: pl.DataFrame) -> None:
        """As `Multimap.append`."""
        accepted = self._accept(rows, self._schema)
        if not rows.height:
            return
        arrivals = pl.Series(_ARRIVAL, np.arange(self._arrivals, self._arrivals + rows.height))
        self._arrivals += rows.height
        slots = self._slots.take(rows.height)
        columns = [*accepted.get_columns(), arrivals]
        if not self._looks:
            self._index(slots, columns, durable=False)
            return
        self._grow_up(self._young.older())
        self._young.add(pl.DataFrame([pl.Series(SLOT, slots.astype(np.uint32)), *columns]))

    def _index(self, slots: Slots, columns: list[pl.Series], *, durable: bool) -> None:
        """Let rows be found by their keys; of those that are durable a commit has nothing to write."""
        self._make_room()
        self._live[slots] = True
        self._rows += len(slots)
        self._list(columns[: len(self.spec.key)], slots)
        self._write(slots, columns[len(self.spec.key) :], durable=durable)
        self._schedule(slots)

    def _grow_up(self, came: Sequence[Arrived]) -> None:
        for each in came:
            self._index(each.slots, each.rows.get_columns()[1:], durable=each.version is not None)

    def probe(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `Multimap.probe`."""
        self._grow_up(self._young.all())
        owners = self._find(keys)
        here = np.flatnonzero(owners >= 0)
        asked, slots = self._lists.of(owners[here])
        asked = here[asked]
        values = self._values_at(slots)
        if self.spec.order:
            by = values.select(pl.Series(_ASKED, asked), *self.spec.order)
            order = by.select(pl.arg_sort_by(by.columns, maintain_order=True)).to_series()
            values, asked = values[order], asked[order.to_numpy()]
        return keys[places(asked)].hstack(values.get_columns())

    def under(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `Multimap.under`."""
        keys = self._accept(keys, self.spec.key)
        if not keys.height:
            return pl.DataFrame(schema=self._schema)
        self._looks = self._young.takes
        self._grow_up(self._young.older())
        found = [each[self._schema.names()] for each in self._young.near(keys)]
        if self._rows:
            owners = distinct(self._find(keys))
            _, slots = self._lists.of(owners[owners >= 0])
            found.append(self._frame(slots))
        return pl.concat(found) if found else pl.DataFrame(schema=self._schema)

    def expire(self, watermark: int) -> pl.DataFrame:
        """As `Multimap.expire`."""
        rows = super().expire(watermark)
        due = self._young.expire(self.watermark)
        for each in due:
            self._slots.give_back(each[SLOT].cast(pl.Int64).to_numpy())
            rows = rows.vstack(each[rows.columns])
        return rows

    def remove(self, keys: pl.DataFrame) -> None:
        """As `Multimap.remove`."""
        owners = self._find(keys)
        _, slots = self._lists.of(distinct(owners[owners >= 0]))
        self._touched.append(slots)
        self._release(slots)
        for each in self._young.remove(self._accept(keys, self.spec.key)):
            if each.version is not None:
                self._touched.append(each.slots)
            self._slots.give_back(each.slots)

    def scan(self) -> pl.DataFrame:
        """Every row."""
        return pl.concat([super().scan(), *(each.rows.select(self._schema.names()) for each in self._young)])

    def __len__(self) -> int:
        return super().__len__() + len(self._young)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._keys.nbytes + self._lists.nbytes + self._young.nbytes

    # ----------------------------------------------------------------------------- for durability
    def changes(self) -> pl.DataFrame | None:
        """As `Stored.changes`."""
        rows, came = super().changes(), [each.rows for each in self._young if each.version is None]
        if not came:
            return rows
        slots, *columns = pl.concat(came)
        new = pl.DataFrame([slots, pl.Series(LIVE, np.ones(len(slots), np.bool_)), *columns])
        if rows is None:
            return new
        taken = rows[SLOT].is_in(new[SLOT].implode())  # what a row that went has left
        return pl.concat([rows.filter(~taken), new])

    def settle(self, version: int) -> None:
        """As `Stored.settle`."""
        super().settle(version)
        self._young.settle(version)

    def shown(self, version: int) -> int:
        """As `Stored.shown`. Young rows are in no part: most are gone before anyone would restore them from there."""
        since = self._young.since
        return version if since is None else since - 1

    # ------------------------------------------------------------------------- its keys and slots
    def _find(self, keys: pl.DataFrame) -> Slots:
        """The owner of each key, or a negative number."""
        return self._keys.find(self._accept(keys, self.spec.key).get_columns(), keys.height)

    def _list(self, keys: list[pl.Series], slots: Slots) -> None:
        """Put rows behind those of their keys."""
        owners, _ = self._keys.open(keys, len(slots), self._own)
        self._lists.append(owners, slots)

    def _own(self, count: int) -> Slots:
        """Owners for new keys."""
        owners = self._owners.take(count)
        self._keys.resize(self._owners.size)
        self._lists.make_room(self._owners.size, self._capacity)
        return owners

    def _resize(self, capacity: int) -> None:
        super()._resize(capacity)
        self._lists.make_room(self._owners.size, capacity)

    def _values_at(self, slots: Slots) -> pl.DataFrame:
        return frame_of(self.spec.values.names(), self._values.take(slots)[: len(self.spec.values)])

    def _keys_of(self, slots: Slots) -> list[Values]:
        return self._keys.take(self._lists.owners(slots))

    def _part_of_keys(self, low: int, high: int) -> Rows:
        return self._keys.picked(self._lists.owners(np.arange(low, high)))

    def _enter(self, slots: Slots, keys: Rows) -> None:
        arrivals = self._values.integers(slots, len(self.spec.values), null=0)
        slots = slots[np.argsort(arrivals)]
        self._arrivals = int(arrivals.max()) + 1 if len(arrivals) else 0
        for low in range(0, len(slots), _LOAD_BLOCK):
            block = slots[low : low + _LOAD_BLOCK]
            self._list(frame_of(self.spec.key.names(), keys.take(block)).get_columns(), block)

    def _release(self, slots: Slots) -> None:
        if not len(slots):
            return
        self._forget(slots)
        freed, gone = self._lists.remove(slots)
        self._slots.give_back(freed)
        self._keys.forget(gone)
        self._owners.give_back(gone)

    def _collect_keys(self, limit: int, rows: int) -> None:
        self._keys.collect(self._owners.in_use, limit, rows)
