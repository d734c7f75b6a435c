"""What does a reader of a file sink see? Exactly what is committed, at any moment, also after a crash."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from unbounded.errors import ConnectorError
from unbounded.sinks.formats import scan
from unbounded.sinks.manifest import DataFile, Entry, Log, beside
from unbounded.sinks.owner import Owner
from unbounded.sinks.places import Place, Shown, open_place
from unbounded.storage import is_local, local_path, open_storage

__all__ = ["plain_path", "read_sink", "shown", "verify"]

_BATCH, _REMOVED = "__batch__", "__removed__"


def read_sink(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> pl.LazyFrame:
    """The rows that the file sink at `path` holds now, as a lazy frame that stays as it is while the query goes on.

    Append: all rows, batch after batch. Update: one row per key, in the order of their last change. Complete: the
    newest table. An empty sink gives no rows, with the columns of the query. On a local disk files are read when
    the frame is collected, elsewhere now.

    Raises ConnectorError if there is no sink, or if a file is missing or has another size than it was written with.
    """
    owner, entries, place = _open(path, storage_options)
    if owner.mode == "update":
        return _newest_per_key(owner, entries, place)
    return _rows(owner, [file for entry in entries for file in entry.files], place)


def verify(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
    """Read every file that the sink's log names and compare it with what was written.

    Raises ConnectorError naming the first file that is missing or damaged.
    """
    _, entries, place = _open(path, storage_options)
    for entry in entries:
        for file in entry.all_files():
            found = zlib.crc32(place.read(file))
            if found != file.crc32:
                raise ConnectorError(
                    f"{file.path} of batch {entry.batch} of the sink {plain_path(path)} has crc32 {found:08x} where "
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


def _open(path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> tuple[Owner, list[Entry], Place]:
    """The owner, the entries that matter to a reader, and the files."""
    whole = plain_path(path)
    records = open_storage(beside(whole), storage_options)
    owner = Owner.find(records)
    if owner is None:
        raise ConnectorError(
            f"there is no sink at {whole}: {records.url}/owner does not exist. Check the path; the files of other "
            "writers are read with pl.scan_parquet, pl.scan_csv, ..."
        )
    log = Log(records)
    last = log.last()
    since = last if owner.mode == "complete" and last is not None else 0
    entries = log.entries(since)
    if owner.mode == "complete":
        entries = entries[-1:]
    return owner, entries, open_place(whole, shown(owner), storage_options)


def _rows(owner: Owner, files: Sequence[DataFile], place: Place) -> pl.LazyFrame:
    found = [place.find(file) for file in files if file.rows]
    if not found:
        return pl.LazyFrame(schema=owner.schema)
    return scan(found, owner.format, owner.schema, owner.reading)


def _newest_per_key(owner: Owner, entries: Sequence[Entry], place: Place) -> pl.LazyFrame:
    """Last write wins; a removed key is written like a row, with a mark, and dropped at the end."""
    written = [(entry.batch, file) for entry in entries for file in entry.files]
    gone = [(entry.batch, entry.removed) for entry in entries if entry.removed]
    rows = _rows(owner, [file for _, file in written], place)
    if not gone:
        return rows.unique(owner.key, keep="last", maintain_order=True)
    keys = scan(
        [place.find(file) for _, file in gone],
        "ipc",
        pl.Schema({name: owner.schema[name] for name in owner.key}),
        {},
    )
    # Two scans however many batches there are, which the batch of each row brings into the order of the log: within
    # a batch keys leave before rows enter. (A scan per batch took 15 s for 600 batches.)
    both = [
        pl.concat([keys, _batches(gone)], how="horizontal").with_columns(pl.lit(True).alias(_REMOVED)),
        pl.concat([rows, _batches(written)], how="horizontal").with_columns(pl.lit(False).alias(_REMOVED)),
    ]
    return (
        pl.concat(both, how="diagonal")
        .sort(_BATCH, maintain_order=True)
        .unique(owner.key, keep="last", maintain_order=True)
        .remove(pl.col(_REMOVED))
        .select(*owner.schema)
    )


def _batches(files: Sequence[tuple[int, DataFile]]) -> pl.LazyFrame:
    """The batch of each row of these files, one under the other."""
    runs = pl.DataFrame(
        [(batch, file.rows) for batch, file in files], {_BATCH: pl.Int64, "rows": pl.Int64}, orient="row"
    )
    return runs.filter(pl.col("rows") > 0).lazy().select(pl.col(_BATCH).repeat_by("rows").explode())
