"""How does state lie in files that are larger than memory? Each commit is one record; sorted runs are mapped."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from unbounded.errors import CheckpointError
from unbounded.state import Home, StateRef
from unbounded.state.changelog import (
    Delta,
    Reference,
    forget_unneeded,
    is_intact,
    number_of,
    pack,
    read_delta,
    read_record,
    unpack,
)
from unbounded.state.files.levels import Catalogue, LevelWriter, catalogue_of, read_log
from unbounded.state.files.runs import BEGINNING, Piece, Run, due, find, merged
from unbounded.state.files.sorting import END, LIVE, Form, probe
from unbounded.state.layered.cold import Changes, Layout
from unbounded.state.layered.home import LayeredHome
from unbounded.state.layered.hot import KeySet
from unbounded.storage import LocalStorage, Storage, digest_in, encode

__all__ = ["FileRows", "FilesCold", "files_home"]

_SCANNED = 1 << 16  # rows that a scan takes into memory at once, of all runs together


def files_home(storage: Storage, memory_limit: int) -> Home:
    """State in the files of a checkpoint, at most `memory_limit` bytes of it in memory.

    Mapped pages do not count, nor what joining files takes beside the query: a few times 65,536 rows.

    CheckpointError unless the checkpoint lies on a local disk.
    """
    return LayeredHome(FilesCold(storage, memory=memory_limit // 4), memory_limit=memory_limit)


@dataclass(frozen=True)
class _Stack:
    """The runs of a table, newest first: those in memory, those that wait to be written, those in files."""

    fresh: tuple[Run, ...] = ()
    frozen: tuple[Run, ...] = ()
    filed: tuple[Run, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        return (*self.fresh, *self.frozen, *self.filed)

    @property
    def nbytes(self) -> int:
        return sum(run.nbytes for run in (*self.fresh, *self.frozen))

    def pushed(self, form: Form, run: Run) -> _Stack:
        """With a newer run; one at least half as long as the one before is joined to it, so there are few."""
        fresh = [run, *self.fresh]
        while len(fresh) > 1 and 2 * fresh[0].rows >= fresh[1].rows:
            joined = merged(form, fresh[:2], 0, END, oldest=False)
            fresh[:2] = [Run((Piece.of(joined),))]
        return replace(self, fresh=tuple(fresh))


class FileRows:
    """The rows of one table as of the last commit."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.stack = _Stack()
        self.begin(0, (), None)

    def begin(self, seed: int, runs: tuple[Run, ...], drained: int | None) -> None:
        """Hold these runs; None for a `drained` that is not known."""
        self.form = Form(self.layout, seed)
        self.stack = _Stack(filed=runs)
        self._drained = BEGINNING if drained is None else drained
        self._overdue: KeySet = KeySet(self.form.key)

    # -------------------------------------------------------------------------------- the promise
    def find(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `ColdRows.find`."""
        return self.form.read(find(self.form, self.stack.runs, self.form.write(keys)))

    def due(self, watermark: int) -> pl.DataFrame:
        """As `ColdRows.due`."""
        rows = [pl.DataFrame(schema=self.layout.schema)]
        if self.layout.expiry is None:
            return rows[0]
        if len(self._overdue):
            late = find(self.form, self.stack.runs, self._overdue.frame())
            rows.append(self.form.read(late.filter(pl.col(self.layout.expiry) <= self._drained)))
            self._overdue = KeySet(self.form.key)
        if watermark > self._drained:
            found = due(self.form, self.stack.runs, self._drained, watermark)
            rows += [self.form.read(each) for each in found]
            self._drained = watermark
        return pl.concat(rows)

    def scan(self) -> Iterator[pl.DataFrame]:
        """As `ColdRows.scan`, a range of hashes at a time."""
        runs = self.stack.runs
        slices = 1 + sum(run.rows for run in runs) // _SCANNED
        for place in range(slices):
            since, until = END * place // slices, END * (place + 1) // slices
            yield self.form.read(merged(self.form, runs, since, until, oldest=True).rows)

    @property
    def nbytes(self) -> int:
        """The rows that wait to be written."""
        return self.stack.nbytes + self._overdue.nbytes

    # --------------------------------------------------------------------------------- durability
    @property
    def drained(self) -> int | None:
        """Up to when all rows that were due are gone; None if some are not.

        A row that was already due when it was written is not: it is remembered by its key, and looked at next time.
        """
        return None if len(self._overdue) else self._drained

    def written(self, changes: Changes) -> pl.DataFrame:
        """What changed, as it is written: whole rows with LIVE, and the identities of those that are gone."""
        rows, gone = self.form.write(changes.written), self.form.write(changes.removed)
        live = pl.Series(LIVE, np.arange(rows.height + gone.height) < rows.height)
        if gone.width and gone.height:
            rows = pl.concat([rows, gone], how="diagonal")
        elif gone.height:  # a key without columns
            rows = rows.vstack(rows.clear(gone.height))
        return rows.hstack([live])

    def note_overdue(self, rows: pl.DataFrame) -> None:
        """Remember which of the rows of a commit were already due."""
        if self.layout.expiry is not None:
            late = rows.filter(LIVE, pl.col(self.layout.expiry) <= self._drained)
            if late.height:
                self._overdue.number(late)

    def push(self, rows: pl.DataFrame) -> _Stack:
        """The stack with the changes of a commit."""
        return self.stack.pushed(self.form, Run((Piece.of(self.form.content(rows)),)))


class FilesCold:
    """Tables and logs in the folder of a checkpoint.

    A commit is one record with its changes, which also stay in memory until those of `deltas` commits wait, or
    `memory` / 2 bytes; then `tidy` writes them as runs, and joins runs: see `unbounded.state.files.levels`. If `tidy`
    stays behind, so that there are more than `memory` bytes, the next commit does its work.

    `tidy` runs in another thread. It shares the catalogue, the deltas since and the stacks of runs with the query,
    under one lock: it replaces frozen and filed runs, the query fresh ones.
    """

    kind = "files"

    def __init__(
        self,
        storage: Storage,
        *,
        memory: int,
        retain: int = 100,
        deltas: int = 16,
        fan: int = 4,
        piece: int = 1 << 16,
    ) -> None:
        if not isinstance(storage, LocalStorage):
            raise CheckpointError(
                f'state="files" maps files into memory, and {storage.url} is not on a local disk. Write '
                'state="memory", name a database, or use a checkpoint on a local disk'
            )
        self._storage, self._memory, self._retain, self._many = storage, memory, retain, deltas
        self._rows: dict[str, FileRows] = {}
        self._logs: dict[str, pl.Schema] = {}
        self._writer = LevelWriter(storage, fan=fan, piece=piece)
        self._tidying, self._shared = threading.Lock(), threading.Lock()
        self._forgotten = -1  # the last version at which old files were deleted
        self._begin(Catalogue(0), ())

    @property
    def description(self) -> str:
        """The kind and the folder."""
        return f"files in {self._storage.url}"

    def _begin(self, catalogue: Catalogue, deltas: tuple[Reference, ...]) -> None:
        with self._shared:
            self._catalogue, self._deltas = catalogue, deltas
            self._until: int | None = None  # the version of the newest frozen rows
            self._drained: dict[str, int | None] = {}  # as of the last commit

    # ------------------------------------------------------------------------------- declarations
    def rows(self, name: str, layout: Layout) -> FileRows:
        """As `Cold.rows`."""
        self._rows[name] = FileRows(layout)
        return self._rows[name]

    def log(self, name: str, schema: pl.Schema) -> None:
        """As `Cold.log`."""
        self._logs[name] = schema

    # ------------------------------------------------------------------------------------- commit
    def commit(
        self,
        version: int,
        attempt: str,
        changes: Mapping[str, Changes],
        added: Mapping[str, pl.DataFrame],
        note: Mapping[str, Any],
    ) -> StateRef:
        """As `Cold.commit`."""
        with self._shared:
            catalogue, deltas = self._catalogue, self._deltas
        deltas = tuple(delta for delta in deltas if number_of(delta.name) > catalogue.until)
        written = {name: self._rows[name].written(each) for name, each in changes.items()}
        for name, rows in written.items():
            self._rows[name].note_overdue(rows)
        drained = {name: rows.drained for name, rows in self._rows.items()}
        frames, blob = pack({**written, **added})
        record = {
            "note": note,
            "drained": drained,
            "catalogue": catalogue.file,
            "deltas": deltas,
            "frames": frames,
        }
        content = encode("state", version, record, *blob)
        file = Reference(f"state/{version}.{attempt}", digest_in(content))
        self._storage.put(file.name, content)

        pushed = {name: self._rows[name].push(rows).fresh for name, rows in written.items()}
        with self._shared:
            for name, fresh in pushed.items():
                self._rows[name].stack = replace(self._rows[name].stack, fresh=fresh)
            self._deltas = (*deltas, file) if frames else deltas
            self._drained = drained
            self._freeze(version)
        while sum(rows.nbytes for rows in self._rows.values()) > self._memory and self._until is not None:
            with self._tidying:
                self._advance()
            with self._shared:
                self._freeze(version)
        return {"name": file.name, "digest": file.digest}

    def _freeze(self, version: int) -> None:
        """Let what is fresh wait to be written, if it is enough, and nothing waits."""
        fresh = sum(run.nbytes for rows in self._rows.values() for run in rows.stack.fresh)
        waiting = sum(number_of(delta.name) > self._catalogue.until for delta in self._deltas)
        if self._until is None and (2 * fresh > self._memory or waiting >= self._many):
            self._until = version
            for rows in self._rows.values():
                rows.stack = _Stack((), rows.stack.fresh, rows.stack.filed)

    # ------------------------------------------------------------------------------------ restore
    def restore(self, ref: StateRef | None) -> Mapping[str, Any]:
        """As `Cold.restore`."""
        with self._tidying:  # a tidy that runs ends first: it works on what is forgotten now
            for folder in ("state", "runs"):
                self._storage.settle(folder)
            if ref is None:
                return self._restore_nothing()
            return self._restore(Reference(ref["name"], ref["digest"]))

    def look(self, ref: StateRef) -> Mapping[str, Any]:
        file = Reference(ref["name"], ref["digest"])
        record, _ = read_record(self._storage, file, "state")
        if catalogue_of(self._storage, record).probe != probe():
            raise CheckpointError(
                f"{self.description} is sorted as another version of polars hashes, so its rows would not be found. "
                "Start the query once, which sorts it anew; then read its state"
            )
        return self._restore(file)

    def _restore_nothing(self) -> Mapping[str, Any]:
        catalogue = Catalogue(secrets.randbits(63), probe=probe())
        for rows in self._rows.values():
            rows.begin(catalogue.seed, (), None)
        self._begin(catalogue, ())
        self._offered: tuple[Catalogue, tuple[Delta, ...]] = (catalogue, ())
        return {}

    def _restore(self, file: Reference) -> Mapping[str, Any]:
        record, blob = read_record(self._storage, file, "state")
        catalogue = self._resorted(catalogue_of(self._storage, record))
        files = tuple(Reference(*each) for each in record["deltas"])
        deltas = [read_delta(self._storage, each) for each in files]
        deltas.append(Delta(number_of(file.name), unpack(record["frames"], blob)))
        for name, rows in self._rows.items():
            rows.begin(catalogue.seed, catalogue.tables.get(name, ()), record["drained"].get(name))
            for delta in deltas:
                if name in delta.frames:
                    rows.stack = rows.push(pl.read_ipc_stream(delta.frames[name]).select(*rows.form.schema, LIVE))
        self._begin(catalogue, (*files, file) if record["frames"] else files)
        self._drained = dict(record["drained"])
        self._offered = (catalogue, tuple(deltas))
        note: Mapping[str, Any] = record["note"]
        return note

    def _resorted(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue, with everything sorted again if Polars hashes otherwise now."""
        if catalogue.probe == probe():
            return catalogue
        seed = secrets.randbits(63)
        draft = replace(catalogue, generation=catalogue.generation + 1, seed=seed, probe=probe())
        for name, rows in self._rows.items():
            draft = self._writer.resort(draft, Form(rows.layout, seed), name, Form(rows.layout, catalogue.seed))
        return self._writer.finish(draft)

    def logged(self, name: str) -> Iterator[pl.DataFrame]:
        """As `Cold.logged`."""
        catalogue, deltas = self._offered
        columns = self._logs[name].names()
        for frame in read_log(self._storage, catalogue.logs.get(name, ())):
            yield frame.select(columns)
        for delta in deltas:
            if name in delta.frames:
                yield pl.read_ipc_stream(delta.frames[name]).select(columns)

    def verify(self, ref: StateRef) -> bool:
        """As `Cold.verify`."""
        return is_intact(self._storage, ref)

    def destroy(self) -> bool:
        """As `Cold.destroy`."""
        return False

    def close(self) -> None:
        """As `Cold.close`: a file is mapped as long as somebody holds its rows."""
        with self._tidying:
            for rows in self._rows.values():
                rows.begin(0, (), None)
            self._begin(Catalogue(0), ())
            self._offered = (self._catalogue, ())

    # --------------------------------------------------------------------------------------- tidy
    def tidy(self, committed: int) -> None:
        """As `Cold.tidy`."""
        with self._tidying:
            self._advance()
            if committed // self._many != self._forgotten // self._many:
                forget_unneeded(self._storage, committed, self._retain, catalogue_of)
                self._forgotten = committed

    def _advance(self) -> None:
        """Write what is frozen, bring every join forward by a slice, and make that known; `_tidying` is held."""
        with self._shared:
            before, until, deltas, drained = self._catalogue, self._until, self._deltas, self._drained
            frozen = {name: rows.stack.frozen for name, rows in self._rows.items() if rows.stack.frozen}
        draft = replace(before, generation=before.generation + 1)
        if until is not None:
            waiting = [each for each in deltas if before.until < number_of(each.name) <= until]
            draft = self._writer.with_logs(replace(draft, until=until), self._logs, waiting)
            for name, runs in frozen.items():
                draft = self._writer.flush(draft, self._rows[name].form, name, runs)
        written = sum(run.rows for runs in frozen.values() for run in runs) if until is not None else 0
        for name, rows in self._rows.items():
            known = drained.get(name)
            if rows.layout.expiry is not None and known is not None:
                draft = self._writer.drop(draft, name, known)
            draft = self._writer.join(draft, rows.form, name, written)
        if draft.tables == before.tables and until is None:
            return
        draft = self._writer.finish(draft)
        with self._shared:
            self._catalogue, self._until = draft, None if until == self._until else self._until
            for name, rows in self._rows.items():
                left = () if until is not None else rows.stack.frozen
                rows.stack = _Stack(rows.stack.fresh, left, draft.tables.get(name, ()))
