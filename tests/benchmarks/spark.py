"""How long does Spark Structured Streaming take for the same queries over the same files?

One session in a process of its own answers all of them, as Spark is used: `start` once, then `spark_run`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import polars as pl

from tests.benchmarks.answers import MODULUS, Answer, answer_of, weight_of
from tests.benchmarks.events import Events, Input, campaigns
from tests.benchmarks.processes import peak_memory
from tests.benchmarks.queries import Query, named
from tests.benchmarks.runs import BATCHES, Run, size_of

__all__ = ["STORES", "Store", "missing", "spark_run", "start", "stop"]

Store = Literal["HDFSBacked", "RocksDB"]
STORES: tuple[Store, ...] = ("HDFSBacked", "RocksDB")

_PROVIDERS = "org.apache.spark.sql.execution.streaming.state"
_DELAY = "10 seconds"
_SCHEMAS: Mapping[Input, str] = {
    "bids": "auction LONG, bidder LONG, price LONG, channel STRING, url STRING, dateTime TIMESTAMP, extra STRING",
    "auctions": "id LONG, seller LONG, category LONG, initialBid LONG, dateTime TIMESTAMP, itemName STRING",
    "persons": "id LONG, name STRING, emailAddress STRING, city STRING, dateTime TIMESTAMP",
    "views": "ad_id LONG, event_type STRING, event_time TIMESTAMP",
    "lines": "auction LONG, bidder LONG, price LONG, channel STRING, url STRING, dateTime STRING, extra STRING",
}

_session: Any = None  # one a process


def missing() -> str | None:
    """What Spark lacks here, and how to get it; None if it is there."""
    if importlib.util.find_spec("pyspark") is None:
        return "pyspark is not installed: pip install 'unbounded[spark]'"
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        return "pyspark needs Java 17: there is no `java`, and JAVA_HOME is not set"
    return None


def start(events: Events, folder: Path) -> str:
    """Begin the session, answer one query over few events to warm it up, and tell its version."""
    global _session
    folder.mkdir(parents=True)
    with open(folder / "log", "wb") as log:  # what the JVM has to say at its start
        os.dup2(log.fileno(), sys.stderr.fileno())
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    settings = {
        "spark.driver.memory": "4g",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "OFF",
    }
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[2]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    _session = builder.getOrCreate()
    spark_run(named(["group"])[0], events, folder / "warm-up", "HDFSBacked")
    return str(_session.version)


def stop() -> float:
    """End the session; gives the most megabytes that its JVM held, over all queries."""
    jvm = int(_session.sparkContext._jvm.java.lang.ProcessHandle.current().pid())
    peak = peak_memory(jvm) / 1e6
    _session.stop()
    return peak


def spark_run(query: Query, events: Events, folder: Path, store: Store) -> Run:
    """Ten batches with a checkpoint, until everything there is read; Spark's own times of batches."""
    folder.mkdir(parents=True)
    provider = f"{store}StateStoreProvider" if store == "HDFSBacked" else "RocksDBStateStoreProvider"
    _session.conf.set("spark.sql.streaming.stateStore.providerClass", f"{_PROVIDERS}.{provider}")
    begin = perf_counter()
    asked = _ASKED[query.name](*(_read(query, name, events) for name in query.inputs))
    begun = _written(query, asked, folder).trigger(availableNow=True).start()
    begun.awaitTermination()
    seconds = perf_counter() - begin
    progress = [each for each in begun.recentProgress if each.numInputRows]
    found = Run(
        seconds,
        _answer(query, begun, folder),
        batch_ms=[float(each.durationMs["triggerExecution"]) for each in progress],
        checkpoint_bytes=size_of(folder / "checkpoint"),
    )
    shutil.rmtree(folder)
    return found


def _read(query: Query, name: Input, events: Events) -> Any:
    rows = (
        _session.readStream.schema(_SCHEMAS[name])
        .option("maxFilesPerTrigger", events.per_batch(name, BATCHES))
        .format("json" if name == "lines" else "parquet")
        .load(str(events.path(name)))
    )
    return rows if query.watermark is None else rows.withWatermark(query.watermark, _DELAY)


def _written(query: Query, asked: Any, folder: Path) -> Any:
    """Where the answer goes: into files; if rows are only added, nowhere, counted as they pass; else into memory."""
    functions = importlib.import_module("pyspark.sql.functions")
    if query.to == "files":
        written = asked.writeStream.format("parquet").option("path", str(folder / "out"))
    elif query.mode == "append":
        written = asked.observe("answer", *_observed(asked, functions)).writeStream.format("noop")
    else:
        written = asked.writeStream.format("memory").queryName("answer")
    return written.outputMode(query.mode).option("checkpointLocation", str(folder / "checkpoint"))


def _observed(asked: Any, functions: Any) -> list[Any]:
    """What `answer_of` finds of the same rows, which have no texts and no floats."""
    each = functions.lit(0)
    for place, (name, dtype) in enumerate(sorted(asked.dtypes)):
        column = functions.unix_millis(name) if dtype == "timestamp" else functions.col(name)
        each += column % MODULUS * weight_of(place)
    each = each % MODULUS
    return [functions.count("*").alias("rows"), functions.sum(each * each % MODULUS).alias("checksum")]


def _answer(query: Query, begun: Any, folder: Path) -> Answer:
    if query.to == "files":
        rows = pl.scan_parquet(folder / "out" / "*.parquet")
        return answer_of(rows.select(query.compared) if query.compared else rows)
    if query.mode == "append":
        observed = [each.observedMetrics["answer"] for each in begun.recentProgress]
        return Answer(sum(each.rows for each in observed), sum(each.checksum or 0 for each in observed))
    changes = pl.from_arrow(_session.table("answer").toArrow())
    assert isinstance(changes, pl.DataFrame)
    counts = next(name for name in ("bids", "views") if name in changes.columns)  # these only rise
    latest = changes.lazy().sort(counts).unique(query.keys or None, keep="last", maintain_order=True)
    return answer_of(latest if query.keys else latest.tail(1))


def _q1(bids: Any) -> Any:
    return bids.selectExpr("auction", "bidder", "price * 0.908D AS price", "dateTime", "extra")


def _q2(bids: Any) -> Any:
    return bids.where("auction % 123 = 0").select("auction", "price")


def _ysb(views: Any) -> Any:
    table = _session.createDataFrame(campaigns().rows(), "ad_id LONG, campaign_id LONG")
    functions = importlib.import_module("pyspark.sql.functions")
    return (
        views.where("event_type = 'view'")
        .join(functions.broadcast(table), "ad_id")
        .groupBy("campaign_id", functions.window("event_time", "10 seconds"))
        .agg(functions.count("*").alias("views"))
        .selectExpr("campaign_id", "window.start AS event_time", "views")
    )


def _group(bids: Any) -> Any:
    functions = importlib.import_module("pyspark.sql.functions")
    return bids.groupBy("bidder").agg(
        functions.count("*").alias("bids"),
        functions.sum("price").alias("total"),
        functions.min("price").alias("lowest"),
        functions.max("price").alias("highest"),
        functions.avg("price").alias("mean"),
    )


def _q5(bids: Any) -> Any:
    functions = importlib.import_module("pyspark.sql.functions")
    return (
        bids.groupBy("auction", functions.window("dateTime", "10 seconds", "2 seconds"))
        .agg(functions.count("*").alias("bids"))
        .selectExpr("auction", "window.start AS dateTime", "bids")
    )


def _q8(persons: Any, auctions: Any) -> Any:
    functions = importlib.import_module("pyspark.sql.functions")
    window = functions.window("dateTime", "10 seconds")
    came = persons.select("id", window.alias("came"))
    opened = auctions.select("seller", functions.col("id").alias("auction"), "initialBid", window.alias("opened"))
    return came.join(opened, functions.expr("id = seller AND came = opened")).selectExpr(
        "id", "came.start AS window", "auction", "initialBid"
    )


def _dedup(bids: Any) -> Any:
    return bids.dropDuplicates(["auction", "bidder"])


def _within(bids: Any) -> Any:
    seconds = "unix_millis(dateTime) DIV 10000 AS ten_seconds"
    return bids.selectExpr("*", seconds).dropDuplicatesWithinWatermark(["auction", "bidder", "ten_seconds"])


def _by_session(bids: Any) -> Any:
    functions = importlib.import_module("pyspark.sql.functions")
    return (
        bids.groupBy("bidder", functions.session_window("dateTime", "10 seconds"))
        .agg(functions.count("*").alias("bids"))
        .selectExpr("bidder", "session_window.start AS dateTime", "session_window.end AS end", "bids")
    )


def _global(bids: Any) -> Any:
    return bids.selectExpr("count(*) AS bids", "sum(price) AS total", "max(price) AS highest")


def _lines(bids: Any) -> Any:
    return bids.groupBy("bidder").agg(importlib.import_module("pyspark.sql.functions").count("*").alias("bids"))


_ASKED: Mapping[str, Callable[..., Any]] = {
    "q1": _q1,
    "q2": _q2,
    "ysb": _ysb,
    "group": _group,
    "q5": _q5,
    "q8": _q8,
    "dedup": _dedup,
    "within": _within,
    "session": _by_session,
    "global": _global,
    "ndjson": _lines,
}
