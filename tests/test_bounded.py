"""Which rows of a bounded table does a batch of the stream meet?"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.checkpoint import Checkpoint
from unbounded.query import MicroBatches
from unbounded.sinks import MemorySink
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import open_storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Joined:
    """A stream of keys beside a file of their names, at a time that the test tells."""

    def __init__(self, file: Path, reread: Any) -> None:
        self._file, self.now = file, NOON
        self.name("first")
        self._feed = ub.MemorySource({"k": pl.String})
        frame = ub.scan_memory(self._feed).join(pl.scan_parquet(file), on="k", how="left")
        storage = open_storage(f"memory://bounded-{uuid.uuid4()}")
        self.sink = MemorySink()
        self.batches = MicroBatches(
            frame._plan,
            self.sink,
            mode="append",
            checkpoint=Checkpoint(storage),
            home=MemoryHome(storage),
            reread_bounded=reread,
            wall_clock=lambda: self.now,
        )
        self.batches.open()

    def name(self, name: str) -> None:
        pl.DataFrame({"k": ["a"], "name": [name]}).write_parquet(self._file)

    def batch(self) -> list[str]:
        self._feed.add([{"k": "a"}])
        self.batches.run_once()
        return self.sink.read().collect()["name"].to_list()


def test_a_bounded_table_is_read_once_at_the_start(tmp_path: Path) -> None:
    joined = Joined(tmp_path / "names.parquet", None)
    joined.name("second")
    joined.now += timedelta(days=1)
    assert joined.batch() == ["first"]


def test_it_is_read_before_every_batch_if_the_sink_asks_for_that(tmp_path: Path) -> None:
    joined = Joined(tmp_path / "names.parquet", "batch")
    assert joined.batch() == ["first"]
    joined.name("second")
    assert joined.batch() == ["first", "second"]
    joined.name("third")
    assert joined.batch() == ["first", "second", "third"]


@pytest.mark.parametrize("reread", ["10m", "10 minutes", timedelta(minutes=10)])
def test_it_is_read_again_when_it_is_older_than_a_duration(tmp_path: Path, reread: Any) -> None:
    joined = Joined(tmp_path / "names.parquet", reread)
    joined.name("second")
    joined.now += timedelta(minutes=9, seconds=59)
    assert joined.batch() == ["first"]
    joined.now += timedelta(seconds=1)
    assert joined.batch() == ["first", "second"]
    joined.name("third")
    joined.now += timedelta(minutes=9)
    assert joined.batch()[-1] == "second"


def test_new_files_of_a_folder_and_changed_files_are_seen_at_the_next_start_of_the_same_frame(tmp_path: Path) -> None:
    feed = ub.MemorySource({"k": pl.String})
    (tmp_path / "names").mkdir()
    pl.DataFrame({"k": ["a"], "n": [1]}).write_parquet(tmp_path / "names" / "1.parquet")
    frame = ub.scan_memory(feed).join(pl.scan_parquet(tmp_path / "names" / "*.parquet"), on="k")
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    for number, key in enumerate("abc"):
        pl.DataFrame({"k": ["a", key], "n": [number] * 2}).write_parquet(tmp_path / "names" / f"{number}.parquet")
        feed.add([{"k": key}])
        frame.sink_parquet(tmp_path / "out", **options)
    assert ub.read_sink(tmp_path / "out").collect()["k"].unique().sort().to_list() == ["a", "b", "c"]


def test_a_table_that_cannot_be_read_anew_is_refused_at_the_start() -> None:
    names = pl.LazyFrame({"k": ["a"]}).with_columns(pl.col("k").map_elements(str.upper, return_dtype=pl.String))
    frame = ub.scan_memory(ub.MemorySource({"k": pl.String})).join(names, on="k")
    with pytest.raises(ub.PlanError, match=r"Python function.*Polars' own expressions"):
        frame.sink_memory(reread_bounded="batch")


def test_a_table_that_comes_back_with_other_columns_fails_the_batch_and_names_them(tmp_path: Path) -> None:
    joined = Joined(tmp_path / "names.parquet", "batch")
    pl.DataFrame({"k": ["a"], "name": [7]}).write_parquet(tmp_path / "names.parquet")
    with pytest.raises(ub.ConnectorError, match=r"columns Schema"):
        joined.batch()
    joined.name("second")


@pytest.mark.parametrize("failing", ["before", "after"])
def test_a_batch_that_is_run_again_is_written_once_with_the_table_as_it_is_then(tmp_path: Path, failing: str) -> None:
    names, feed = tmp_path / "names.parquet", ub.MemorySource({"k": pl.String})
    feed.add([{"k": "a"}])
    pl.DataFrame({"k": ["a"], "name": ["first"]}).write_parquet(names)
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now(), "reread_bounded": "batch"}

    def frame(fail: Callable[[pl.Series], pl.Series]) -> ub.StreamFrame:
        joined = ub.scan_memory(feed).join(pl.scan_parquet(names), on="k")
        return joined.with_columns(pl.col("name").map_elements(fail, return_dtype=pl.String))

    def broken(name: Any) -> Any:
        raise RuntimeError("died")

    if failing == "before":
        with pytest.raises(Exception, match="died"):
            frame(broken).sink_parquet(tmp_path / "out", **options)
    else:
        frame(lambda name: name).sink_parquet(tmp_path / "out", **options)
        (tmp_path / "ckpt" / "commits" / f"{0:012d}").unlink()
    pl.DataFrame({"k": ["a"], "name": ["second"]}).write_parquet(names)
    frame(lambda name: name).sink_parquet(tmp_path / "out", **options)
    expected = "second" if failing == "before" else "first"
    assert ub.read_sink(tmp_path / "out").collect().rows() == [("a", expected)]


def test_explain_says_when_a_table_is_read_again(tmp_path: Path) -> None:
    assert "read again before every batch" in Joined(tmp_path / "names.parquet", "batch").batches.explain()
    assert "read again when they are 0:10:00 old" in Joined(tmp_path / "names.parquet", "10m").batches.explain()
    assert "read again" not in Joined(tmp_path / "names.parquet", None).batches.explain()
