"""How is a frame given to a sink, and by that, a query begun?"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, Final, TypedDict, Unpack, cast

import polars as pl

from unbounded.connectors import Mode, Sink, WatermarkPolicy, lacking
from unbounded.errors import PlanError, UnknownOptionError, UnsupportedOperationError
from unbounded.manager import await_end, is_awaited, start
from unbounded.plan import Node
from unbounded.running.handle import StreamingQuery
from unbounded.running.iteration import batches_of
from unbounded.sinks.console import ConsoleSink
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.sinks.files import FileSink
from unbounded.sinks.formats import OPTIONS, REFUSED, CsvOptions, Format, IpcOptions, NdjsonOptions, ParquetOptions
from unbounded.sinks.memory import MemorySink
from unbounded.state.homes import StateOptions
from unbounded.trigger import AvailableNow, ProcessingTime, Trigger

__all__ = [
    "BatchSinkOptions",
    "CollectOptions",
    "CsvSinkOptions",
    "IpcSinkOptions",
    "NdjsonSinkOptions",
    "ParquetSinkOptions",
    "SinkOptions",
    "Writable",
]


class SinkOptions(TypedDict, total=False):
    """What every sink takes."""

    checkpoint: str | os.PathLike[str] | None
    output_mode: Mode
    trigger: Trigger
    name: str | None
    state: str | StateOptions | None
    wait: bool | None
    watermark_policy: WatermarkPolicy | None
    reread_bounded: str | timedelta | None
    late: str | os.PathLike[str] | None


class ParquetSinkOptions(SinkOptions, ParquetOptions):
    """What `sink_parquet` takes."""


class CsvSinkOptions(SinkOptions, CsvOptions):
    """What `sink_csv` takes."""


class NdjsonSinkOptions(SinkOptions, NdjsonOptions):
    """What `sink_ndjson` takes."""


class IpcSinkOptions(SinkOptions, IpcOptions):
    """What `sink_ipc` takes."""


class CollectOptions(TypedDict, total=False):
    """What `collect_batches` takes."""

    maintain_order: bool
    lazy: bool
    output_mode: Mode
    trigger: Trigger
    watermark_policy: WatermarkPolicy | None
    reread_bounded: str | timedelta | None


class BatchSinkOptions(SinkOptions, total=False):
    """What `sink_batches` takes."""

    maintain_order: bool


_BY_CHUNK: Final = {
    **{name: REFUSED[name] for name in ("engine", "optimizations")},
    "chunk_size": (
        None,
        "a frame is a batch, as large as its sources make it",
        "max_bytes_per_trigger= or max_files_per_trigger= of the scan, or rows.iter_slices(n)",
    ),
}
_OF_A_LOOP = (
    None,
    "the query is the loop itself, and a loop that is left does not say whether it used its last rows",
    "foreach_batch(f, checkpoint=...)",
)
_COMMON: Final = tuple(SinkOptions.__annotations__)


class Writable:
    """The verbs that end a frame. All take the options of `sink`."""

    _plan: Node

    def sink(self, sink: Sink, **options: Unpack[SinkOptions]) -> StreamingQuery:
        """Begin a query that keeps `sink` up to date.

        checkpoint: a folder of the query's own, from which it continues; required but for sinks that
            remember nothing themselves (memory, console). A later start may have other steps of single rows, delays,
            triggers and bounded frames, which count from then on. Keys, windows, aggregates, conditions of joins, the
            mode and the sink are what its state and its answer are made of: if they change, it is refused.
        output_mode: "append" (default: final rows, each once), "update" (the new rows of the keys a batch touched, at
            once and again when they change; what a watermark has closed keeps its last row, and is forgotten here) or
            "complete" (the whole answer in every batch: nothing is forgotten, and no group closes). A sink that keeps
            a table (files, memory) replaces the row of a key; a function and the console see each of its versions.
        trigger: `ub.processing_time("5s")` (default "0s": at once, for ever), `ub.available_now()`,
            `ub.once()`.
        name: for messages and `ub.streams`. A run of this process under the same name or on the same
            checkpoint is stopped after its batch, and replaced.
        state: where operators remember: "memory" (default; in the process, durable in the checkpoint), "files" (more
            than fits into memory), "sqlite" or "postgresql://user:password@host/database" (tables that others can
            read), or one of these with options, `ub.files_state("512MB")`. A checkpoint keeps the home it began with,
            until `ub.move_state`.
        wait: whether to wait for the end; by default where the trigger ends by itself.
        watermark_policy: with several watermarks, whether the slowest input decides what is late ("min", the
            default, once each has sent rows) or the fastest ("max"). The first start of a checkpoint decides it.

        reread_bounded: when the bounded side of a join is read again: "batch" (before every batch), or how old it
            may be, "10m"; by default only at the next start. A row is joined with what was read for its batch, and a
            batch that is run again after a crash with what is there then. A frame of `ub.read_sink` stays as it was.

        late: a folder for the rows that came too late, which are counted in any case, and are lost without it: Parquet
            files in a folder for each step that found some late, `late/aggregate-1/*.parquet`, and of a join for each
            side, `late/join-1/left/*.parquet`. A row is as it came to that step, with `_operator`, the `_watermark` it
            came behind, and the label of the `_window` for which it was late; once for each of these. Exactly once,
            whatever the sink is.

        Raises PlanError with all reasons if the plan cannot be kept in this mode, CheckpointError if the
        checkpoint does not fit, and, if it waits, the query's own error.
        """
        unknown = set(options) - set(_COMMON)
        if unknown:
            raise UnknownOptionError(min(unknown), "sink", _COMMON)
        if missing := lacking(sink, Sink):
            write = f"sink_parquet({sink!r}, checkpoint=...)" if isinstance(sink, str | os.PathLike) else "sink(a Sink)"
            raise PlanError(
                f"sink({sink!r}): a {type(sink).__name__} is no sink; it lacks {missing}. Write {write}, or for a "
                "function foreach_batch(function); help(ub.Sink) says what a sink of your own must have"
            )
        return start(
            self._plan,
            sink,
            checkpoint=options.get("checkpoint"),
            mode=options.get("output_mode", "append"),
            trigger=options.get("trigger", ProcessingTime(0.0)),
            name=options.get("name"),
            state=options.get("state"),
            wait=options.get("wait"),
            watermark_policy=options.get("watermark_policy"),
            reread_bounded=options.get("reread_bounded"),
            late=options.get("late"),
        )

    def sink_parquet(
        self,
        path: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
        **options: Unpack[ParquetSinkOptions],
    ) -> StreamingQuery:
        """Write Parquet files into the folder `path`, exactly once; read them back with `ub.read_sink(path)`.

        In append mode on a local disk, `pl.scan_parquet(path)` and other readers of the folder are right at any
        moment. `partition_by` columns make hive folders, and stay in the files; `storage_options` are fsspec's.
        Other options as for `sink`, and those of Polars that say how one file is written:

        compression='zstd', compression_level=None, statistics=True, row_group_size=None, data_page_size=None,
        metadata=None.

        Raises UnknownOptionError for a misspelt option and UnsupportedOperationError for one of Polars' that files
        of batches cannot have, such as `lazy=True` or `encryption`. Rows are in order, folders made and files
        synced, whatever `maintain_order`, `mkdir` and `sync_on_close` say.
        """
        return self._sink_files("parquet", path, partition_by, storage_options, options)

    def sink_csv(
        self,
        path: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
        **options: Unpack[CsvSinkOptions],
    ) -> StreamingQuery:
        """Write CSV files into the folder `path`, as `sink_parquet` does; `ub.read_sink` knows how to read them.

        include_bom=False, compression='uncompressed', compression_level=None, check_extension=True,
        include_header=True, separator=',', line_terminator='\\n', quote_char='"', batch_size=1024,
        float_scientific=None, float_precision=None, decimal_comma=False, null_value=None, quote_style=None.

        Refused is what would not read back as it was: formats of times, files without quotes, a `null_value` that
        is also a value.
        """
        return self._sink_files("csv", path, partition_by, storage_options, options)

    def sink_ndjson(
        self,
        path: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
        **options: Unpack[NdjsonSinkOptions],
    ) -> StreamingQuery:
        """Write newline-delimited JSON files into the folder `path`, as `sink_parquet` does.

        compression='uncompressed', compression_level=None, check_extension=True.
        """
        return self._sink_files("ndjson", path, partition_by, storage_options, options)

    def sink_ipc(
        self,
        path: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
        **options: Unpack[IpcSinkOptions],
    ) -> StreamingQuery:
        """Write Arrow IPC files into the folder `path`, as `sink_parquet` does.

        compression='uncompressed', compat_level=None, record_batch_size=None.
        """
        return self._sink_files("ipc", path, partition_by, storage_options, options)

    def _sink_files(
        self,
        format: Format,
        path: str | os.PathLike[str],
        partition_by: str | Sequence[str],
        storage_options: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> StreamingQuery:
        own = {name: value for name, value in options.items() if name not in _COMMON}
        if unknown := own.keys() - OPTIONS[format] - REFUSED.keys():
            valid = {"partition_by", "storage_options", *_COMMON, *OPTIONS[format]}
            raise UnknownOptionError(min(unknown), f"sink_{format}", valid)
        columns = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by)
        sink = FileSink(path, format, partition_by=columns, storage_options=storage_options, options=own)
        common = {name: value for name, value in options.items() if name in _COMMON}
        return self.sink(sink, **cast("SinkOptions", common))

    def sink_memory(self, **options: Unpack[SinkOptions]) -> StreamingQuery:
        """Keep the answer in this process; look at it with `query.read()`. Options as for `sink`."""
        return self.sink(MemorySink(), **options)

    def sink_console(self, *, rows: int = 20, **options: Unpack[SinkOptions]) -> StreamingQuery:
        """Print up to `rows` rows of every batch. Options as for `sink`."""
        return self.sink(ConsoleSink(rows), **options)

    def foreach_batch(
        self, function: Callable[[pl.DataFrame, int], None], **options: Unpack[SinkOptions]
    ) -> StreamingQuery:
        """Call `function(rows, batch_id)` once per batch, in order, in one thread, also with zero rows.

        At least once: after a crash the last batch comes again with the same rows and the same `batch_id`, so
        `(query.id, batch_id)` tells a repetition. Options as for `sink`.
        """
        return self.sink(EachBatchSink(function), **options)

    def sink_batches(
        self, function: Callable[[pl.DataFrame], bool | None], **options: Unpack[BatchSinkOptions]
    ) -> StreamingQuery:
        """Call `function(rows)` once per batch, until it returns True, as Polars does; `foreach_batch` without numbers.

        After True the batch is committed and the query stops. At least once, as `foreach_batch`. Options as for
        `sink`; `chunk_size`, `lazy`, `engine` and `optimizations` of Polars are refused, rows are always in order.
        """
        _check("sink_batches", options, {**_BY_CHUNK, "lazy": REFUSED["lazy"]}, BatchSinkOptions)
        _check_takes_rows(function)
        begun: Future[StreamingQuery] = Future()

        def each(rows: pl.DataFrame, batch_id: int) -> None:
            answer: object = function(rows)
            if answer is True:
                begun.result().stop()
            return None if isinstance(answer, bool) else answer  # type: ignore[return-value]  # and is refused

        each.__name__ = getattr(function, "__name__", repr(function))
        common = {name: value for name, value in options.items() if name in _COMMON}
        query = self.foreach_batch(each, **cast("SinkOptions", {**common, "wait": False}))
        begun.set_result(query)
        if is_awaited(options.get("trigger"), options.get("wait")):
            await_end(query)
        return query

    def collect_batches(self, **options: Unpack[CollectOptions]) -> Generator[pl.DataFrame, None, None]:
        """One frame for each batch, also without rows: `for rows in frame.collect_batches(): ...`.

        The query runs in the loop: a batch when its frame is asked for, its errors where the loop is, until the
        trigger ends it, by default with what is there now, or the loop is left. Then nothing of it remains; to
        continue where a loop stopped, use `foreach_batch` with a checkpoint.

        lazy: whether the query starts with the first frame that is asked for (True) or now (False, the default).
        trigger: `ub.available_now()` by default; `ub.processing_time("5s")` gives frames without end.
        output_mode, watermark_policy, reread_bounded: as for `sink`; "update" gives the new rows of the keys that a
            batch touched, "complete" the whole answer each time.

        `chunk_size`, `engine` and `optimizations` of Polars are refused; rows are always in order.
        """
        loop = dict.fromkeys(("checkpoint", "name", "state", "wait"), _OF_A_LOOP)
        _check("collect_batches", options, {**_BY_CHUNK, **loop}, CollectOptions)
        return batches_of(
            self._plan,
            mode=options.get("output_mode", "append"),
            trigger=options.get("trigger", AvailableNow()),
            watermark_policy=options.get("watermark_policy"),
            reread_bounded=options.get("reread_bounded"),
            lazy=options.get("lazy", False),
        )


def _check(
    function: str, options: Mapping[str, object], refused: Mapping[str, tuple[object, str, str]], valid: type
) -> None:
    """UnsupportedOperationError for an option of Polars that has no meaning here, UnknownOptionError for no option."""
    for option, value in options.items():
        if option in refused:
            nothing, because, instead = refused[option]
            if value != nothing:
                raise UnsupportedOperationError(f"{function}({option}={value!r})", because=because, instead=instead)
        elif option not in valid.__annotations__:
            raise UnknownOptionError(option, function, valid.__annotations__)


def _check_takes_rows(function: Callable[[pl.DataFrame], object]) -> None:
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        raise PlanError(
            f"sink_batches needs a function (rows), not {function!r}. Pass def write(rows) -> None; for the number of "
            "the batch too, use foreach_batch with def write(rows, batch_id)"
        ) from None
