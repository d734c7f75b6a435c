"""How does each batch get into a folder of files exactly once?

A batch is written in four steps: data files are staged and synced; the log entry with the receipt is put, durably,
and from here the output exists; the files are shown in the folder; and whatever a failed attempt at the same batch
left is deleted. A crash before the entry leaves files nobody reads; a crash behind it is rolled forward by `open`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from unbounded.connectors import Guarantee, Identity, Mode, Receipt
from unbounded.errors import CheckpointError, ConcurrentQueryError, ConnectorError, PlanError
from unbounded.sinks import formats, partitions
from unbounded.sinks.manifest import FANOUT, DataFile, Entry, Log, batch_of, beside
from unbounded.sinks.outdated import Outdated
from unbounded.sinks.owner import Owner, claim
from unbounded.sinks.places import Place, open_place
from unbounded.sinks.reading import plain_path, read_sink, shown
from unbounded.storage import Storage, is_local, open_storage, without_credentials

if TYPE_CHECKING:
    from unbounded.sinks.merging import Merger

__all__ = ["FileSink"]

_READERS_FINISH = 600.0  # seconds a lazy frame of a replaced file stays readable


@dataclass(frozen=True)
class _Opened:
    """What is known between `open` and `close`."""

    owner: Owner
    log: Log
    place: Place
    merger: Merger | None
    """Of an update sink."""
    outdated: Outdated | None
    """Of a sink whose staged files stand elsewhere too, or are replaced."""


@dataclass(frozen=True)
class _Staged:
    """The files of a batch that wait for its entry in the log."""

    rows: pl.DataFrame
    files: tuple[DataFile, ...]
    removed: DataFile | None


class FileSink:
    """A folder of parquet, csv, ndjson or ipc files, written exactly once.

    `options` are Polars' own of `sink_parquet`, `sink_csv`, ..., as far as they say how one file is written. An append
    sink's folder holds its committed files and nothing else, so `pl.scan_parquet(path)`, DuckDB and pyarrow read it
    right; a complete sink's folder holds one file, `current.parquet`, replaced atomically. Update sinks, partitioned
    complete sinks and sinks that are not on a local disk are read with `read_sink(path)`. What a partitioned batch
    shows comes into sight file by file.

    The files of an update sink are merged in the background: they hold less than twice the rows of the table, but
    for those of the newest batches. Replaced files stay readable for `retain` batches and at least 10 minutes by
    `clock`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str,
        *,
        partition_by: Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        retain: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check_target(path)
        self.path = plain_path(path)
        self._format, self._options = formats.checked(format, options or {})
        self._partition_by = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by)
        partitions.check_names(self._partition_by)
        if retain < 1:
            raise PlanError(f"retain={retain} would delete files that are still read. Keep 1 batch or more")
        self._storage_options, self._retain, self._clock = storage_options, retain, clock
        self._now: _Opened | None = None
        self._last: int | None = None  # the newest batch this object knows to be recorded and shown
        self._staged: _Staged | None = None
        self._orphans: set[str] = set()  # staged files that an entry may still name, or nobody will
        self._tidied: int | None = None

    @property
    def modes(self) -> frozenset[Mode]:
        return frozenset({"append", "update", "complete"})

    @property
    def guarantee(self) -> Guarantee:
        return "exactly-once"

    @property
    def keeps_table(self) -> bool:
        return True

    @property
    def location(self) -> str:
        """The absolute path or URL of the folder, without credentials."""
        return without_credentials(self.path)

    @property
    def description(self) -> str:
        return f"{self._format} files in {self.location}"

    def open(self, query: Identity, schema: pl.Schema, key: tuple[str, ...], mode: Mode) -> None:
        """SinkOwnedError if the folder is another's, PlanError for columns that the files could not give back."""
        formats.check_types(self._format, schema, self._options)
        formats.encode(schema.to_frame(), self._format, self._options)  # a wrong option value fails here, not later
        partitions.check_types(self._partition_by, schema)
        # Without a key no row replaces another, so update means append.
        kept: Mode = "append" if mode == "update" and not key else mode
        owner = Owner(
            query=query.id,
            name=query.name,
            format=self._format,
            mode=kept,
            key=key if kept == "update" else (),
            partition_by=self._partition_by,
            reading=formats.reading(self._format, self._options),
            schema=schema,
        )
        place = open_place(self.path, shown(owner), self._storage_options)
        records = open_storage(beside(self.path), self._storage_options)
        with self._explained("cannot be opened"):
            claim(self.location, owner, records, place.foreign)
            # Names that a killed writer left may not be on the disk yet; what is read from here on must not vanish.
            for folder in ("", "log", "levels", "replaced"):
                records.settle(folder)
            place.prepare()
            self._tidied = self._staged = None
            log = Log(records)
            self._now = _Opened(
                owner, log, place, self._merger(owner, place, records), self._outdated(owner, log, place)
            )
            self._roll_forward(self._now)

    @contextmanager
    def _explained(self, failed: str) -> Iterator[None]:
        """Say of an error of the disk or the store where it was, and what to do."""
        try:
            yield
        except OSError as error:
            where = f" at {error.filename}" if error.filename else ""
            raise ConnectorError(
                f"{self.location} {failed}: {error.strerror or error}{where}. Make room, or give the rights to write "
                f"there and in {beside(self.location)}, then start the query again: it continues where it stopped, "
                "and no row is lost or doubled"
            ) from error

    def _merger(self, owner: Owner, place: Place, records: Storage) -> Merger | None:
        if owner.mode != "update":
            return None
        from unbounded.sinks.merging import Merger  # noqa: PLC0415  # numpy, for which describing a query need not wait

        return Merger(
            owner,
            place,
            records,
            options=self._options,
            retain=self._retain,
            keep_seconds=_READERS_FINISH,
            clock=self._clock,
        )

    def _outdated(self, owner: Owner, log: Log, place: Place) -> Outdated | None:
        if owner.mode == "update" or (owner.mode == "append" and not is_local(self.path)):
            return None
        return Outdated(log, place, retain=self._retain, keep_seconds=_READERS_FINISH, clock=self._clock)

    def _roll_forward(self, now: _Opened) -> None:
        """Show what a killed writer recorded, and delete what it wrote and nobody can record any more.

        Once a batch is recorded no other attempt at it can be. A file of a later batch may belong to a writer that
        is still alive, so it waits until its batch is recorded by somebody.
        """
        recent = now.log.loose()  # whatever is not loose is settled
        self._last = recent[-1].batch if recent else now.log.last()
        now.place.show(_visible(now.owner, recent))
        named = {now.place.staged_name(file) for entry in recent for file in entry.all_files()}
        batches = {entry.batch for entry in recent}
        orphans = {name: batch for name in now.place.staged() if (batch := batch_of(name)) is not None}
        now.place.forget(name for name, batch in orphans.items() if batch in batches and name not in named)
        self._orphans = {name for name, batch in orphans.items() if self._last is None or batch > self._last}
        if now.merger is not None:
            for entry in now.log.entries(since=now.merger.until + 1):
                now.merger.take(entry)

    def written(self, batch: int) -> Receipt | None:
        now = self._opened()
        known = self._last is not None and batch <= self._last
        entry = now.log.find(batch) if known else now.log.find_loose(batch)
        if entry is None:
            return None
        if entry.receipt is None:
            raise CheckpointError(
                f"{self.location} holds batch {batch} and newer ones, and forgot its receipt after {self._retain} "
                "batches: the checkpoint is older than its output. Use the newest checkpoint, or a new checkpoint and "
                "a new path"
            )
        if not known:  # recorded by an attempt of this run that failed before it was shown
            self._show(now, entry)
        return entry.receipt

    def stage(self, batch: int, rows: pl.DataFrame, *, removed: pl.DataFrame) -> None:
        now = self._opened()
        assert rows.schema == now.owner.schema, f"batch {batch} has {rows.schema}, not {now.owner.schema}"
        if self._last is not None and batch != self._last + 1:
            raise CheckpointError(
                f"batch {batch} cannot follow batch {self._last} in {self.location}; the checkpoint is not the one "
                "that wrote it. Use the newest checkpoint, or a new checkpoint and a new path"
            )
        stem = f"{batch:012d}-{secrets.token_hex(8)}"
        with self._explained(f"cannot be given batch {batch}"):
            try:
                files = self._stage(now, self._row_files(now.owner, stem, rows))
                gone = self._stage(now, _removed_file(now.owner, stem, removed))
            except Exception:  # a full disk must not stay full of files that nobody reads
                now.place.forget(name for name in self._orphans if stem in name)
                raise
            if files or gone:
                now.place.settle_staged()
        self._staged = _Staged(rows, files, gone[0] if gone else None)

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        now = self._opened()
        if self._staged is None or self._staged.rows is not rows:
            self.stage(batch, rows, removed=removed)
        staged, self._staged = self._staged, None
        assert staged is not None
        with self._explained(f"cannot be given batch {batch}"):
            entry = Entry(batch, self._clock(), staged.files, staged.removed, receipt)
            now.log.append(entry)
            self._show(now, entry)

    def _stage(self, now: _Opened, encoded: Iterable[tuple[DataFile, bytes]]) -> tuple[DataFile, ...]:
        files = []
        for file, content in encoded:
            self._orphans.add(now.place.staged_name(file))
            now.place.stage(file, content)
            files.append(file)
        return tuple(files)

    def _row_files(self, owner: Owner, stem: str, rows: pl.DataFrame) -> Iterator[tuple[DataFile, bytes]]:
        """One file per partition, one at a time; none for no rows, but for the one file that stands for a table."""
        if rows.is_empty() and shown(owner) != "current":
            return
        end = formats.extension(self._format, self._options)
        for number, (values, part) in enumerate(partitions.split(rows, self._partition_by)):
            folder = partitions.folder(self._partition_by, values)
            path = f"{folder}/{stem}-{number:04d}.{end}".lstrip("/")
            content = formats.encode(part, self._format, self._options)
            yield DataFile.holding(path, content, part.height, values), content

    def _show(self, now: _Opened, entry: Entry) -> None:
        """What follows when an entry is durable: it comes into sight, and other attempts at its batch go."""
        if is_local(self.path) and now.log.is_settled(entry.batch):
            raise ConcurrentQueryError(
                f"batch {entry.batch} of {self.location} was written by another process while this one slept; "
                "nothing of this attempt is shown. Run one query on one checkpoint, and do not copy a checkpoint in use"
            )
        now.place.show(_visible(now.owner, [entry]))
        self._last = entry.batch
        if now.merger is not None:
            now.merger.take(entry)
        if now.outdated is not None:
            now.outdated.note(entry)
        done = {name for name in self._orphans if (batch_of(name) or 0) <= entry.batch}
        now.place.forget(done - {now.place.staged_name(file) for file in entry.all_files()})
        self._orphans -= done

    def read(self) -> pl.LazyFrame:
        return read_sink(self.path, self._storage_options)

    def close(self) -> None:
        self._now = None

    def _opened(self) -> _Opened:
        assert self._now is not None, "a sink is opened before it is asked or written"
        return self._now

    def tidy(self, committed: int) -> None:
        """Merge files and log, and delete replaced files. Runs beside `write`, with which it shares only the merger."""
        now = self._now
        if now is None or self._last is None:
            return
        if now.merger is not None:
            now.merger.tidy(committed, self._last)
        if self._tidied is not None and _turn(committed) == _turn(self._tidied):
            return
        now.log.merge(
            committed,
            settle=lambda entries: _settle(now.place, entries),
            keep=lambda entry: self._lasting(now, entry, committed),
        )
        if now.outdated is not None:
            now.outdated.forget(committed)
        self._tidied = committed

    def _lasting(self, now: _Opened, entry: Entry, committed: int) -> Entry:
        """What is still of use of an entry of long ago."""
        replaced = committed - 1 if now.owner.mode == "complete" else now.merger.until if now.merger else -1
        if entry.batch <= replaced:
            entry = replace(entry, files=(), removed=None)
        return replace(entry, receipt=None) if entry.batch <= committed - self._retain else entry


def _turn(committed: int) -> int:
    """The log is merged when this changes, and not behind the batches where the home of the state and `Merger` work."""
    return (committed + FANOUT // 4) // FANOUT


def _check_target(path: object) -> None:
    if isinstance(path, pl.PartitionBy):
        raise PlanError(
            "pl.PartitionBy names and cuts the files of one sink, and here every batch has files of its own. Write "
            'sink_parquet("out/", partition_by=["day"])'
        )
    if not isinstance(path, str | os.PathLike):
        raise PlanError(f'a sink writes a folder of files, not {path!r}. Write its path or URL: "out/"')


def _settle(place: Place, entries: Sequence[Entry]) -> None:
    """Make durable what followed these entries: their files are shown, and other attempts' files are gone."""
    place.settle_shown([file for entry in entries for file in entry.files])
    place.settle_staged()


def _visible(owner: Owner, entries: Sequence[Entry]) -> list[DataFile]:
    """The files of these newest entries that a reader of the sink's folder should see."""
    newest = entries[-1:] if owner.mode == "complete" else entries
    return [file for entry in newest for file in entry.files]


def _removed_file(owner: Owner, stem: str, removed: pl.DataFrame) -> Iterator[tuple[DataFile, bytes]]:
    """The keys that left the table, if any. Only `read_sink` looks at them, so they keep their types: always ipc."""
    if owner.mode == "update" and removed.height:
        content = formats.encode(removed.select(owner.key), "ipc", {})
        yield DataFile.holding(f"{stem}-removed.ipc", content, removed.height), content
