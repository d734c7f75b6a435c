"""How is a frame written by those who come from Spark? `frame.write_stream`, over the same sinks.

(frame.write_stream.format("parquet").outputMode("append").option("checkpointLocation", "ckpt/")
      .trigger(processingTime="5 seconds").start("out/"))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol, Unpack, cast

import polars as pl

from unbounded.connectors import Mode, Sink
from unbounded.errors import PlanError, UnsupportedOperationError, nearest
from unbounded.running.handle import StreamingQuery
from unbounded.sinks.console import ConsoleSink
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.sinks.files import FileSink
from unbounded.sinks.memory import MemorySink
from unbounded.spark.options import FORMATS, WRITING, understood
from unbounded.trigger import Trigger, available_now, once, processing_time
from unbounded.verbs.writing import SinkOptions

__all__ = ["DataStreamWriter", "Sinkable", "SparkWritable"]

_OF_QUERIES = tuple(SinkOptions.__annotations__)
_FILE_FORMATS = {"parquet": "parquet", "csv": "csv", "json": "ndjson"}
_SPARK_DEFAULTS = {"csv": {"include_header": False}}


class Sinkable(Protocol):
    """A frame that can be given to a sink."""

    def sink(self, sink: Sink, **options: Unpack[SinkOptions]) -> StreamingQuery: ...


@dataclass(frozen=True)
class DataStreamWriter:
    """What `frame.write_stream` gives: a sink described step by step. Immutable; each call gives a new one.

    Spark's names, options and defaults (format parquet, csv without a header, append mode), also in snake_case. The
    options of a format are checked at `start`, which never waits.
    """

    _frame: Sinkable
    _format: str = "parquet"
    _mode: str = "append"
    _options: Mapping[str, Any] = field(default_factory=dict)
    _partitions: tuple[str, ...] = ()
    _name: str | None = None
    _trigger: Trigger | None = None
    _each: Callable[[pl.DataFrame, int], None] | None = None

    def format(self, source: str) -> DataStreamWriter:
        """What is written: "parquet" (Spark's default), "csv", "json", "console", "memory" or "noop"."""
        return replace(self, _format=source)

    def output_mode(self, output_mode: str) -> DataStreamWriter:
        """ "append" (the default), "update" or "complete", in any case."""
        return replace(self, _mode=output_mode)

    def option(self, key: str, value: Any) -> DataStreamWriter:
        """One of Spark's options of the format, or `checkpointLocation`; a later value replaces an earlier one."""
        return self.options(**{key: value})

    def options(self, **options: Any) -> DataStreamWriter:
        """Several options at once."""
        return replace(self, _options={**self._options, **options})

    def partition_by(self, *cols: str | Sequence[str]) -> DataStreamWriter:
        """Columns of whose values folders are made."""
        names = [name for one in cols for name in ([one] if isinstance(one, str) else one)]
        return replace(self, _partitions=tuple(names))

    def query_name(self, query_name: str) -> DataStreamWriter:
        """The name of the query, for messages and `ub.streams`."""
        return replace(self, _name=query_name)

    def trigger(
        self,
        *,
        processingTime: str | None = None,
        once: bool | None = None,
        continuous: str | None = None,
        availableNow: bool | None = None,
        realTime: str | None = None,
        processing_time: str | None = None,
        available_now: bool | None = None,
    ) -> DataStreamWriter:
        """When batches start; exactly one of Spark's. Without a call, as soon as rows come."""
        return replace(
            self,
            _trigger=_trigger(
                processingTime=processingTime if processing_time is None else processing_time,
                once=once,
                continuous=continuous,
                availableNow=availableNow if available_now is None else available_now,
                realTime=realTime,
            ),
        )

    def foreach_batch(self, func: Callable[[pl.DataFrame, int], None]) -> DataStreamWriter:
        """Call `func(rows, batch_id)` once per batch, with a `pl.DataFrame`; see `StreamFrame.foreach_batch`."""
        return replace(self, _each=func, _format="foreachBatch")

    def foreach(self, f: object) -> NoReturn:
        """Refused: a call per row."""
        raise UnsupportedOperationError(
            "write_stream.foreach(f)",
            because="a Python call per row is slow, and rows of one batch belong together after a crash",
            instead="foreachBatch(function), where function(rows, batch_id) may loop over rows.iter_rows(named=True)",
        )

    def cluster_by(self, *cols: str) -> NoReturn:
        """Refused: a layout of Spark's tables."""
        raise UnsupportedOperationError(
            f"write_stream.clusterBy({', '.join(map(repr, cols))})",
            because="files are written batch by batch, in the order of the rows",
            instead="partitionBy(...), for a folder per value",
        )

    def start(
        self,
        path: str | os.PathLike[str] | None = None,
        format: str | None = None,
        outputMode: str | None = None,
        partitionBy: str | Sequence[str] | None = None,
        queryName: str | None = None,
        **options: Any,
    ) -> StreamingQuery:
        """Begin the query and return at once, whatever the trigger; `query.awaitTermination()` waits.

        Raises as `StreamFrame.sink` does; UnknownOptionError for an option that the format does not have.
        """
        asked = self.options(**options)
        asked = replace(
            asked,
            _format=format or asked._format,
            _mode=outputMode or asked._mode,
            _name=queryName or asked._name,
        )
        if partitionBy is not None:
            asked = asked.partition_by(partitionBy)
        if path is not None:
            asked = asked.option("path", os.fspath(path))
        return asked._start()

    def _start(self) -> StreamingQuery:
        call = f"write_stream.format({self._format!r})"
        name = next((known for known in WRITING if known.lower() == self._format.lower()), None)
        if name is None:
            raise _unknown(self._format, call)
        found = understood(self._options, WRITING[name], call)
        common: dict[str, Any] = {one: found.pop(one) for one in _OF_QUERIES if one in found}
        sink = self._sink(name, found.pop("path", None), found)
        if sink.guarantee != "none" and "checkpoint" not in common:
            raise PlanError(
                f"{call} needs a checkpoint to continue where it stopped. Write .option('checkpointLocation', "
                "'ckpt/<name>'), a folder of its own for this query"
            )
        if self._name is not None:
            common["name"] = self._name
        if self._trigger is not None:
            common["trigger"] = self._trigger
        mode = cast("Mode", self._mode.lower())
        return self._frame.sink(sink, output_mode=mode, wait=False, **common)

    def _sink(self, name: str, path: str | None, options: Mapping[str, Any]) -> Sink:
        if name in _FILE_FORMATS:
            if path is None:
                raise PlanError(
                    f"write_stream.format({name!r}) has no place. Write .start(path), or .option('path', ...)"
                )
            wanted = {**_SPARK_DEFAULTS.get(name, {}), **options}
            return FileSink(path, _FILE_FORMATS[name], partition_by=self._partitions, options=wanted)
        for given, what in ((path, "a path"), (self._partitions, "partitionBy")):
            if given:
                raise PlanError(f"write_stream.format({name!r}) has no files, so {what} means nothing. Leave it out")
        match name:
            case "console":
                return ConsoleSink(**options)
            case "memory":
                return MemorySink()
            case "noop":
                return EachBatchSink(_nothing)
        if self._each is None:
            raise PlanError("write_stream.format('foreachBatch') has no function. Write .foreachBatch(function)")
        return EachBatchSink(self._each)

    def to_table(self, table_name: str, *args: Any, **options: Any) -> NoReturn:
        """Refused: there is no catalogue of tables."""
        raise UnsupportedOperationError(
            f"write_stream.toTable({table_name!r})",
            because="there is no catalogue of tables, only files",
            instead=f"start({table_name + '/'!r}), and ub.read_sink({table_name + '/'!r}) to read it",
        )

    outputMode, partitionBy, queryName = output_mode, partition_by, query_name
    foreachBatch, clusterBy, toTable = foreach_batch, cluster_by, to_table


class SparkWritable:
    """The verb that ends a frame in Spark's spelling."""

    @property
    def write_stream(self: Sinkable) -> DataStreamWriter:
        """Describe a sink as in Spark: `.format(...).option(...).outputMode(...).start(path)`."""
        return DataStreamWriter(self)

    writeStream = write_stream


def _nothing(rows: pl.DataFrame, batch_id: int) -> None:
    """What a noop sink does with a batch."""


def _unknown(format: str, call: str) -> PlanError:
    if format.lower() in FORMATS:
        return UnsupportedOperationError(call, because="it is not built", instead=FORMATS[format.lower()])
    return PlanError(f"{call} is not known{nearest(format, WRITING) or '.'} Write one of {', '.join(WRITING)}")


def _trigger(**given: Any) -> Trigger:
    """The trigger that exactly one of Spark's arguments names."""
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise PlanError(
            f"trigger({', '.join(f'{name}={value!r}' for name, value in named.items())}) must name exactly one. Write "
            "trigger(processingTime='5 seconds') or trigger(availableNow=True)"
        )
    ((name, value),) = named.items()
    match name:
        case "processingTime":
            return processing_time(value)
        case "availableNow" | "once" if value is not True:
            raise PlanError(f"trigger({name}={value!r}) says what not to do. Write trigger({name}=True), or no trigger")
        case "availableNow":
            return available_now()
        case "once":
            return once()
    raise UnsupportedOperationError(
        f"trigger({name}={value!r})",
        because="rows are taken in micro-batches",
        instead="trigger(processingTime='0 seconds'), which starts a batch as soon as rows come",
    )
