"""Which events do the benchmarks read? Nexmark's bids and Yahoo's advertising events, the same for a seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

__all__ = ["ADS_PER_CAMPAIGN", "CAMPAIGNS", "Events", "campaigns", "generate"]

EVENTS_PER_SECOND = 10_000  # of event time
CAMPAIGNS, ADS_PER_CAMPAIGN = 100, 10

# Nexmark: of 50 events one is a person, three are auctions, the rest are bids on them.
_CYCLE, _AUCTIONS, _FIRST_BID = 50, 3, 4
_IN_FLIGHT_AUCTIONS, _ACTIVE_BIDDERS = 100, 1_000
_CHANNELS = ("Apple", "Google", "Facebook", "Baidu")
_START = np.datetime64("2026-01-01T00:00:00", "ms")


@dataclass(frozen=True)
class Events:
    """Two folders of Parquet files; `rows` of each kind."""

    bids: Path
    views: Path
    files: int
    rows: dict[str, int]


def campaigns() -> pl.DataFrame:
    """The bounded table of the ysb query: which campaign an ad belongs to."""
    ads = pl.int_range(CAMPAIGNS * ADS_PER_CAMPAIGN, eager=True).alias("ad_id")
    return pl.DataFrame({"ad_id": ads, "campaign_id": ads // ADS_PER_CAMPAIGN})


def generate(folder: Path, events: int, files: int, seed: int = 0) -> Events:
    """Write `events` events of each benchmark, in order of event time, into `files` files each."""
    found = Events(folder / "bids", folder / "views", files, {"bids": 0, "views": 0})
    for name, make in (("bids", _bids), ("views", _views)):
        (folder / name).mkdir()
        for i, numbers in enumerate(np.array_split(np.arange(events), files)):
            rows = make(numbers, np.random.default_rng((seed, i)))
            rows.write_parquet(folder / name / f"{i:05}.parquet", compression="snappy")
            found.rows[name] += rows.height
    return found


def _times(numbers: np.ndarray) -> np.ndarray:
    return _START + (numbers * 1_000 // EVENTS_PER_SECOND).astype("timedelta64[ms]")


def _bids(numbers: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    """Half of the bids go to the hottest auction of the moment, three quarters come from the hottest bidder."""
    numbers = numbers[numbers % _CYCLE >= _FIRST_BID]
    size = len(numbers)
    last_auction, last_person = numbers // _CYCLE * _AUCTIONS, numbers // _CYCLE
    auction = np.where(
        random.random(size) < 0.5,
        last_auction // 100 * 100,
        np.maximum(last_auction - random.integers(0, _IN_FLIGHT_AUCTIONS, size), 0),
    )
    bidder = np.where(
        random.random(size) < 0.75,
        last_person // 100 * 100,
        np.maximum(last_person - random.integers(0, _ACTIVE_BIDDERS, size), 0),
    )
    channel = random.integers(0, len(_CHANNELS), size)
    return pl.DataFrame(
        {
            "auction": auction,
            "bidder": bidder,
            "price": np.round(10 ** (random.random(size) * 6)).astype(np.int64),
            "channel": np.array(_CHANNELS, dtype=object)[channel],
            "item": random.integers(0, 10_000_000, size),
            "extra": random.integers(0, 2**63, size),
            "dateTime": _times(numbers),
        },
        schema_overrides={"channel": pl.String},
    ).select(
        "auction",
        "bidder",
        "price",
        "channel",
        pl.format("https://www.nexmark.com/{}/item.htm?query=1&channel_id={}", "channel", "item").alias("url"),
        "dateTime",
        pl.format("{}", "extra").alias("extra"),
    )


def _views(numbers: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    size = len(numbers)
    kinds = np.array(["view", "click", "purchase"], dtype=object)
    return pl.DataFrame(
        {
            "ad_id": random.integers(0, CAMPAIGNS * ADS_PER_CAMPAIGN, size),
            "event_type": kinds[random.integers(0, 3, size)],
            "event_time": _times(numbers),
        },
        schema_overrides={"event_type": pl.String},
    )
