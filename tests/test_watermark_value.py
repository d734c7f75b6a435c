"""Is `ub.watermark()` what the batch decides by, the same for all its rows and whenever the batch is run?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.language import Story
from unbounded.expressions import canonical

T = pl.Datetime("us", "UTC")
START = datetime(2026, 3, 1, tzinfo=UTC)
SCHEMA: dict[str, Any] = {"k": pl.String, "t": T}


def at(*minutes: float) -> list[dict[str, Any]]:
    return [{"k": "a", "t": START + timedelta(minutes=m)} for m in minutes]


def marked(frame: Any) -> Any:
    return frame.pipe(ub.with_watermark, "t", "5m").with_columns(ub.watermark())


def minutes(rows: pl.DataFrame, column: str = "watermark") -> list[Any]:
    return [None if one is None else (one - START) / timedelta(minutes=1) for one in rows[column]]


def test_it_is_null_at_first_and_then_the_watermark_of_the_batch_for_all_its_rows() -> None:
    story = Story(marked, SCHEMA).add(at(10, 20)).run().add(at(3, 30)).run().restart().add(at(1)).run()
    assert minutes(story.answer()) == [None, None, 15, 15, 25]
    assert story.answer().schema["watermark"] == T


@pytest.mark.parametrize("death", ["intended", "remembered", "written"])
def test_a_batch_run_again_after_a_crash_has_the_same_watermark(death: Any) -> None:
    story = Story(marked, SCHEMA).add(at(10)).run().add(at(12)).crash(death).restart().add(at(40)).run()
    assert minutes(story.answer()) == [None, 5, 7]


def test_rows_can_be_left_out_by_it() -> None:
    def pipeline(frame: Any) -> Any:
        in_time = (pl.col("t") > ub.watermark()).fill_null(value=True)
        return frame.pipe(ub.with_watermark, "t", "5m").filter(in_time)

    story = Story(pipeline, SCHEMA).add(at(10)).run().add(at(4, 5, 6)).run()
    assert minutes(story.answer(), "t") == [10, 6]


def test_an_aggregate_takes_it_from_the_batch_of_each_row_and_answers_by_its_own() -> None:
    def pipeline(frame: Any) -> Any:
        behind = (ub.watermark() - pl.col("t")).max().alias("behind")
        by_key = frame.with_watermark("t", "0s").group_by("k")
        return by_key.agg(behind, last=ub.watermark(), n=(ub.watermark() - pl.col("t")).n_unique())

    story = Story(pipeline, SCHEMA, mode="update").add(at(10)).run().add(at(7, 20)).run().add(at(20)).run()
    story.expect([("a", timedelta(minutes=3), START + timedelta(minutes=20), 4)])


def test_it_is_the_end_of_all_time_when_the_input_was_declared_ended() -> None:
    def pipeline(frame: Any) -> Any:
        windows = frame.with_watermark("t", "5m").group_by_dynamic("t", every="10m").agg(pl.len())
        return windows.with_columns(ub.watermark())

    answer = Story(pipeline, SCHEMA).add(at(1)).run().end().answer()
    assert answer["watermark"].to_list() == [datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)]


def test_a_bounded_frame_is_one_batch_before_the_first_watermark() -> None:
    assert marked(pl.LazyFrame(at(2, 1), SCHEMA)).collect().rows() == [("a", row["t"], None) for row in at(1, 2)]


def test_it_is_written_and_shown_by_its_name() -> None:
    assert "watermark()" in canonical(ub.watermark() - pl.col("t"))
    frame = ub.scan_memory(ub.MemorySource(SCHEMA)).with_watermark("t", "5m")
    assert '[(watermark()) > (col("t"))]' in frame.filter(ub.watermark() > pl.col("t")).explain()
