"""How does a home keep what is used in memory, and the rest in a place that is larger?

A table has a hot part in memory, which decides on the keys that it holds, over the rows of a `Cold` place as of the
last commit. A call fetches the keys that it touches and that are not hot, then works in memory; a commit gives the
place what changed.

What is hot lies in two generations. What is touched moves to the young one; when all young ones hold more than half of
the limit after a commit, they become old and those that were old are forgotten, in one stroke and without looking at a
row: they are as the place has them. So what was used lately stays, and no array outlives its use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl

from unbounded.errors import MemoryLimitError
from unbounded.state import Log, Multimap, MultimapSpec, StateRef, Table, TableSpec
from unbounded.state.declared import Declared
from unbounded.state.layered.buffered import LayeredMultimap
from unbounded.state.layered.cold import Changes, Cold, ColdRows, Layout
from unbounded.state.layered.hot import Hot, KeySet, keys_of, rows_where
from unbounded.state.memory.expiry import LAST
from unbounded.state.memory.home import MemoryLog
from unbounded.state.memory.slots import Mask

__all__ = ["LayeredHome", "LayeredTable"]

_LEAST = 1_000_000  # bytes of a table: a few thousand rows, and the arrays of an empty one
_BEGINNING = int(np.iinfo(np.int64).min)
_Answer = TypeVar("_Answer")


class LayeredTable:
    """Rows by key, some of them in memory. `spent` is called when they have become more."""

    _young: Hot
    _old: Hot | None
    _gone: KeySet  # keys that were removed since the last commit; may have come back to the young generation
    _told: int  # bytes of these keys that are in answers of `expire`
    _rows: int
    _watermark: int

    def __init__(self, name: str, spec: TableSpec, cold: ColdRows, spent: Callable[[], None]) -> None:
        self.name, self.spec = name, spec
        self._cold, self._spent = cold, spent
        self.load({})

    # -------------------------------------------------------------------------------- the promise
    def merge(self, partials: pl.DataFrame) -> pl.DataFrame:
        """As `Table.merge`."""
        self._fetch(partials)
        return self._counted(lambda: self._young.merge(partials))

    def insert(self, rows: pl.DataFrame) -> pl.DataFrame:
        """As `Table.insert`."""
        self._fetch(rows)
        return self._counted(lambda: self._young.insert(rows))

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `Table.lookup`."""
        self._fetch(keys)
        return self._young.lookup(keys)

    def expire(self, watermark: int) -> pl.DataFrame:
        """As `Table.expire`."""
        self._watermark = max(min(watermark, LAST), self._watermark)
        if self.spec.expiry is None:
            return self._young.expire(self._watermark)
        due = self._cold.due(self._watermark)
        due = rows_where(due, ~self._decided(due)) if due.height else due
        self._rows -= due.height
        rows = self._counted(lambda: self._young.expire(self._watermark))
        rows = pl.concat([rows, due.select(rows.columns)]) if due.height else rows
        before = self._gone.nbytes
        self._forget(rows)
        self._told += self._gone.nbytes - before
        return rows

    def remove(self, keys: pl.DataFrame) -> None:
        """As `Table.remove`."""
        keys = self._fetch(keys)
        self._counted(lambda: self._young.remove(keys))
        self._forget(keys)

    def scan(self) -> pl.DataFrame:
        """As `Table.scan`."""
        rows = [self._young.scan()]
        for cold in self._cold.scan():
            rows.append(rows_where(cold, ~self._decided(cold)).select(rows[0].columns))
        return pl.concat(rows)

    def __len__(self) -> int:
        return self._rows

    # -------------------------------------------------------------------------------- the layers
    def _decided(self, rows: pl.DataFrame) -> Mask:
        """On which rows the place has not the last word."""
        decided = self._young.has(rows)
        return decided | self._gone.has(rows) if len(self._gone) else decided

    def _fetch(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Take what is known of the keys of these rows into the young generation; gives the keys, canonical."""
        keys = self._young.canonical_keys(rows)
        missing = self._young.absent(keys)
        if missing.height and len(self._gone):
            missing = rows_where(missing, ~self._gone.has(missing))
        if missing.height and self._old is not None:
            held, missing = self._old.held(missing)
            self._young.admit(held)
        if missing.height:
            self._young.admit(self._cold.find(missing))
        self._spent()
        return keys

    def _counted(self, act: Callable[[], _Answer]) -> _Answer:
        """Do something to the young generation, which holds all that is known of the keys in question."""
        before = len(self._young)
        answer = act()
        self._rows += len(self._young) - before
        self._spent()
        return answer

    def _forget(self, rows: pl.DataFrame) -> None:
        """The keys of these rows are no longer there, whatever lies below the young generation."""
        if rows.height:
            self._gone.number(rows)
            if self._old is not None:
                self._old.remove(keys_of(rows, self.spec.key))

    # ------------------------------------------------------------------------- durability and size
    @property
    def young(self) -> int:
        """Bytes that cannot be forgotten before a commit, but for `told`."""
        return self._young.nbytes + self._gone.nbytes - self._told + self._cold.nbytes

    @property
    def told(self) -> int:
        """Bytes that stand for rows which `expire` gave away: the batch holds these anyway, however many they are."""
        return self._told

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.young + self._told + (0 if self._old is None else self._old.nbytes)

    def changes(self) -> Changes:
        """What the place does not have yet."""
        gone = self._gone.frame()
        return Changes(self._young.changed(), rows_where(gone, ~self._young.has(gone)))

    def note(self) -> dict[str, Any]:
        """What has to be known besides the rows."""
        return {"rows": self._rows, "watermark": self._watermark}

    def settle(self, version: int) -> None:
        """What changed is durable."""
        self._young.settle(version)
        if len(self._gone):
            self._gone, self._told = KeySet(self.spec.key), 0

    def load(self, note: Mapping[str, Any]) -> None:
        """Begin with what the place holds."""
        self._young = Hot(self.name, self.spec)
        self._old = None
        self._gone, self._told = KeySet(self.spec.key), 0
        self._rows, self._watermark = int(note.get("rows", 0)), int(note.get("watermark", _BEGINNING))

    def shrink(self) -> None:
        """Forget what was not touched lately."""
        self._old = None

    def age(self) -> None:
        """What is young becomes old; nothing of it has changed since the last commit."""
        self._old, self._young = self._young, Hot(self.name, self.spec)


class _Part(Protocol):
    """What a home does with a table or multimap of its own."""

    name: str

    @property
    def young(self) -> int: ...
    @property
    def told(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def changes(self) -> Changes: ...
    def note(self) -> dict[str, Any]: ...
    def settle(self, version: int) -> None: ...
    def load(self, note: Mapping[str, Any]) -> None: ...
    def shrink(self) -> None: ...
    def age(self) -> None: ...


class LayeredHome:
    """Tables whose rows lie in `cold`, at most `memory_limit` bytes in memory after each commit.

    `beside` of these bytes are memory of `cold` itself. Half of the limit is for what one batch touches;
    MemoryLimitError if a batch needs more than all of it, or if the limit is too low for the tables that are declared.
    What expires does not count: a watermark that jumps may close more groups at once than fit within the limit, and
    refusing them would stop the query for ever.
    """

    def __init__(self, cold: Cold, *, memory_limit: int, beside: int = 0) -> None:
        self._cold, self._limit, self._asked = cold, memory_limit - beside, memory_limit
        self._parts: dict[str, _Part] = {}
        self._logs: dict[str, MemoryLog] = {}
        self._declared = Declared()
        self.kind = cold.kind

    @property
    def description(self) -> str:
        """As `Home.description`."""
        return self._cold.description

    # ------------------------------------------------------------------------------- declarations
    def table(self, name: str, spec: TableSpec) -> Table:
        """As `Home.table`."""
        self._declared.add(name, key=spec.key, values=spec.values)
        Hot(name, spec)  # refuses a spec that cannot be kept, before the place has to
        rows = self._cold.rows(name, Layout(spec.key, spec.values, spec.expiry, shown=spec.shown, parts=spec.parts))
        table = LayeredTable(name, spec, rows, self._bound)
        self._parts[name] = table
        return table

    def multimap(self, name: str, spec: MultimapSpec) -> Multimap:
        """As `Home.multimap`."""
        self._declared.add(name, key=spec.key, rows=spec.values)
        rows = self._cold.rows(name, Layout(spec.key, spec.values, spec.expiry, many=True))
        multimap = LayeredMultimap(name, spec, rows, self._bound)
        self._parts[name] = multimap
        return multimap

    def log(self, name: str, schema: pl.Schema) -> Log:
        """As `Home.log`."""
        self._declared.add(name, rows=schema)
        self._cold.log(name, schema)
        self._logs[name] = MemoryLog(name, schema)
        return self._logs[name]

    # -------------------------------------------------------------------------------------- memory
    def _bound(self) -> None:
        """Forget what was not touched lately, once it is too much."""
        if not self._shrunk():
            needed = {name: part.young for name, part in self._parts.items()}
            largest = max(needed, key=needed.__getitem__)
            own = f" has {self._limit} for rows" if self._limit < self._asked else ""
            raise MemoryLimitError(
                f"the rows that one batch touches need {sum(needed.values())} bytes of memory, {needed[largest]} of "
                f"them for {largest!r}, and memory_limit={self._asked}{own}. Nothing of the batch was committed. Raise "
                "memory_limit=, or let a batch read less: max_files_per_trigger= or max_bytes_per_trigger= of the scan"
            )

    def _shrunk(self) -> bool:
        """Whether memory is within the limit, if need be without what was not touched lately."""
        if self._used() <= self._limit:
            return True
        for part in self._parts.values():
            part.shrink()
        return self._used() <= self._limit

    def _used(self) -> int:
        return sum(part.nbytes - part.told for part in self._parts.values())

    def _age(self) -> None:
        """After a commit nothing is young any more that takes more than half of the limit."""
        if 2 * sum(part.young for part in self._parts.values()) > self._limit:
            for part in self._parts.values():
                part.age()
        self._shrunk()

    def _refuse_little(self) -> None:
        least = _LEAST * max(1, len(self._parts))
        if self._asked < least:
            raise MemoryLimitError(
                f"memory_limit={self._asked} is too low for the state of this query: {', '.join(self._parts)}, "
                f"which need {_LEAST} bytes each to work with. Write memory_limit={least} or more"
            )

    # -------------------------------------------------------------------------- commit and restore
    def commit(self, version: int, attempt: str) -> StateRef:
        """As `Home.commit`."""
        changes = {name: part.changes() for name, part in self._parts.items()}
        changes = {name: each for name, each in changes.items() if each.written.height or each.removed.height}
        added = {name: rows for name, log in self._logs.items() if (rows := log.changes()) is not None}
        note = {
            "schemas": self._declared.schemas,
            "tables": {name: part.note() for name, part in self._parts.items()},
        }
        ref = self._cold.commit(version, attempt, changes, added, note)
        for part in self._parts.values():
            part.settle(version)
        for log in self._logs.values():
            log.settle()
        self._age()
        return {**ref, "home": self.kind}

    def seal(self, version: int, attempt: str) -> Callable[[], StateRef]:
        """As `Home.seal`, but all is done at once: what is cold is looked up while the next batch runs."""
        ref = self.commit(version, attempt)
        return lambda: ref

    def restore(self, ref: StateRef | None) -> None:
        """As `Home.restore`."""
        self._refuse_little()
        self._load(ref, self._cold.restore(ref))

    def look(self, ref: StateRef) -> None:
        self._refuse_little()
        self._load(ref, self._cold.look(ref))

    def _load(self, ref: StateRef | None, note: Mapping[str, Any]) -> None:
        if ref is not None:
            self._declared.refuse_others(note["schemas"], self._cold.description)
        for name, part in self._parts.items():
            part.load(note["tables"][name] if ref is not None else {})
        for name, log in self._logs.items():
            log.load(self._cold.logged(name))

    def verify(self, ref: StateRef) -> bool:
        """As `Home.verify`."""
        return self._cold.verify(ref)

    def tidy(self, committed: int) -> None:
        """As `Home.tidy`."""
        self._cold.tidy(committed)

    def metrics(self) -> dict[str, dict[str, int]]:
        """As `Home.metrics`."""
        return {name: {"rows": len(part), "bytes": part.nbytes} for name, part in list(self._parts.items())}

    def destroy(self) -> bool:
        """As `Home.destroy`."""
        return self._cold.destroy()

    def close(self) -> None:
        """As `Home.close`."""
        for part in self._parts.values():
            part.load({})
        for log in self._logs.values():
            log.load(iter(()))
        self._cold.close()
