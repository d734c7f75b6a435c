"""Which of several inputs decides what is late? The slowest, or by policy the fastest."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub

START = datetime(2024, 1, 1)
MINUTE = timedelta(minutes=1)


class Inputs:
    """Two feeds of times, with delays of 10 and 15 minutes, counted by the minute."""

    def __init__(self, place: Path) -> None:
        self.x, self.y = ub.MemorySource({"t": pl.Datetime("us")}), ub.MemorySource({"t": pl.Datetime("us")})
        self._place = place

    def run(self, x: list[int], y: list[int], **options: Any) -> ub.StreamingQuery:
        """Minutes arrive, and are processed."""
        for feed, minutes in ((self.x, x), (self.y, y)):
            feed.add([{"t": START + n * MINUTE} for n in minutes])
        parts = [
            ub.scan_memory(feed, name=name, watermark=("t", delay))
            for feed, name, delay in ((self.x, "x", "10m"), (self.y, "y", "15m"))
        ]
        frame = ub.concat(parts).group_by_dynamic("t", every="1m").agg(pl.len())
        return frame.sink_parquet(
            self._place / "out", checkpoint=self._place / "ckpt", trigger=ub.available_now(), **options
        )

    def closed(self) -> list[int]:
        """The minutes that came out."""
        if not (self._place / "out").exists():
            return []
        times = ub.read_sink(self._place / "out").select("t").collect()["t"]
        return sorted((time - START) // MINUTE for time in times)


@pytest.mark.parametrize(("policy", "closed"), [(None, []), ("min", []), ("max", [20])])
def test_an_input_that_sent_nothing_holds_the_watermark_unless_the_fastest_decides(
    policy: Any, closed: list[int], tmp_path: Path
) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([20, 40], [], watermark_policy=policy)
    assert inputs.closed() == closed


@pytest.mark.parametrize(("policy", "closed"), [("min", [10, 12]), ("max", [10, 12, 20, 22, 28])])
def test_the_policy_chooses_between_the_slowest_and_the_fastest_input(
    policy: Any, closed: list[int], tmp_path: Path
) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([10, 20, 40], [12, 22, 28], watermark_policy=policy)
    assert inputs.closed() == closed


def test_the_fastest_input_may_fall_back_and_the_watermark_does_not(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([20, 40], [], watermark_policy="max")
    query = inputs.run([], [29, 31, 33], watermark_policy="max")
    assert sum(one.num_rows_dropped_by_watermark for p in query.recent_progress for one in p.state_operators) == 1
    assert inputs.closed() == [20]


def test_a_checkpoint_keeps_the_policy_it_began_with_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = Inputs(tmp_path)
    inputs.run([20], [], watermark_policy="max")
    with caplog.at_level(logging.WARNING, "unbounded"):
        inputs.run([], [], watermark_policy=None)
        assert not [r for r in caplog.records if "policy" in r.getMessage()]
        query = inputs.run([40], [], watermark_policy="min")
    assert any("began with 'max', and keeps it" in record.getMessage() for record in caplog.records)
    assert inputs.closed() == [20]
    assert "watermark: the max of x, y" in query.explain()
