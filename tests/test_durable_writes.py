"""How often does a batch wait for the disk? One number per shape of query, so that nobody adds a wait unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.language import Pipeline
from tests.test_crash import arrive, grouped, stateless
from unbounded import storage
from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Mode, Sink
from unbounded.query import MicroBatches
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.sinks.files import FileSink
from unbounded.state.memory.home import MemoryHome

BATCHES = 6
FIRST = 2  # which make folders

# Whatever is durable costs two syncs: of the file and of its folder.
INTENT = STATE = DATA = ENTRY = COMMIT = 2


def by_day(frame: Any) -> Any:
    return frame.pipe(ub.with_watermark, "t", "1h").group_by_dynamic("t", every="1d").agg(pl.len())


def halved(frame: Any) -> Any:
    return frame.with_columns(half=pl.col("v") % 2)


def parted(where: Path) -> Sink:
    return FileSink(where / "out", "parquet", partition_by=["half"])


def files(where: Path) -> Sink:
    return FileSink(where / "out", "parquet")


def function(where: Path) -> Sink:
    return EachBatchSink(lambda rows, batch: None)


@pytest.mark.parametrize(
    ("pipeline", "mode", "sink", "expected"),
    [
        (stateless, "append", files, STATE + DATA + ENTRY + COMMIT),
        (halved, "append", parted, STATE + DATA + 1 + ENTRY + COMMIT),  # two files, and one folder to stage them in
        (by_day, "append", files, STATE + ENTRY + COMMIT),  # no rows yet
        (grouped, "update", files, STATE + DATA + ENTRY + COMMIT),
        (grouped, "complete", files, STATE + DATA + ENTRY + COMMIT),
        (stateless, "append", function, INTENT + STATE + COMMIT),
        (grouped, "update", function, INTENT + STATE + COMMIT),
    ],
)
def test_a_batch_waits_for_the_disk_no_more_often_than_this(
    pipeline: Pipeline, mode: Mode, sink: Any, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for act in ("sync_file", "sync_folder"):
        monkeypatch.setattr(storage, act, synced.append)
    records = storage.open_storage(tmp_path / "ckpt")
    for n in range(BATCHES):
        arrive(tmp_path / "in", n)
    batches = MicroBatches(
        pipeline(ub.scan_parquet(tmp_path / "in", max_files_per_trigger=1))._plan,
        sink(tmp_path),
        mode=mode,
        checkpoint=Checkpoint(records),
        home=MemoryHome(records),
        background=lambda task: None,
    )
    batches.open()
    counts = []
    for _ in range(BATCHES):
        synced.clear()
        assert batches.run_once() is not None
        counts.append(len(synced))
    batches.close()
    assert counts[FIRST:] == [expected] * (BATCHES - FIRST)


def test_what_home_and_sink_merge_never_falls_on_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for act in ("sync_file", "sync_folder"):  # which take their time, and change nothing here
        monkeypatch.setattr(storage, act, lambda path: None)
    records = storage.open_storage(tmp_path / "ckpt")
    feed = ub.MemorySource({"k": pl.Int64})
    batches = MicroBatches(
        ub.scan_memory(feed).group_by("k").agg(pl.len())._plan,
        FileSink(tmp_path / "out", "ipc"),
        mode="update",
        checkpoint=Checkpoint(records),
        home=MemoryHome(records),
    )
    batches.open()
    written: dict[str, list[int]] = {
        "ckpt/runs/*": [],
        "out._unbounded/levels/*": [],
        "out._unbounded/log/segment-*": [],
    }
    names: dict[str, set[Path]] = {pattern: set() for pattern in written}
    for number in range(100):
        feed.add({"k": [number % 7]})
        assert batches.run_once() is not None
        for pattern, before in names.items():
            names[pattern] = set(tmp_path.glob(pattern))
            if names[pattern] != before:
                written[pattern].append(number)
    batches.close()
    assert all(len(found) >= 5 for found in written.values())
    merged = [number for found in written.values() for number in found]
    assert len(merged) == len(set(merged))
