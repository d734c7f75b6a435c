"""What is asked? Four queries, each one function for bounded and unbounded tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

import unbounded as ub
from tests.benchmarks.events import Events, campaigns

__all__ = ["QUERIES", "Query", "one_shot", "unbounded_run"]

BATCHES = 10


@dataclass(frozen=True)
class Query:
    """`keys` identify a row of the answer; a query without keys has one row. `file_to_file` writes what it finds."""

    name: str
    input: Literal["bids", "views"]
    ask: Callable[[Any], Any]
    keys: tuple[str, ...] = ()
    watermark: tuple[str, str] | None = None
    file_to_file: bool = False


def _q1(bids: ub.FrameT) -> ub.FrameT:
    return bids.select("auction", "bidder", (pl.col("price") * 0.908).alias("price"), "dateTime", "extra")


def _group(bids: ub.FrameT) -> ub.FrameT:
    price = pl.col("price")
    return bids.group_by("bidder").agg(
        pl.len().alias("bids"),
        price.sum().alias("total"),
        price.min().alias("lowest"),
        price.max().alias("highest"),
        price.mean().alias("mean"),
    )


def _ysb(views: ub.FrameT) -> ub.FrameT:
    return (
        views.filter(pl.col("event_type") == "view")
        .join(campaigns().lazy(), on="ad_id")
        .group_by("campaign_id", pl.col("event_time").dt.truncate("10s"))
        .agg(pl.len().alias("views"))
    )


def _global(bids: ub.FrameT) -> ub.FrameT:
    price = pl.col("price")
    return bids.select(pl.len().alias("bids"), price.sum().alias("total"), price.max().alias("highest"))


QUERIES = (
    Query("q1", "bids", _q1, file_to_file=True),
    Query("group", "bids", _group, keys=("bidder",)),
    Query("ysb", "views", _ysb, keys=("campaign_id", "event_time"), watermark=("event_time", "10s")),
    Query("global", "bids", _global),
)


def one_shot(query: Query, events: Events, folder: Path) -> pl.LazyFrame:
    """Plain Polars over all files at once, in the streaming engine. The limit."""
    answer: pl.LazyFrame = query.ask(pl.scan_parquet(getattr(events, query.input)))
    if query.file_to_file:
        (folder / "out").mkdir()
        answer.sink_parquet(folder / "out" / "all.parquet", engine="streaming")
        return pl.scan_parquet(folder / "out")
    return answer.collect(engine="streaming").lazy()


def unbounded_run(query: Query, events: Events, folder: Path) -> pl.LazyFrame:
    """The same files in ten micro-batches, with a durable checkpoint, until everything there is read."""
    frame = query.ask(
        ub.scan_parquet(
            getattr(events, query.input), watermark=query.watermark, max_files_per_trigger=-(-events.files // BATCHES)
        )
    )
    if query.file_to_file:
        frame.sink_parquet(folder / "out", checkpoint=folder / "checkpoint", trigger=ub.available_now())
        return pl.scan_parquet(folder / "out")

    changes: list[pl.DataFrame] = []

    def keep(rows: pl.DataFrame, _batch: int) -> None:
        changes.append(rows)

    frame.foreach_batch(keep, checkpoint=folder / "checkpoint", output_mode="update", trigger=ub.available_now())
    if query.keys:
        return pl.concat(changes).lazy().unique(query.keys, keep="last", maintain_order=True)
    return changes[-1].lazy()
