"""What does a reader of a file sink see? Exactly what is committed, at any moment, also after a crash."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from unbounded.errors import ConnectorError
from unbounded.sinks.changes import REMOVED, changes_of, newest_per_key
from unbounded.sinks.formats import scan
from unbounded.sinks.levels import Levels, newest
from unbounded.sinks.manifest import Entry, Log, beside
from unbounded.sinks.owner import Owner
from unbounded.sinks.places import Place, Shown, open_place
from unbounded.storage import Storage, is_local, local_path, open_storage, without_credentials

__all__ = ["plain_path", "read_sink", "shown", "verify"]


def read_sink(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> pl.LazyFrame:
    """The rows that the file sink at `path` holds now, as a lazy frame that stays as it is while the query goes on.

    Append: all rows, batch after batch. Update: one row per key, in the order of their last change. Complete: the
    newest table. An empty sink gives no rows, with the columns of the query. On a local disk files are read when
    the frame is collected, elsewhere now.

    Raises ConnectorError if there is no sink, or if a file is missing or has another size than it was written with.
    """
    held = _open(path, storage_options)
    if held.owner.mode == "update":
        changes = changes_of(held.owner, held.place, list(held.levels.slices()), held.entries)
        return newest_per_key(changes, held.owner.key).remove(pl.col(REMOVED)).select(*held.owner.schema)
    found = [held.place.find(file) for entry in held.entries for file in entry.files if file.rows]
    if not found:
        return pl.LazyFrame(schema=held.owner.schema)
    return scan(found, held.owner.format, held.owner.schema, held.owner.reading)


def verify(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
    """Read every file that the sink's log names and compare it with what was written.

    Raises ConnectorError naming the first file that is missing or damaged.
    """
    held, where = _open(path, storage_options), without_credentials(plain_path(path))
    merged = [(f"up to {held.levels.until}", slice.file) for slice in held.levels.slices()]
    written = [(f"{entry.batch}", file) for entry in held.entries for file in entry.all_files()]
    for batch, file in merged + written:
        found = zlib.crc32(held.place.read(file))
        if found != file.crc32:
            raise ConnectorError(
                f"{file.path} of batch {batch} of the sink {where} has crc32 {found:08x} where "
                f"{file.crc32:08x} was written ({file.size} bytes); it was damaged. Restore it from a backup, "
                "or write to a new path"
            )


def plain_path(path: str | os.PathLike[str]) -> str:
    """A path or URL without a slash at its end; absolute if it is local, so that a change of folder moves nothing."""
    return local_path(path) if is_local(path) else os.fspath(path).rstrip("/")


def shown(owner: Owner) -> Shown:
    """What stands in the folder of a sink, for readers that do not know of the log."""
    match owner.mode:
        case "append":
            return "files"
        case "complete":
            return "nothing" if owner.partition_by else "current"
        case "update":
            return "nothing"


@dataclass(frozen=True)
class _Held:
    """What matters to a reader: whose sink it is, what was merged, the batches behind that, and the files."""

    owner: Owner
    levels: Levels
    entries: list[Entry]
    place: Place


def _open(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> _Held:
    whole = plain_path(path)
    records = open_storage(beside(whole), storage_options)
    owner = Owner.find(records)
    if owner is None:
        raise ConnectorError(
            f"there is no sink at {without_credentials(whole)}: {records.url}/owner does not exist. Check the path; "
            "the files of other writers are read with pl.scan_parquet, pl.scan_csv, ..."
        )
    place = open_place(whole, shown(owner), storage_options)
    log = Log(records)
    if owner.mode == "update":
        return _Held(owner, *_update(log, records), place)
    last = log.last()
    since = last if owner.mode == "complete" and last is not None else 0
    entries = log.entries(since)
    return _Held(owner, Levels(), entries[-1:] if owner.mode == "complete" else entries, place)


def _update(log: Log, records: Storage) -> tuple[Levels, list[Entry]]:
    """The levels, and the batches behind them. The log forgets what levels name, so these must not change meanwhile."""
    levels = newest(records)
    while True:
        entries, before = log.entries(since=levels.until + 1), levels
        levels = newest(records)
        if levels.generation == before.generation:
            return levels, entries
