"""What is asked? Each query is one function for bounded and unbounded tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import polars as pl

import unbounded as ub
from tests.benchmarks.events import Events, Input, campaigns

__all__ = ["DELAY", "LINES_SCHEMA", "QUERIES", "Query", "named", "scan", "scan_unbounded"]

DELAY = "10s"

LINES_SCHEMA = {
    **dict.fromkeys(("auction", "bidder", "price"), pl.Int64),
    **dict.fromkeys(("channel", "url", "dateTime", "extra"), pl.String),
}


@dataclass(frozen=True)
class Query:
    """`keys` identify a row of the answer, which an update may replace; a query without keys has one row.

    `ask` takes the `input`, and the one `beside` it if there is one, from which a batch reads as many files.

    `to` is where the answer goes: into files, or as rows to the program. `limit` is the fastest way known to ask plain
    Polars, where that is not `ask`. Rows are final once the watermark has reached the column `closes[0]` plus
    `closes[1]`: others are left out of the answers that are compared. `compared` are columns of the answer; an engine
    may choose the others.
    """

    name: str
    input: Input
    ask: Callable[..., Any]
    mode: Literal["append", "update"]
    to: Literal["files", "rows"] = "rows"
    keys: tuple[str, ...] = ()
    watermark: str | None = None
    limit: Callable[..., pl.LazyFrame] | None = None
    closes: tuple[str, timedelta] | None = None
    compared: tuple[str, ...] | None = None
    beside: Input | None = None

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it reads."""
        return (self.input,) if self.beside is None else (self.input, self.beside)

    @property
    def remembers(self) -> bool:
        """Whether the query has state."""
        return bool(self.keys) or self.to == "rows"


def _q1(bids: ub.FrameT) -> ub.FrameT:
    return bids.select("auction", "bidder", (pl.col("price") * 0.908).alias("price"), "dateTime", "extra")


def _q2(bids: ub.FrameT) -> ub.FrameT:
    return bids.filter(pl.col("auction") % 123 == 0).select("auction", "price")


def _ysb(views: ub.FrameT) -> ub.FrameT:
    return (
        views.filter(pl.col("event_type") == "view")
        .join(campaigns().lazy(), on="ad_id")
        .group_by("campaign_id", pl.col("event_time").dt.truncate("10s"))
        .agg(pl.len().alias("views"))
    )


def _group(bids: ub.FrameT) -> ub.FrameT:
    price = pl.col("price")
    return bids.group_by("bidder").agg(
        pl.len().alias("bids"),
        price.sum().alias("total"),
        price.min().alias("lowest"),
        price.max().alias("highest"),
        price.mean().alias("mean"),
    )


def _q5(bids: ub.StreamFrame) -> ub.StreamFrame:
    return bids.group_by_dynamic("dateTime", every="2s", period="10s", group_by="auction").agg(pl.len().alias("bids"))


def _q5_limit(bids: pl.LazyFrame) -> pl.LazyFrame:
    """Every slice of two seconds in its five windows: six times faster than Polars' own windows, which also leave out
    those that start before the first bid on an auction."""
    time = pl.col("dateTime")
    slices = bids.group_by("auction", time.dt.truncate("2s")).agg(pl.len().alias("bids"))
    windows = [slices.with_columns(time - timedelta(seconds=2 * i)) for i in range(5)]
    return pl.concat(windows).group_by("auction", "dateTime").agg(pl.col("bids").sum())


def _q8(persons: Any, auctions: Any) -> Any:
    """Who opened an auction in the ten seconds in which he came?"""
    window = pl.col("dateTime").dt.truncate("10s").alias("window")
    opened = auctions.select("seller", window, pl.col("id").alias("auction"), "initialBid")
    return persons.select("id", window).join(opened, left_on=["id", "window"], right_on=["seller", "window"])


def _dedup(bids: ub.FrameT) -> ub.FrameT:
    return bids.unique(["auction", "bidder"])


def _within(bids: ub.FrameT) -> ub.FrameT:
    """A bid of a bidder on an auction counts once in ten seconds, so that what repeats comes within the delay."""
    seconds = pl.col("dateTime").dt.epoch("ms") // 10_000
    timed = bids.with_columns(seconds.alias("ten_seconds"))
    return ub.unique_within_watermark(timed, ["auction", "bidder", "ten_seconds"])


def _within_limit(bids: pl.LazyFrame) -> pl.LazyFrame:
    """Any row of those that repeat, in any order, costs Polars less than the first ones in order."""
    seconds = pl.col("dateTime").dt.epoch("ms") // 10_000
    return bids.with_columns(seconds.alias("ten_seconds")).unique(["auction", "bidder", "ten_seconds"])


def _session(bids: ub.FrameT) -> ub.FrameT:
    sessions = ub.group_by_session(bids, "dateTime", gap="10s", group_by="bidder", include_boundaries=True)
    return sessions.len("bids").select("bidder", "dateTime", pl.col("_upper_boundary").alias("end"), "bids")


def _session_limit(bids: pl.LazyFrame) -> pl.LazyFrame:
    """With one gap for all, a session begins where the row before it in order is another bidder's, or too long ago."""
    bidder, time, gap = pl.col("bidder"), pl.col("dateTime"), timedelta(seconds=10)
    begins = bidder.ne_missing(bidder.shift()) | (time - time.shift() > gap)
    return (
        bids.sort("bidder", "dateTime")
        .with_columns(begins.cum_sum().alias("session"))
        .group_by("session")
        .agg(bidder.first(), time.min(), (time.max() + gap).alias("end"), pl.len().alias("bids"))
        .drop("session")
    )


def _global(bids: ub.FrameT) -> ub.FrameT:
    price = pl.col("price")
    return bids.select(pl.len().alias("bids"), price.sum().alias("total"), price.max().alias("highest"))


def _lines(bids: ub.FrameT) -> ub.FrameT:
    return bids.group_by("bidder").agg(pl.len().alias("bids"))


QUERIES = (
    Query("q1", "bids", _q1, "append", "files"),
    Query("q2", "bids", _q2, "append", "files"),
    Query("ysb", "views", _ysb, "update", keys=("campaign_id", "event_time"), watermark="event_time"),
    Query("group", "bids", _group, "update", keys=("bidder",)),
    Query(
        "q5",
        "bids",
        _q5,
        "append",
        keys=("auction", "dateTime"),
        watermark="dateTime",
        limit=_q5_limit,
        closes=("dateTime", timedelta(seconds=10)),
    ),
    Query("q8", "persons", _q8, "append", keys=("auction",), watermark="dateTime", beside="auctions"),
    Query(
        "dedup",
        "bids",
        _dedup,
        "append",
        "files",
        keys=("auction", "bidder"),
        watermark="dateTime",
        compared=("auction", "bidder"),
    ),
    Query(
        "within",
        "bids",
        _within,
        "append",
        "files",
        keys=("auction", "bidder", "ten_seconds"),
        watermark="dateTime",
        limit=_within_limit,
        compared=("auction", "bidder", "ten_seconds"),
    ),
    Query(
        "session",
        "bids",
        _session,
        "append",
        keys=("bidder", "dateTime"),
        watermark="dateTime",
        limit=_session_limit,
        closes=("end", timedelta()),
    ),
    Query("global", "bids", _global, "update"),
    Query("ndjson", "lines", _lines, "update", keys=("bidder",)),
)


def named(names: Sequence[str]) -> tuple[Query, ...]:
    """The queries of these names; of none, all. ValueError for a name that nobody has."""
    known = {query.name: query for query in QUERIES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no query {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in names) or QUERIES


def scan(query: Query, events: Events) -> list[pl.LazyFrame]:
    """What a query reads, as bounded tables."""
    paths = map(events.path, query.inputs)
    if query.input == "lines":
        return [pl.scan_ndjson(path, schema=LINES_SCHEMA) for path in paths]
    return [pl.scan_parquet(path) for path in paths]


def scan_unbounded(query: Query, events: Events, files: int) -> list[ub.StreamFrame]:
    """What a query reads, as unbounded tables, of each of which a batch reads so many files."""
    paths = map(events.path, query.inputs)
    watermark = (query.watermark, DELAY) if query.watermark is not None else None
    limits: dict[str, Any] = {"max_files_per_trigger": files, "max_bytes_per_trigger": None}
    if query.input == "lines":
        return [ub.scan_ndjson(path, schema=LINES_SCHEMA, **limits) for path in paths]
    return [ub.scan_parquet(path, watermark=watermark, **limits) for path in paths]
