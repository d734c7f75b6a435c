"""How does a user turn something outside into an endless table?

`scan` takes any source; each `scan_x` makes one and hands it on. All give a `StreamFrame` and read no
row. `name` identifies the source in the checkpoint, `watermark=("time", "2h")` is `with_watermark` at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, Unpack

from unbounded.connectors import Source, lacking
from unbounded.durations import milliseconds
from unbounded.errors import PlanError
from unbounded.frame import StreamFrame
from unbounded.plan import Scan
from unbounded.sources.cleaning import Clean
from unbounded.sources.columns import infer_schema
from unbounded.sources.dead_letters import BadRecord
from unbounded.sources.discovery import Order
from unbounded.sources.files import DEFAULT_BYTES, FileSource
from unbounded.sources.generator import Generate, GeneratorSource
from unbounded.sources.memory import MemorySource
from unbounded.sources.options import (
    AvroOptions,
    CsvOptions,
    FormatName,
    IpcOptions,
    LinesOptions,
    NdjsonOptions,
    ParquetOptions,
)
from unbounded.sources.rate import RateSource

__all__ = [
    "infer_schema",
    "scan",
    "scan_avro",
    "scan_csv",
    "scan_generator",
    "scan_ipc",
    "scan_lines",
    "scan_memory",
    "scan_ndjson",
    "scan_parquet",
    "scan_rate",
]

Where: TypeAlias = str | os.PathLike[str]
Watermark: TypeAlias = tuple[str, str | timedelta]
Timeout: TypeAlias = str | timedelta | None
Missing: TypeAlias = Literal["insert", "raise"]
Extra: TypeAlias = Literal["ignore", "raise"]


def scan(
    source: Source,
    *,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    allow_source_change: bool = False,
) -> StreamFrame:
    """An endless table of the rows of any source, your own included.

    `name` identifies it in the checkpoint and defaults to the source's own; two of one name are refused in a query.
    A checkpoint is bound to the place its source had; `allow_source_change` lets this start read another place
    under the old name.

    Of several inputs the slowest decides how far event time has come. One that has sent nothing for `idle_timeout` of
    processing time, counted from the start of a run too, is not waited for until it sends again; what it then sends may
    be late.
    """
    if missing := lacking(source, Source):
        read = f"ub.scan_parquet({source!r}), scan_csv, ..." if isinstance(source, str | os.PathLike) else "a Source"
        raise PlanError(
            f"ub.scan({source!r}): a {type(source).__name__} is no source; it lacks {missing}. Write {read}; a bounded "
            "frame joins a stream with ub.concat; help(ub.Source) says what a source of your own must have"
        )
    idle = None if idle_timeout is None else milliseconds(idle_timeout, "idle_timeout")
    if idle == 0:
        raise PlanError(f'idle_timeout={idle_timeout!r} leaves a source no time to send. Write "1m", or leave it out')
    frame = StreamFrame(Scan(source, name or source.default_name, allow_source_change, idle))
    if watermark is None:
        return frame
    if not isinstance(watermark, tuple | list) or len(watermark) != 2:
        column = watermark if isinstance(watermark, str) else "time"
        raise PlanError(f"watermark={watermark!r} is not a column and a delay. Write watermark=({column!r}, '10m')")
    return frame.with_watermark(*watermark)


def _scan_files(
    form: FormatName,
    *,
    source: Where,
    name: str | None,
    watermark: Watermark | None,
    idle_timeout: Timeout,
    allow_source_change: bool,
    options: Mapping[str, Any],
    **own: Any,
) -> StreamFrame:
    """What all scans of files do with their parameters, which they hand on by `locals()` since all have a meaning."""
    found, moved = FileSource(source, form, **own, **options), allow_source_change
    return scan(found, name=name, watermark=watermark, idle_timeout=idle_timeout, allow_source_change=moved)


def scan_parquet(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    missing_columns: Missing | None = None,
    extra_columns: Extra | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    include_file_paths: str | None = None,
    hive_partitioning: bool | None = None,
    hive_schema: Mapping[str, Any] | None = None,
    try_parse_hive_dates: bool = True,
    clean_source: Clean | None = None,
    archive_folder: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[ParquetOptions],
) -> StreamFrame:
    """An endless table of the Parquet files under a path: a folder, a glob, or one file; local or an fsspec URL.

    Which files: a file is read once, whole and exactly as it was when it was found; it must not change. A batch takes
    the oldest (`order`) files that were not read, at least one and at most `max_files_per_trigger` and
    `max_bytes_per_trigger` on disk (None: no limit). A file without its footer, or younger than `min_file_age`, waits.
    Names with a part that starts with `_` or `.`, names like `x.tmp` or `x.part`, and empty files are passed over
    and counted in `query.last_progress`. `recursive` looks into the folders of a folder; `glob=False` takes
    `*`, `?` and `[` literally; `storage_options` are fsspec's. `allow_source_change` as in `scan`.

    Which columns: those of `schema`, else of the oldest file; they stay pinned in the checkpoint. A file in which one
    is missing, or that has another, fails the query, unless `missing_columns="insert"` reads nulls there or
    `extra_columns="ignore"` passes it over; so does one of another type. `hive_schema` names columns that stand in the
    path, as in `day=2024-01-01/a.parquet`; `hive_partitioning=True` alone guesses them from the path of the oldest file
    (dates unless `try_parse_hive_dates=False`); by default parts of the path are no columns. `include_file_paths` is
    the name of a column with the path itself.

    Afterwards: once a batch is committed, `clean_source="delete"` deletes its files and `clean_source="archive"` moves
    them into `archive_folder`, under the same relative names. Let then no other query read them. A file that cannot be
    taken away stays, is warned of and counted, and is not read again.

    `options` are those of `pl.scan_parquet` that say how one file is read, with their defaults: `parallel,
    use_statistics, low_memory, cache, cast_options, decryption`.

    Raises ConnectorError for a missing folder, PlanError for an empty one without `schema`, UnknownOptionError for
    a misspelt option, UnsupportedOperationError for one about the whole input such as `n_rows`. The query fails
    with SchemaMismatchError at a file with other columns and with SourceDataLostError at one that changed.
    """
    return _scan_files("parquet", **locals())


def scan_csv(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    missing_columns: Missing | None = None,
    extra_columns: Extra | None = None,
    on_bad_record: BadRecord = "fail",
    dead_letter_folder: Where | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    include_file_paths: str | None = None,
    hive_partitioning: bool | None = None,
    hive_schema: Mapping[str, Any] | None = None,
    try_parse_hive_dates: bool = True,
    clean_source: Clean | None = None,
    archive_folder: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[CsvOptions],
) -> StreamFrame:
    """An endless table of the CSV files under a path; see `scan_parquet` for which files are read, when and how.

    `schema` is required: without it, a PlanError prints one to paste. A file's header must have exactly its
    columns, in any order. A file that does not end in a newline waits until it was left alone for 60 s, and is
    then read with a warning; one compressed with gzip, zstd or zlib waits until it is whole.

    A record that Polars cannot read (a text for a number, a field too many, a broken quote) fails the query with its
    file, line and column. With `on_bad_record="dead_letter"` all others are read, and each such record is kept exactly
    once in `dead_letter_folder`, in Parquet files with the columns `file, line, record, reason`, after its batch was
    committed; `bad_records` in the metrics of the source counts them. A file whose header does not fit is kept as a
    whole. Batches are then collected before the query sees them, with all columns.

    `options` are those of `pl.scan_csv` that say how one file is read, with their defaults: `has_header,
    separator, comment_prefix, quote_char, skip_rows, skip_lines, skip_rows_after_header, null_values,
    empty_string_is_null, ignore_errors, encoding, low_memory, eol_char, truncate_ragged_lines, raise_if_empty,
    decimal_comma`; and those that only steer the guess of a schema: `schema_overrides, infer_schema,
    infer_schema_length, infer_schema_files, try_parse_dates`.
    """
    return _scan_files("csv", **locals())


def scan_ndjson(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    missing_columns: Missing | None = None,
    extra_columns: Extra | None = None,
    on_bad_record: BadRecord = "fail",
    dead_letter_folder: Where | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    include_file_paths: str | None = None,
    hive_partitioning: bool | None = None,
    hive_schema: Mapping[str, Any] | None = None,
    try_parse_hive_dates: bool = True,
    clean_source: Clean | None = None,
    archive_folder: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[NdjsonOptions],
) -> StreamFrame:
    """An endless table of files with one JSON object per line; see `scan_parquet` for which are read, when and how.

    `schema` is required: without it, a PlanError prints one to paste. In each line a missing key is null and
    another one is passed over, as in Polars. A file waits for its last newline, and a line that cannot be read goes to
    `dead_letter_folder`, as in `scan_csv`.

    `options` are those of `pl.scan_ndjson` that say how one file is read, with their defaults: `batch_size,
    low_memory, ignore_errors`; and for the guess `schema_overrides, infer_schema_length`.
    """
    return _scan_files("ndjson", **locals())


def scan_ipc(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    missing_columns: Missing | None = None,
    extra_columns: Extra | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    include_file_paths: str | None = None,
    hive_partitioning: bool | None = None,
    hive_schema: Mapping[str, Any] | None = None,
    try_parse_hive_dates: bool = True,
    clean_source: Clean | None = None,
    archive_folder: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[IpcOptions],
) -> StreamFrame:
    """An endless table of the Arrow IPC (Feather 2) files under a path; all as in `scan_parquet`."""
    return _scan_files("ipc", **locals())


def scan_avro(
    source: Where,
    *,
    schema: Mapping[str, Any] | None = None,
    missing_columns: Missing | None = None,
    extra_columns: Extra | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    include_file_paths: str | None = None,
    hive_partitioning: bool | None = None,
    hive_schema: Mapping[str, Any] | None = None,
    try_parse_hive_dates: bool = True,
    clean_source: Clean | None = None,
    archive_folder: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[AvroOptions],
) -> StreamFrame:
    """An endless table of the Avro object container files under a path; all as in `scan_parquet`.

    Polars reads them: codecs deflate and snappy; no maps, and no unions but with null. Each file is read at once.
    """
    return _scan_files("avro", **locals())


def scan_lines(
    source: Where,
    *,
    on_bad_record: BadRecord = "fail",
    dead_letter_folder: Where | None = None,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
    max_files_per_trigger: int | None = None,
    max_bytes_per_trigger: int | None = DEFAULT_BYTES,
    order: Order = "oldest_first",
    min_file_age: str | timedelta = "0s",
    recursive: bool = False,
    glob: bool = True,
    include_file_paths: str | None = None,
    hive_partitioning: bool | None = None,
    hive_schema: Mapping[str, Any] | None = None,
    try_parse_hive_dates: bool = True,
    clean_source: Clean | None = None,
    archive_folder: Where | None = None,
    storage_options: Mapping[str, Any] | None = None,
    allow_source_change: bool = False,
    **options: Unpack[LinesOptions],
) -> StreamFrame:
    """An endless table of the lines of text files, in the column `line: String`; files are those of `scan_csv`.

    `name` is that of the source, as in every scan; `.rename({"line": ...})` gives the column another. A line that is
    not UTF-8 is a bad record, as in `scan_csv`.
    """
    return _scan_files("lines", **locals())


def scan_generator(
    function: Generate,
    *,
    schema: Mapping[str, Any],
    end: Callable[[], Any] | None = None,
    max_rows_per_trigger: int | None = 100_000,
    name: str | None = None,
    watermark: Watermark | None = None,
    idle_timeout: Timeout = None,
) -> StreamFrame:
    """An endless table of the rows that a Python function gives: `function(since, until)` yields `(rows, offset)`.

    It gives the rows behind the offset `since` (None: from the start) up to `until` (None: all that is there now), a
    piece at a time. `rows` are a `pl.DataFrame`, a list of dicts or a dict of lists, with exactly the columns of
    `schema`; `offset` is any JSON value but null that tells how far the input was read with them. The function ends
    when there is nothing more, and is called again later.

        def readings(since, until):
            for number in range(since or 0, until or newest()):
                yield [{"number": number, "value": measured(number)}], number + 1

    Exactly once needs a past that does not change: asked for the rows between two offsets again, after a crash and by
    another process too, the function must give the same. What cannot be asked for again (a socket) must be kept first,
    for instance in files that `scan_ndjson` reads. Other rows fail the query with SourceDataLostError.

    A batch ends with the piece that reaches `max_rows_per_trigger` (None: no limit). `end()` tells the last offset
    there is now, which an available-now run does not pass; without it, such a run ends when nothing more is given.
    """
    found = GeneratorSource(function, schema, end=end, max_rows_per_trigger=max_rows_per_trigger)
    return scan(found, name=name, watermark=watermark, idle_timeout=idle_timeout)


def scan_memory(
    feed: MemorySource, *, name: str | None = None, watermark: Watermark | None = None, idle_timeout: Timeout = None
) -> StreamFrame:
    """An endless table of the rows that are given to `feed.add`; for tests."""
    return scan(feed, name=name, watermark=watermark, idle_timeout=idle_timeout)


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
