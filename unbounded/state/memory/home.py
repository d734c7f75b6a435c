"""How does state live in this process's memory, and survive it?

Tables and multimaps are slots in memory; a commit writes the rows that changed. See `unbounded.state.changelog` for
the files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import polars as pl

from unbounded.errors import PlanError
from unbounded.state import Log, Multimap, MultimapSpec, StateRef, Table, TableSpec
from unbounded.state.changelog import (
    Catalogue,
    Delta,
    Reference,
    Writer,
    catalogue_of,
    forget_unneeded,
    history,
    is_intact,
    log_history,
    number_of,
    pack,
    read_delta,
    read_record,
    unpack,
)
from unbounded.state.declared import Declared
from unbounded.state.memory.multimap import SlotMultimap
from unbounded.state.memory.stored import Part
from unbounded.state.memory.table import SlotTable
from unbounded.storage import Storage, digest_in, encode, without_credentials

__all__ = ["MemoryHome"]

_Table = TypeVar("_Table", SlotTable, SlotMultimap)

_PRICE = 2  # changed rows that pay for copying a slot of the base
_LEAST = 16  # a part costs at least 1/16 of a segment, so that a small table is not rewritten with every batch


class MemoryLog:
    """Rows that are handed to the next commit, and not kept."""

    def __init__(self, name: str, schema: pl.Schema) -> None:
        self.name, self.schema = name, schema
        self._added: list[pl.DataFrame] = []
        self._restored: Iterator[pl.DataFrame] = iter(())

    def append(self, rows: pl.DataFrame) -> None:
        if rows.schema != self.schema:
            raise PlanError(f"log {self.name!r} holds {self.schema}, not {rows.schema}; cast the rows")
        if rows.height:
            self._added.append(rows)

    def restored(self) -> Iterator[pl.DataFrame]:
        restored, self._restored = self._restored, iter(())
        return restored

    def changes(self) -> pl.DataFrame | None:
        """What was appended since `settle`."""
        return pl.concat(self._added) if self._added else None

    def settle(self) -> None:
        """What was appended is durable."""
        self._added = []

    def load(self, frames: Iterator[pl.DataFrame]) -> None:
        """Forget everything and offer these rows."""
        self._added, self._restored = [], frames


class MemoryHome:
    """Tables, multimaps and logs in memory, their changes in `storage`.

    `fan` deltas or runs are joined to one; `segment` is the number of slots in a segment of the base. Two rows of
    a delta pay for rewriting one slot of the base, so a commit copies no more than half its own batch, on average.

    `tidy` runs in another thread. It shares three things with the query, under one lock: the catalogue, which only it
    replaces; the deltas since, which only the query replaces; and parts, immutable copies that the query leaves for it.
    """

    kind = "memory"

    def __init__(self, storage: Storage, *, retain: int = 100, fan: int = 16, segment: int = 1 << 16) -> None:
        self._storage, self._retain, self._fan, self._segment = storage, retain, fan, segment
        self._tables: dict[str, SlotTable | SlotMultimap] = {}
        self._logs: dict[str, MemoryLog] = {}
        self._shapes = Declared()
        self._writer = Writer(storage, fan=fan, logs=self._logs.keys())
        self._tidying = threading.Lock()
        self._shared = threading.Lock()
        self._forgotten = -1  # the last version at which old files were deleted
        self._begin(Catalogue(segment), ())

    def _begin(self, catalogue: Catalogue, deltas: tuple[Reference, ...]) -> None:
        with self._shared:
            self._catalogue, self._deltas = catalogue, deltas
            self._parts: tuple[tuple[str, int, Part], ...] = ()
        self._credit = dict.fromkeys(self._tables, 0)
        self._copied = {  # by segment of the base, the version at which it was copied last
            table: [segments[place].until if place in segments else -1 for place in range(max(segments) + 1)]
            for table, segments in catalogue.segments.items()
        }

    @property
    def description(self) -> str:
        return f"memory, durable in {without_credentials(self._storage.url)}"

    # ------------------------------------------------------------------------------- declarations
    def table(self, name: str, spec: TableSpec) -> Table:
        return self._declared(SlotTable(name, spec), key=spec.key, values=spec.values)

    def multimap(self, name: str, spec: MultimapSpec) -> Multimap:
        return self._declared(SlotMultimap(name, spec), key=spec.key, rows=spec.values)

    def log(self, name: str, schema: pl.Schema) -> Log:
        self._shapes.add(name, rows=schema)
        self._logs[name] = MemoryLog(name, schema)
        return self._logs[name]

    def _declared(self, table: _Table, **columns: pl.Schema) -> _Table:
        self._shapes.add(table.name, **columns)
        self._tables[table.name], self._credit[table.name] = table, 0
        return table

    # ------------------------------------------------------------------------------------- commit
    def commit(self, version: int, attempt: str) -> StateRef:
        return self.seal(version, attempt)()

    def seal(self, version: int, attempt: str) -> Callable[[], StateRef]:
        with self._shared:
            catalogue, deltas = self._catalogue, self._deltas
        deltas = tuple(delta for delta in deltas if number_of(delta.name) > catalogue.until)
        changes = {name: part.changes() for name, part in (self._tables | self._logs).items()}
        changed = {name: rows for name, rows in changes.items() if rows is not None}
        self._credit = {name: self._earned(name, changed.get(name), catalogue.segment) for name in self._tables}
        record = {
            "schemas": self._shapes.schemas,
            "tables": {
                name: {"watermark": table.watermark, "expired": table.expired_by(version), "credit": self._credit[name]}
                for name, table in self._tables.items()
            },
            "segment": catalogue.segment,
            "catalogue": catalogue.file,
            "deltas": deltas,
        }
        for table in self._tables.values():
            table.settle(version)
        for log in self._logs.values():
            log.settle()
        self._leave_parts(version, catalogue.segment)

        def write() -> StateRef:
            frames, blob = pack(changed)
            content = encode("state", version, {**record, "frames": frames}, *blob)
            file = Reference(f"state/{version}.{attempt}", digest_in(content))
            self._storage.put(file.name, content)
            with self._shared:
                self._deltas = (*deltas, file) if changed else deltas
            return {"home": self.kind, "name": file.name, "digest": file.digest}

        return write

    def _earned(self, name: str, changed: pl.DataFrame | None, segment: int) -> int:
        """How many changed rows have not yet paid for a copy; they pay for the whole table at most once."""
        credit = self._credit[name] + (0 if changed is None else changed.height)
        return min(credit, _PRICE * max(self._tables[name].size, segment // _LEAST))

    def _leave_parts(self, version: int, segment: int) -> None:
        """Copy the slices of the base that are due; none of a table whose last ones still wait for `tidy`."""
        with self._shared:
            waiting = {name for name, _, _ in self._parts}
        left = []
        for name in self._tables.keys() - waiting:
            table, copied = self._tables[name], self._copied.setdefault(name, [])
            copied.extend([-1] * (-(-table.size // segment) - len(copied)))
            while copied and (oldest := min(copied)) < version:
                place = copied.index(oldest)
                low, high = place * segment, min((place + 1) * segment, table.size)
                cost = _PRICE * max(high - low, segment // _LEAST)
                if self._credit[name] < cost:
                    break
                self._credit[name] -= cost
                copied[place] = version
                left.append((name, table.shown(version), table.part(low, high)))
        with self._shared:
            self._parts = (*self._parts, *left)

    # ------------------------------------------------------------------------------------ restore
    def restore(self, ref: StateRef | None) -> None:
        with self._tidying:  # a tidy that runs ends first: it works on what is forgotten now
            for folder in ("state", "runs"):
                self._storage.settle(folder)
            if ref is None:
                self._restore_nothing()
            else:
                self._restore(Reference(ref["name"], ref["digest"]))

    def _restore_nothing(self) -> None:
        for table in self._tables.values():
            table.clear()
        for log in self._logs.values():
            log.load(iter(()))
        self._begin(Catalogue(self._segment), ())

    def look(self, ref: StateRef) -> None:
        self._restore(Reference(ref["name"], ref["digest"]))  # and settle nothing, for the query may be writing

    def _restore(self, file: Reference) -> None:
        record, blob = read_record(self._storage, file, "state")
        self._shapes.refuse_others(record["schemas"], self._storage.url)
        catalogue = catalogue_of(self._storage, record)
        files = tuple(Reference(*each) for each in record["deltas"])
        deltas = [read_delta(self._storage, each) for each in files]
        deltas.append(Delta(number_of(file.name), unpack(record["frames"], blob)))
        for name, table in self._tables.items():
            said = record["tables"][name]
            table.load(history(self._storage, catalogue, deltas, name), said["watermark"], said["expired"])
        for name, log in self._logs.items():
            rows = log_history(self._storage, catalogue, deltas, name)
            log.load(frame.select(log.schema.names()) for frame in rows)
        self._begin(catalogue, (*files, file) if record["frames"] else files)
        self._credit = {name: record["tables"][name]["credit"] for name in self._tables}

    def verify(self, ref: StateRef) -> bool:
        return is_intact(self._storage, ref)

    # --------------------------------------------------------------------------------------- tidy
    def tidy(self, committed: int) -> None:
        with self._tidying:
            with self._shared:
                catalogue, deltas, parts = self._catalogue, self._deltas, self._parts
                self._parts = ()  # if writing fails, the base just stays older until its next round
            catalogue = self._writer.advance(catalogue, deltas, parts)
            with self._shared:
                self._catalogue = catalogue
            if committed // self._fan != self._forgotten // self._fan:
                forget_unneeded(self._storage, committed, self._retain)
                self._forgotten = committed

    def metrics(self) -> dict[str, dict[str, int]]:
        return {name: {"rows": len(table), "bytes": table.nbytes} for name, table in list(self._tables.items())}

    def destroy(self) -> bool:
        return False

    def close(self) -> None:
        self._restore_nothing()
