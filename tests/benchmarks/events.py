"""Which events do the benchmarks read? Nexmark's and Yahoo's advertising events, the same for a seed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

__all__ = ["ADS_PER_CAMPAIGN", "CAMPAIGNS", "Events", "Input", "campaigns", "generate"]

Input = Literal["bids", "auctions", "persons", "views", "lines"]
"""Nexmark's bids, auctions and persons and Yahoo's views as Parquet; the first of the bids as lines of JSON."""

CAMPAIGNS, ADS_PER_CAMPAIGN = 100, 10
LINES = 1_000_000  # events of which the bids are also written as ndjson: text is read for its parser alone

# Nexmark: of 50 events one is a person, three are auctions, the rest are bids on them.
_CYCLE, _AUCTIONS, _FIRST_BID = 50, 3, 4
_IN_FLIGHT_AUCTIONS, _ACTIVE_BIDDERS = 100, 1_000
_CITIES = ("Phoenix", "Los Angeles", "Boise", "Portland", "Cheyenne")
_CHANNELS = ("Apple", "Google", "Facebook", "Baidu")
_START = np.datetime64("2026-01-01T00:00:00", "ms")


@dataclass(frozen=True)
class Events:
    """A folder for each input; a batch of a query reads `files` over ten of it, in the order of event time."""

    folder: Path
    events: int
    per_second: int
    """Of event time."""
    files: dict[Input, int]
    rows: dict[Input, int]

    def path(self, name: Input) -> Path:
        return self.folder / name

    def per_batch(self, name: Input, batches: int) -> int:
        """How many files a batch reads, for all to be read in so many."""
        return -(-self.files[name] // batches)

    def last(self, name: Input) -> datetime:
        """The newest event time."""
        numbers = np.arange(max(0, self.events - _CYCLE), self.events)
        last = int(numbers[-1] if name == "views" else numbers[_is_of(name, numbers)][-1])
        return _START.item() + timedelta(milliseconds=last * 1_000 // self.per_second)


def campaigns() -> pl.DataFrame:
    """The bounded table of the ysb query: which campaign an ad belongs to."""
    ads = pl.int_range(CAMPAIGNS * ADS_PER_CAMPAIGN, eager=True).alias("ad_id")
    return pl.DataFrame({"ad_id": ads, "campaign_id": ads // ADS_PER_CAMPAIGN})


def generate(folder: Path, events: int, files: int, *, per_second: int = 10_000, seed: int = 0) -> Events:
    """Write `events` events of each benchmark, in order of event time, into `files` files each."""
    found = Events(folder, events, per_second, {}, {})
    lines = min(events, LINES)
    _write(found, "bids", events, files, seed)
    _write(found, "auctions", events, files, seed)
    _write(found, "persons", events, files, seed)
    _write(found, "views", events, files, seed)
    _write(found, "lines", lines, max(1, files * lines // events), seed)
    return found


def _write(found: Events, name: Input, events: int, files: int, seed: int) -> None:
    found.path(name).mkdir(parents=True)
    found.files[name], found.rows[name] = files, 0
    for i, numbers in enumerate(np.array_split(np.arange(events), files)):
        random = np.random.default_rng((seed, i))
        times = _START + (numbers * 1_000 // found.per_second).astype("timedelta64[ms]")
        rows = _rows(name, numbers, times, random)
        file = found.path(name) / f"{i:05}"
        if name == "lines":
            rows.write_ndjson(file.with_suffix(".ndjson"))
        else:
            rows.write_parquet(file.with_suffix(".parquet"), compression="snappy")
        found.rows[name] += rows.height


def _rows(name: Input, numbers: np.ndarray, times: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    if name == "views":
        return _views(times, random)
    chosen = _is_of(name, numbers)
    make = {"auctions": _auctions, "persons": _persons}.get(name, _bids)
    return make(numbers[chosen], times[chosen], random)


def _is_of(name: Input, numbers: np.ndarray) -> np.ndarray:
    """Which of Nexmark's events are of an input."""
    place: np.ndarray = numbers % _CYCLE
    match name:
        case "persons":
            chosen: np.ndarray = place == 0
            return chosen
        case "auctions":
            return (place > 0) & (place < _FIRST_BID)
        case _:
            return place >= _FIRST_BID


def _persons(numbers: np.ndarray, times: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    ids = pl.Series("id", numbers // _CYCLE)
    cities = np.array(_CITIES, dtype=object)[random.integers(0, len(_CITIES), len(numbers))]
    return pl.DataFrame({"id": ids, "dateTime": times, "city": cities}, schema_overrides={"city": pl.String}).select(
        "id",
        pl.format("person {}", "id").alias("name"),
        pl.format("{}@example.com", "id").alias("emailAddress"),
        "city",
        "dateTime",
    )


def _auctions(numbers: np.ndarray, times: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    """Three quarters are of the hottest seller of the moment."""
    size = len(numbers)
    last_person = numbers // _CYCLE
    seller = np.where(
        random.random(size) < 0.75,
        last_person // 100 * 100,
        np.maximum(last_person - random.integers(0, _ACTIVE_BIDDERS, size), 0),
    )
    return pl.DataFrame(
        {
            "id": last_person * _AUCTIONS + numbers % _CYCLE - 1,
            "seller": seller,
            "category": random.integers(0, 5, size),
            "initialBid": np.round(10 ** (random.random(size) * 6)).astype(np.int64),
            "dateTime": times,
        }
    ).with_columns(pl.format("item {}", "id").alias("itemName"))


def _bids(numbers: np.ndarray, times: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    """Half of the bids go to the hottest auction of the moment, three quarters come from the hottest bidder."""
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
            "seller": random.integers(0, 10_000_000, size),
            "item": random.integers(0, 10_000_000, size),
            "extra": random.integers(0, 2**63, size),
            "more": random.integers(0, 2**63, size),
            "dateTime": times,
        },
        schema_overrides={"channel": pl.String},
    ).select(
        "auction",
        "bidder",
        "price",
        "channel",
        pl.format("https://www.nexmark.com/{}/item.htm?query=1&channel_id={}", "seller", "item").alias("url"),
        "dateTime",
        pl.format("{}{}", "extra", "more").alias("extra"),
    )


def _views(times: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    size = len(times)
    kinds = np.array(["view", "click", "purchase"], dtype=object)
    return pl.DataFrame(
        {
            "ad_id": random.integers(0, CAMPAIGNS * ADS_PER_CAMPAIGN, size),
            "event_type": kinds[random.integers(0, 3, size)],
            "event_time": times,
        },
        schema_overrides={"event_type": pl.String},
    )
