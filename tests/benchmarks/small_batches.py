"""How long does a durable micro-batch of 1,000 rows take, and how much of it is the disk?"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

import unbounded as ub
from tests.benchmarks.results import Times
from tests.benchmarks.runs import Batches

__all__ = ["small_batches"]

_BATCHES, _ROWS = 200, 1_000


def small_batches(folder: Path) -> dict[str, Times]:
    """Two queries from file to file, one file a batch, and single fsyncs, in turns of a quarter each."""
    logging.getLogger("unbounded").setLevel(logging.ERROR)
    files = folder / "in"
    _write_files(files)
    times: dict[str, list[float]] = {"stateless": [], "windowed": [], "fsync": []}
    for turn in range(4):
        place = folder / f"{turn}"
        place.mkdir()
        times["stateless"] += _run(_stateless, files, place / "stateless")
        times["windowed"] += _run(_windowed, files, place / "windowed")
        times["fsync"] += _fsyncs(place)
    return {name: Times.of(each) for name, each in times.items()}


def _write_files(folder: Path) -> None:
    """One file a batch; event time advances by ten seconds a file."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(_BATCHES // 4):
        second = datetime(2026, 1, 1) + timedelta(seconds=10 * i)
        pl.DataFrame(
            {
                "time": [second + timedelta(milliseconds=10 * j) for j in range(_ROWS)],
                "sensor": random.integers(0, 50, _ROWS),
                "value": random.random(_ROWS),
            }
        ).write_parquet(folder / f"{i:05}.parquet")


def _stateless(frame: ub.StreamFrame) -> ub.StreamFrame:
    return frame.filter(pl.col("value") > 0.1).with_columns(pl.col("value") * 2)


def _windowed(frame: ub.StreamFrame) -> ub.StreamFrame:
    return frame.group_by_dynamic("time", every="1m", group_by="sensor").agg(
        pl.len().alias("rows"), pl.col("value").mean().alias("mean")
    )


def _run(ask: Callable[[ub.StreamFrame], ub.StreamFrame], files: Path, folder: Path) -> list[float]:
    """The milliseconds of each batch, from planning it to its commit."""
    batches = Batches()
    ub.streams.add_listener(batches)
    frame = ask(ub.scan_parquet(files, watermark=("time", "30s"), max_files_per_trigger=1))
    frame.sink_parquet(folder / "out", checkpoint=folder / "checkpoint", trigger=ub.available_now())
    ub.streams.remove_listener(batches)
    return batches.with_rows("triggerExecution")


def _fsyncs(folder: Path) -> list[float]:
    """What the disk takes for one fsynced file of 1 kB, now and in this place."""
    times = []
    for i in range(_BATCHES // 4):
        begin = perf_counter()
        with open(folder / f"fsync-{i}", "xb") as file:
            file.write(b"0" * 1_000)
            file.flush()
            os.fsync(file.fileno())
        times.append((perf_counter() - begin) * 1_000)
    return times
