"""Does a source that sends nothing hold the watermark of a query only for its timeout, and decide so once per batch?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.checkpoint import Checkpoint
from unbounded.progress import Progress
from unbounded.query import MicroBatches
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.sinks.files import FileSink
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import open_storage

START = datetime(2026, 3, 1)
SCHEMA: dict[str, Any] = {"t": pl.Datetime("us")}


class Inputs:
    """Two feeds with a watermark each, counted by the minute, and a clock that goes when it is told to."""

    def __init__(self, place: Path, *, x: str | None = None, y: str | None = "1m", policy: Any = None) -> None:
        self.x, self.y = ub.MemorySource(SCHEMA), ub.MemorySource(SCHEMA)
        self._place, self._timeouts, self._policy = place, {"x": x, "y": y}, policy
        self.seconds = 0
        self.start()

    def start(self) -> None:
        parts = [
            ub.scan(feed, name=name, watermark=("t", "0s"), idle_timeout=self._timeouts[name])
            for feed, name in ((self.x, "x"), (self.y, "y"))
        ]
        storage = open_storage(self._place / "checkpoint")
        self.batches = MicroBatches(
            ub.concat(parts).group_by_dynamic("t", every="1m").agg(pl.len())._plan,
            FileSink(self._place / "out", "ipc"),
            mode="append",
            checkpoint=Checkpoint(storage),
            home=MemoryHome(storage),
            watermark_policy=self._policy,
            wall_clock=lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds),
        )
        self.batches.open()

    def run(self, x: list[int] = [], y: list[int] = [], *, later: int = 0) -> list[Progress]:  # noqa: B006
        """Time goes by, minutes arrive, and are processed until nothing is left to do."""
        self.seconds += later
        for feed, minutes in ((self.x, x), (self.y, y)):
            if minutes:
                feed.add([{"t": START + timedelta(minutes=n)} for n in minutes])
        return list(iter(self.batches.run_once, None))

    def closed(self) -> list[int]:
        times = ub.read_sink(self._place / "out").select("t").collect()["t"]
        return sorted((time - START) // timedelta(minutes=1) for time in times)


def late(ran: list[Progress]) -> int:
    return sum(one.num_rows_dropped_by_watermark for p in ran for one in p.state_operators)


def test_a_source_that_sent_nothing_for_its_timeout_is_not_waited_for(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([1, 9], [2])
    assert inputs.closed() == [1]
    assert inputs.run(later=59) == []
    assert [p.num_input_rows for p in inputs.run(later=1)] == [0]  # the clock alone is worth a batch
    assert inputs.closed() == [1, 2]
    inputs.run([20])
    assert inputs.closed() == [1, 2, 9]


def test_one_that_never_sent_anything_is_waited_for_from_the_start_on(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([1, 9])
    inputs.run(later=59)
    assert inputs.closed() == []
    inputs.run(later=1)
    assert inputs.closed() == [1]


def test_a_source_without_a_timeout_is_waited_for_for_ever(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, y=None)
    inputs.run([1, 9], [2])
    assert inputs.run(later=1_000_000) == []
    assert inputs.closed() == [1]


def test_what_a_source_sends_when_it_comes_back_may_be_late_and_is_counted(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([1, 9], [2])
    inputs.run(later=60)
    assert late(inputs.run(y=[3, 8, 10])) == 2  # the watermark is at 9
    inputs.run([30])
    assert inputs.closed() == [1, 2, 9]  # it is waited for again, at 10
    inputs.run([31], later=60)
    assert inputs.closed() == [1, 2, 9, 10, 30]


def test_where_all_are_idle_the_fastest_decides(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, x="1m", y="1m")
    inputs.run([1, 9], [2])
    inputs.run(later=60)
    assert inputs.closed() == [1, 2]
    inputs.run(later=1_000)
    assert inputs.closed() == [1, 2]


def test_time_while_the_query_is_down_does_not_count(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([1, 9], [2])
    inputs.batches.close()
    inputs.seconds += 1_000
    inputs.start()
    assert inputs.run() == []
    inputs.run(later=59)
    assert inputs.closed() == [1]
    inputs.run(later=1)
    assert inputs.closed() == [1, 2]


def test_the_watermark_stays_where_it_was_when_a_run_waits_again(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([1, 9], [2])
    inputs.run(later=60)
    inputs.batches.close()
    inputs.start()
    assert late(inputs.run(y=[3])) == 1
    assert inputs.closed() == [1, 2]


def test_each_source_has_its_own_watermark_again_after_a_restart(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, y=None)
    inputs.run([1, 9], [2, 5])
    inputs.batches.close()
    inputs.start()
    inputs.run(y=[7])
    assert inputs.closed() == [1, 2, 5]  # x stands at 9, as before
    inputs.run(y=[12])
    assert inputs.closed() == [1, 2, 5, 7]


def test_with_the_policy_max_nobody_waits_anyway(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, policy="max")
    inputs.run([1, 9], [2])
    inputs.run(later=60)
    assert inputs.closed() == [1, 2]


def test_a_batch_that_is_run_again_decides_as_before(tmp_path: Path) -> None:
    """A sink that does not know what it holds makes the intent durable; the clock is not asked twice."""
    seen: list[tuple[int, list[Any]]] = []
    x, y, clock = ub.MemorySource(SCHEMA), ub.MemorySource(SCHEMA), [0]

    def take(rows: pl.DataFrame, batch: int) -> None:
        seen.append((batch, rows["t"].to_list()))
        if len(seen) == 3:
            raise OSError("the disk is full")

    def started() -> MicroBatches:
        parts = [
            ub.scan_memory(feed, name=name, watermark=("t", "0s"), idle_timeout="1m")
            for feed, name in ((x, "x"), (y, "y"))
        ]
        storage = open_storage(tmp_path / "checkpoint")
        batches = MicroBatches(
            ub.concat(parts).group_by_dynamic("t", every="1m").agg(pl.len())._plan,
            EachBatchSink(take),
            mode="append",
            checkpoint=Checkpoint(storage),
            home=MemoryHome(storage),
            wall_clock=lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=clock[0]),
        )
        batches.open()
        return batches

    batches = started()
    x.add([{"t": START}, {"t": START + timedelta(minutes=9)}])
    y.add([{"t": START}])
    batches.run_once()
    assert batches.run_once() is not None  # nothing is closed by the watermark at the start
    clock[0] = 59
    assert batches.run_once() is None
    clock[0] = 60
    with pytest.raises(OSError, match="the disk"):
        batches.run_once()
    batches.close()
    clock[0] = 0
    batches = started()
    assert batches.run_once() is not None
    assert seen[2] == seen[3] == (2, [START])
    batches.close()


def test_explain_says_for_which_sources_it_does_not_wait(tmp_path: Path) -> None:
    text = Inputs(tmp_path).batches.explain()
    assert "watermark: the min of x, y; it no longer waits for a source without rows: 'y' after 60 s" in text


@pytest.mark.parametrize("timeout", ["0s", "soon", "-1m", "1mo"])
def test_a_timeout_is_a_length_above_zero(timeout: str) -> None:
    with pytest.raises(ub.PlanError, match="idle_timeout"):
        ub.scan(ub.MemorySource(SCHEMA), idle_timeout=timeout)
