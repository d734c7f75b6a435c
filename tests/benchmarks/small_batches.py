"""How long does a durable micro-batch of 1,000 rows take, and how much of it is the disk?"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

import unbounded as ub

__all__ = ["BATCHES", "Milliseconds", "fsyncs", "micro_batches", "stateless", "windowed", "write_small_files"]

BATCHES, ROWS = 200, 1_000


@dataclass(frozen=True)
class Milliseconds:
    """The median and the 99th percentile of many times."""

    p50: float
    p99: float

    @classmethod
    def of(cls, times: list[float]) -> Milliseconds:
        p50, p99 = np.percentile(times, [50, 99])
        return cls(float(p50), float(p99))


def write_small_files(folder: Path) -> None:
    """One file a batch; event time advances by ten seconds a file."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(BATCHES):
        second = datetime(2026, 1, 1) + timedelta(seconds=10 * i)
        pl.DataFrame(
            {
                "time": [second + timedelta(milliseconds=10 * j) for j in range(ROWS)],
                "sensor": random.integers(0, 50, ROWS),
                "value": random.random(ROWS),
            }
        ).write_parquet(folder / f"{i:05}.parquet")


def stateless(frame: ub.StreamFrame) -> ub.StreamFrame:
    return frame.filter(pl.col("value") > 0.1).with_columns(pl.col("value") * 2)


def windowed(frame: ub.StreamFrame) -> ub.StreamFrame:
    return frame.group_by_dynamic("time", every="1m", group_by="sensor").agg(
        pl.len().alias("rows"), pl.col("value").mean().alias("mean")
    )


def micro_batches(ask: Callable[[ub.StreamFrame], ub.StreamFrame], files: Path, folder: Path) -> Milliseconds:
    """Run a query file to file, one file a batch; the time of each batch from its intent to its commit."""
    stopwatch = _Stopwatch()
    ub.streams.add_listener(stopwatch)
    try:
        frame = ask(ub.scan_parquet(files, watermark=("time", "30s"), max_files_per_trigger=1))
        frame.sink_parquet(folder / "out", checkpoint=folder / "checkpoint", trigger=ub.available_now())
    finally:
        ub.streams.remove_listener(stopwatch)
    assert len(stopwatch.times) == BATCHES
    return Milliseconds.of(stopwatch.times)


class _Stopwatch:
    """A listener that keeps the milliseconds of every batch that had rows."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_query_started(self, id: str, run_id: str, name: str | None) -> None: ...

    def on_query_progress(self, progress: ub.Progress) -> None:
        if progress.num_input_rows:
            self.times.append(progress.duration_ms["triggerExecution"])

    def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None: ...


def fsyncs(folder: Path) -> Milliseconds:
    """What the disk takes for one fsynced file of 1 kB, now and in this place."""
    times = []
    for i in range(BATCHES):
        begin = perf_counter()
        with open(folder / f"fsync-{i}", "xb") as file:
            file.write(b"0" * 1_000)
            file.flush()
            os.fsync(file.fileno())
        times.append((perf_counter() - begin) * 1_000)
    return Milliseconds.of(times)
