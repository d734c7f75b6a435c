"""Does a bounded frame among streams have the meaning of its rows, each once, and does it hold nothing back?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.plan import evaluate
from unbounded.sources.bounded import BoundedSource
from unbounded.verbs.unified import ConcatHow

SCHEMA: dict[str, Any] = {"k": pl.String, "v": pl.Int64, "t": pl.Datetime("us")}
NOON = datetime(2024, 1, 1, 12)
Row = dict[str, Any]
Frames = list[ub.StreamFrame | pl.LazyFrame | pl.DataFrame]


def row(k: str, v: int, minutes: int = 0) -> Row:
    return {"k": k, "v": v, "t": NOON + timedelta(minutes=minutes)}


def table(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


HISTORY = table(row("a", 1), row("b", 2), row("a", 3))
rows_of = st.lists(st.builds(row, st.sampled_from(["a", "b"]), st.integers(-9, 9)), max_size=4)


# --------------------------------------------------------------------------------------------- law
@pytest.mark.parametrize("bounded_first", [True, False])
@pytest.mark.parametrize("lazy", [True, False])
@given(arriving=st.lists(rows_of, max_size=4), history=rows_of, restart=st.integers(0, 4))
def test_however_the_stream_is_cut_the_answer_is_that_of_all_rows(
    bounded_first: bool, lazy: bool, arriving: list[list[Row]], history: list[Row], restart: int
) -> None:
    bounded = table(*history).lazy() if lazy else table(*history)

    def pipeline(stream: ub.StreamFrame) -> ub.StreamFrame:
        either: Frames = [bounded, stream] if bounded_first else [stream, bounded]
        return ub.concat(either).group_by("k").agg(pl.len().alias("n"), pl.col("v").sum())

    story = Story(pipeline, SCHEMA, mode="complete")
    for number, rows in enumerate(arriving):
        story.add(rows).batch()
        if number == restart:
            story.restart()
    story.run()
    everything = table(*history, *(one for rows in arriving for one in rows))
    story.expect(everything.lazy().group_by("k").agg(pl.len().alias("n"), pl.col("v").sum()), key=["k"])


@pytest.mark.parametrize("how", get_args(ConcatHow))
@pytest.mark.parametrize("bounded_first", [True, False])
def test_all_ways_to_put_frames_behind_one_another_are_those_of_polars(how: ConcatHow, bounded_first: bool) -> None:
    other = {
        "vertical": HISTORY,
        "vertical_relaxed": HISTORY.cast({"v": pl.Int32}),
        "diagonal": HISTORY.select("v", pl.lit(1.5).alias("more")),
        "diagonal_relaxed": HISTORY.select(pl.col("v").cast(pl.Float64), pl.lit(1.5).alias("more")),
    }[how]
    arrived = table(row("c", 7))

    def ordered(stream: Any, bounded: Any) -> list[Any]:
        return [bounded, stream] if bounded_first else [stream, bounded]

    story = Story(lambda stream: ub.concat(ordered(stream, other), how=how), SCHEMA)
    story.add(arrived).run()
    expected = pl.concat(ordered(arrived, other), how=how)
    assert_frame_equal(story.answer(), expected)


def test_several_bounded_frames_and_streams_come_in_their_order() -> None:
    parts = [table(row("a", number)) for number in range(4)]
    story = Story(lambda one, two: ub.concat([parts[0], one, parts[1].lazy(), two]), SCHEMA, SCHEMA)
    story.add(parts[2]).add(parts[3], feed=1).run()
    assert story.answer()["v"].to_list() == [0, 2, 1, 3]
    assert {source.name for source in story.progress[0].sources} == {"bounded", "bounded-2", "feed0", "feed1"}


def test_a_frame_may_go_into_a_concat_of_a_concat() -> None:
    story = Story(lambda stream: ub.concat([ub.concat([stream, HISTORY]), HISTORY]), SCHEMA)
    assert story.run().answer().height == 6


def test_two_of_one_name_are_refused_until_one_is_named() -> None:
    feeds = [ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("one", "two")]
    left, right = (ub.concat([feed, HISTORY]) for feed in feeds)
    with pytest.raises(ub.PlanError, match=r"two sources are named 'bounded'.*name="):
        ub.concat([left, right]).sink_memory()
    named = ub.concat([feeds[1], ub.scan(ub.BoundedSource(HISTORY), name="history")])
    assert ub.concat([left, named]).snapshot().collect().height == 6


def test_bounded_frames_alone_are_put_together_by_polars() -> None:
    assert_frame_equal(ub.concat([HISTORY, HISTORY]), pl.concat([HISTORY, HISTORY]))
    assert_frame_equal(ub.concat([HISTORY.lazy()]), HISTORY.lazy())


def test_a_snapshot_holds_the_bounded_rows() -> None:
    feed = ub.MemorySource(SCHEMA)
    feed.add([row("c", 9)])
    frame = ub.concat([HISTORY.lazy(), ub.scan_memory(feed)])
    assert frame.snapshot().collect()["v"].to_list() == [1, 2, 3, 9]


# ------------------------------------------------------------------------------------- event time
def windows(frame: ub.StreamFrame) -> ub.StreamFrame:
    return frame.group_by_dynamic("t", every="10m").agg(pl.col("v").sum())


WATERMARKED: dict[str, Callable[[ub.StreamFrame], ub.StreamFrame]] = {
    "of the stream": lambda stream: ub.concat([stream.with_watermark("t", "0s"), HISTORY]),
    "of the stream, which comes last": lambda stream: ub.concat([HISTORY, stream.with_watermark("t", "0s")]),
    "of both": lambda stream: ub.concat(
        [stream.with_watermark("t", "0s"), ub.scan(ub.BoundedSource(HISTORY)).with_watermark("t", "5m")]
    ),
    "of all": lambda stream: ub.concat([stream, HISTORY]).with_watermark("t", "0s"),
    "of the stream and again of all": lambda stream: ub.concat(
        [stream.with_watermark("t", "0s"), HISTORY]
    ).with_watermark("t", "0s"),
}


@pytest.mark.parametrize("which", WATERMARKED)
def test_a_bounded_frame_holds_no_watermark_back(which: str) -> None:
    story = Story(lambda stream: windows(WATERMARKED[which](stream)), SCHEMA)
    story.add([row("a", 10, 25)]).run()
    story.add([row("a", 20, 45)]).run()
    first, second = NOON, NOON + timedelta(minutes=20)
    assert story.answer().sort("t").rows() == [(first, 6), (second, 10)]
    assert story.late == 0


def test_a_watermark_that_every_part_has_may_be_declared_again() -> None:
    """As `ub.with_watermark` must be for a bounded frame, where it sorts."""

    def both(one: ub.StreamFrame, two: ub.StreamFrame) -> ub.StreamFrame:
        return ub.concat([one.with_watermark("t", "5m"), two.with_watermark("t", "5m")])

    frames = [ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("one", "two")]
    assert both(*frames).with_watermark("t", "5m").explain() == both(*frames).explain()
    with pytest.raises(ub.PlanError, match="already has a watermark"):
        ub.concat([frames[0].with_watermark("t", "5m"), frames[1]]).with_watermark("t", "5m")


def test_a_bounded_frame_without_event_time_holds_no_watermark_back() -> None:
    untimed = HISTORY.select("k", "v")
    story = Story(
        lambda stream: windows(ub.concat([stream.with_watermark("t", "0s"), untimed], how="diagonal")), SCHEMA
    )
    story.add([row("a", 10, 5)]).run()
    story.add([row("a", 20, 45)]).run()
    assert story.answer().rows() == [(NOON, 10)]
    assert sum(one.num_rows_without_event_time for one in story.progress[0].state_operators) == 3


def test_old_rows_of_a_bounded_frame_are_never_late() -> None:
    old = table(row("a", 1, -1000))
    story = Story(lambda stream: windows(ub.concat([stream.with_watermark("t", "0s"), old])), SCHEMA)
    story.add([row("a", 10, 25)]).run()
    story.add([row("a", 20, 45)]).run()
    assert story.late == 0
    assert story.answer()["v"].to_list()[0] == 1


def test_bounded_rows_alone_are_closed_by_the_end_of_the_input() -> None:
    story = Story(lambda stream: windows(ub.concat([stream.with_watermark("t", "0s"), HISTORY])), SCHEMA)
    assert story.end().answer().rows() == [(NOON, 6)]


# ---------------------------------------------------------------------------------- crash, replay
def start(tmp_path: Path, *, fail: bool) -> ub.StreamingQuery:
    """A new process, as far as that can be told: everything is built anew from what lies on the disk."""

    def write(rows: pl.DataFrame, batch: int) -> None:
        if fail:
            raise RuntimeError("crash")
        rows.write_parquet(tmp_path / f"out-{batch}.parquet")

    live = ub.scan_parquet(tmp_path / "live", schema=SCHEMA)
    frame = ub.concat([pl.scan_parquet(tmp_path / "history.parquet"), live])
    return frame.foreach_batch(write, checkpoint=tmp_path / "ckpt", trigger=ub.available_now())


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """The folder of a query that died in its first batch."""
    (tmp_path / "live").mkdir()
    HISTORY.write_parquet(tmp_path / "history.parquet")
    with pytest.raises(RuntimeError, match="crash"):
        start(tmp_path, fail=True)
    return tmp_path


def test_after_a_crash_the_same_rows_come_again_in_any_order(crashed: Path) -> None:
    HISTORY.reverse().write_parquet(crashed / "history.parquet")
    start(crashed, fail=False)
    same_rows(pl.read_parquet(crashed / "out-0.parquet"), HISTORY)


@pytest.mark.parametrize(
    "changed",
    [HISTORY.head(2), pl.concat([HISTORY, HISTORY.head(1)]), HISTORY.with_columns(pl.col("v") + 1)],
    ids=["fewer rows", "more rows", "other rows"],
)
def test_a_frame_that_changed_before_its_batch_was_committed_is_refused(crashed: Path, changed: pl.DataFrame) -> None:
    changed.write_parquet(crashed / "history.parquet")
    with pytest.raises(ub.ConnectorError, match=r"promised the 3 rows of a bounded frame.*pending_only=True"):
        start(crashed, fail=False)
    ub.reset(crashed / "ckpt", pending_only=True)
    start(crashed, fail=False)
    same_rows(pl.read_parquet(crashed / "out-0.parquet"), changed)


def test_a_frame_is_not_looked_at_again_once_its_batch_is_committed(crashed: Path) -> None:
    start(crashed, fail=False)
    HISTORY.head(0).write_parquet(crashed / "history.parquet")
    table(row("c", 9)).write_parquet(crashed / "live" / "1.parquet")
    start(crashed, fail=False)
    assert pl.read_parquet(crashed / "out-1.parquet")["v"].to_list() == [9]


def test_a_frame_without_rows_stays_without(crashed: Path) -> None:
    HISTORY.clear().write_parquet(crashed / "history.parquet")
    ub.reset(crashed / "ckpt", pending_only=True)
    start(crashed, fail=False)
    HISTORY.write_parquet(crashed / "history.parquet")
    start(crashed, fail=False)
    assert not (crashed / "out-1.parquet").exists()


def test_a_bounded_source_gives_all_at_once_and_then_nothing() -> None:
    source = BoundedSource(HISTORY.lazy())
    until = source.latest(None, source.end(), limited=True)
    assert_frame_equal(source.read(None, until).collect(), HISTORY)
    source.acknowledge(until)
    assert source.latest(until, None, limited=False) is None
    frame = ub.scan(source)
    assert_frame_equal(evaluate(frame._plan, {"bounded": source.read(None, until)}).collect(), HISTORY)
