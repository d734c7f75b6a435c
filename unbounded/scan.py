"""How does a user turn something outside into an endless table?

`scan` takes any source; each `scan_x` makes one and hands it on. All give a `StreamFrame` and read no
row. `name` identifies the source in the checkpoint, `watermark=("time", "2h")` is `with_watermark` at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias, Unpack

from unbounded.connectors import Source
from unbounded.frame import StreamFrame
from unbounded.plan import Scan
from unbounded.sources.discovery import Order
from unbounded.sources.files import DEFAULT_BYTES, FileSource, infer_schema
from unbounded.sources.formats import CsvOptions, IpcOptions, NdjsonOptions, ParquetOptions
from unbounded.sources.memory import MemorySource
from unbounded.sources.rate import RateSource

__all__ = ["infer_schema", "scan", "scan_csv", "scan_ipc", "scan_memory", "scan_ndjson", "scan_parquet", "scan_rate"]

Where: TypeAlias = str | os.PathLike[str]
Watermark: TypeAlias = tuple[str, str | timedelta]


def scan(
    source: Source,
    *,
    name: str | None = None,
    watermark: Watermark | None = None,
    allow_source_change: bool = False,
) -> StreamFrame:
    """An endless table of the rows of any source, your own included.

    `name` identifies it in the checkpoint and defaults to the source's own; two of one name are refused in a query.
    A checkpoint is bound to the place its source had; `allow_source_change` lets this start read another place
    under the old name.
    """
    frame = StreamFrame(Scan(source, name or source.default_name, allow_source_change))
    return frame if watermark is None else frame.with_watermark(*watermark)


def scan_parquet(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[ParquetOptions],
) -> StreamFrame:
    """An endless table of the Parquet files under a path: a folder, a glob, or one file; local or an fsspec URL.

    A file is read once, whole and exactly as it was when it was found; it must not change. A batch takes the
    oldest (`order`) files that were not read, at least one and at most `max_files_per_trigger` and
    `max_bytes_per_trigger` on disk (None: no limit). A file without its footer, or younger than `min_file_age`, waits.
    Names with a part that starts with `_` or `.`, names like `x.tmp` or `x.part`, and empty files are passed over
    and counted in `query.last_progress`. `recursive` looks into the folders of a folder; `glob=False` takes
    `*`, `?` and `[` literally; `storage_options` are fsspec's. `allow_source_change` as in `scan`.

    Columns and their types are those of `schema`, else of the oldest file, and stay pinned in the checkpoint.
    `options` are those of `pl.scan_parquet` that say how one file is read, with their defaults: `parallel,
    use_statistics, low_memory, cache, include_file_paths, missing_columns, extra_columns, cast_options,
    decryption, hive_partitioning, hive_schema, try_parse_hive_dates`.

    Raises ConnectorError for a missing folder, PlanError for an empty one without `schema`, UnknownOptionError for
    a misspelt option, UnsupportedOperationError for one about the whole input such as `n_rows`. The query fails
    with SchemaMismatchError at a file with other columns and with SourceDataLostError at one that changed.
    """
    found = FileSource(
        source,
        "parquet",
        schema=schema,
        max_files_per_trigger=max_files_per_trigger,
        max_bytes_per_trigger=max_bytes_per_trigger,
        order=order,
        min_file_age=min_file_age,
        recursive=recursive,
        glob=glob,
        storage_options=storage_options,
        **options,
    )
    return scan(found, name=name, watermark=watermark, allow_source_change=allow_source_change)


def scan_csv(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[CsvOptions],
) -> StreamFrame:
    """An endless table of the CSV files under a path; see `scan_parquet` for which files are read, and when.

    `schema` is required: without it, a PlanError prints one to paste. A file's header must have exactly its
    columns, in any order. A file that does not end in a newline waits until it was left alone for 60 s, and is
    then read with a warning; compressed ones (gzip, zstd) are taken to be whole.

    `options` are those of `pl.scan_csv` that say how one file is read, with their defaults: `has_header,
    separator, comment_prefix, quote_char, skip_rows, skip_lines, skip_rows_after_header, null_values,
    empty_string_is_null, ignore_errors, encoding, low_memory, eol_char, truncate_ragged_lines, raise_if_empty,
    decimal_comma, include_file_paths, extra_columns, missing_columns`; and those that only steer the guess of a
    schema: `schema_overrides, infer_schema, infer_schema_length, infer_schema_files, try_parse_dates`.
    """
    found = FileSource(
        source,
        "csv",
        schema=schema,
        max_files_per_trigger=max_files_per_trigger,
        max_bytes_per_trigger=max_bytes_per_trigger,
        order=order,
        min_file_age=min_file_age,
        recursive=recursive,
        glob=glob,
        storage_options=storage_options,
        **options,
    )
    return scan(found, name=name, watermark=watermark, allow_source_change=allow_source_change)


def scan_ndjson(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[NdjsonOptions],
) -> StreamFrame:
    """An endless table of files with one JSON object per line; see `scan_parquet` for which are read, and when.

    `schema` is required: without it, a PlanError prints one to paste. In each line a missing key is null and
    another one is passed over, as in Polars. A file waits for its last newline as in `scan_csv`.

    `options` are those of `pl.scan_ndjson` that say how one file is read, with their defaults: `batch_size,
    low_memory, ignore_errors, include_file_paths`; and for the guess `schema_overrides, infer_schema_length`.
    """
    found = FileSource(
        source,
        "ndjson",
        schema=schema,
        max_files_per_trigger=max_files_per_trigger,
        max_bytes_per_trigger=max_bytes_per_trigger,
        order=order,
        min_file_age=min_file_age,
        recursive=recursive,
        glob=glob,
        storage_options=storage_options,
        **options,
    )
    return scan(found, name=name, watermark=watermark, allow_source_change=allow_source_change)


def scan_ipc(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[IpcOptions],
) -> StreamFrame:
    """An endless table of the Arrow IPC (Feather 2) files under a path; all as in `scan_parquet`.

    `options` are those of `pl.scan_ipc` that say how one file is read: `include_file_paths, hive_partitioning,
    hive_schema, try_parse_hive_dates`.
    """
    found = FileSource(
        source,
        "ipc",
        schema=schema,
        max_files_per_trigger=max_files_per_trigger,
        max_bytes_per_trigger=max_bytes_per_trigger,
        order=order,
        min_file_age=min_file_age,
        recursive=recursive,
        glob=glob,
        storage_options=storage_options,
        **options,
    )
    return scan(found, name=name, watermark=watermark, allow_source_change=allow_source_change)


def scan_memory(feed: MemorySource, *, name: str | None = None, watermark: Watermark | None = None) -> StreamFrame:
    """An endless table of the rows that are given to `feed.add`; for tests."""
    return scan(feed, name=name, watermark=watermark)


def scan_rate(
    rows_per_second: int = 1,
    *,
    start: datetime | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    clock: Callable[[], float] = time.time,
) -> StreamFrame:
    """An endless table of made rows, so many for each full second; for trying things out.

    Columns `timestamp: Datetime("us", "UTC")` and `value: Int64`. Row v is due at `start + v / rows_per_second`;
    `start` defaults to the first start of the query. The same after a restart. `clock` gives seconds since 1970.
    """
    return scan(RateSource(rows_per_second, start=start, clock=clock), name=name, watermark=watermark)
