"""Do stateful operators behind one another judge rows by the watermark that reaches them, and finish together?"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story
from unbounded.plan import Watermark, walk
from unbounded.testing import assert_unified

START = datetime(2026, 3, 1)
SCHEMA: dict[str, Any] = {"k": pl.String, "x": pl.Float64, "t": pl.Datetime("us")}

rows = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", None]),
            "x": st.sampled_from([0.0, 1.5, float("nan"), None]),
            "t": st.integers(0, 3600).map(lambda s: START + timedelta(seconds=s)),
        }
    ),
    max_size=20,
)


def at(minute: float, k: str = "a") -> dict[str, Any]:
    return {"k": k, "x": 1.0, "t": START + timedelta(minutes=minute)}


def windows(frame: Any, every: str, *by: str, index: str = "t", **aggs: pl.Expr) -> Any:
    bounded = isinstance(frame, pl.LazyFrame)  # whose groups come in no order of time
    frame = frame.sort(index) if bounded else frame
    return frame.group_by_dynamic(index, every=every, group_by=by, include_boundaries=True).agg(**aggs)


def marked(frame: Any) -> Any:
    return frame.pipe(ub.with_watermark, "t", "5m")


def of_windows(frame: Any, every: str, *by: str, **aggs: pl.Expr) -> Any:
    """Windows of windows, by the last instant of these."""
    timed = frame.with_columns(ub.window_time()).drop("_lower_boundary", "_upper_boundary", "t", strict=False)
    return windows(timed, every, *by, index="window_time", **aggs)


N, TOTAL = pl.len().cast(pl.Int64), pl.col("n").sum()

CHAINS: dict[str, Any] = {
    "windows of windows": lambda f: of_windows(windows(marked(f), "5m", "k", n=N), "15m", n=TOTAL, keys=pl.len()),
    "three deep": lambda f: of_windows(
        of_windows(windows(marked(f), "5m", "k", n=N), "10m", "k", n=TOTAL), "20m", n=TOTAL
    ),
    "by the label": lambda f: windows(
        windows(marked(f), "5m", n=N).drop("_lower_boundary", "_upper_boundary"), "10m", n=TOTAL
    ),
    "by the last instant before the right label": lambda f: windows(
        marked(f)
        .group_by_dynamic("t", every="5m", label="right")
        .agg(n=N)
        .with_columns(ub.window_time("t").alias("t")),
        "10m",
        n=TOTAL,
    ),
    "by the same window": lambda f: (
        windows(marked(f), "5m", "k", n=N).group_by("_lower_boundary", "_upper_boundary").agg(n=TOTAL, keys=pl.len())
    ),
    "by the last instant itself": lambda f: (
        windows(marked(f), "5m", "k", n=N).group_by(ub.window_time()).agg(n=TOTAL).rename({"window_time": "w"})
    ),
    "unique, windows": lambda f: windows(marked(f).unique(["k", "t"]), "5m", "k", n=N),
    "unique, windows, windows": lambda f: of_windows(windows(marked(f).unique(["k", "t"]), "5m", n=N), "10m", n=TOTAL),
    "windows, unique": lambda f: windows(marked(f), "5m", "k", n=N).select("t", "n").unique(),
    "windows, unique, windows": lambda f: windows(
        windows(marked(f), "5m", "k", n=N).select("t", "n").unique(), "10m", n=TOTAL
    ),
    "raw times, windows": lambda f: windows(marked(f).group_by("t", "k").agg(n=N), "10m", n=TOTAL),
    "truncated, truncated": lambda f: (
        marked(f)
        .group_by(pl.col("t").dt.truncate("5m"), "k")
        .agg(n=N)
        .group_by(pl.col("t").dt.truncate("15m"))
        .agg(n=TOTAL)
    ),
    "a truncated last instant": lambda f: (
        windows(marked(f), "5m", "k", n=N)
        .with_columns(ub.window_time().alias("w"))
        .group_by(pl.col("w").dt.truncate("15m"))
        .agg(n=TOTAL)
    ),
    "windows of sessions": lambda f: of_windows(
        marked(f).pipe(ub.group_by_session, "t", gap="5m", group_by="k", include_boundaries=True).agg(n=N),
        "10m",
        n=TOTAL,
    ),
    "filter and rename between": lambda f: (
        windows(marked(f), "5m", "k", n=N)
        .filter(pl.col("n") > 1)
        .rename({"_upper_boundary": "end"})
        .group_by(pl.col("end"))
        .agg(n=TOTAL)
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
@given(table=rows, seed=st.integers(0, 1000))
def test_a_chain_gives_over_batches_what_it_gives_over_the_whole_table(
    chain: str, table: list[dict[str, Any]], seed: int
) -> None:
    assert_unified(CHAINS[chain], pl.DataFrame(table, SCHEMA), output_mode="append", runs=2, seed=seed)


COUNTED: dict[str, Any] = {
    "groups": lambda f: f.group_by("k", big=pl.col("x").fill_nan(None) > 1).agg(n=N, x=pl.col("x").min()),
    "closed windows": lambda f: windows(marked(f), "5m", "k", n=N, x=pl.col("x").min()),
    "sessions": lambda f: ub.group_by_session(marked(f), "t", gap="5m", group_by="k").agg(n=N, x=pl.col("x").min()),
}


@pytest.mark.parametrize("groups", COUNTED)
@given(table=rows, seed=st.integers(0, 1000))
def test_groups_of_groups_are_those_of_the_whole_answer_in_complete_mode(
    groups: str, table: list[dict[str, Any]], seed: int
) -> None:
    """Two deep, and three; Spark refuses them."""

    def pipeline(frame: Any) -> Any:
        by_key = COUNTED[groups](frame).group_by("k").agg(TOTAL, groups=N, most=pl.col("n").max(), x=pl.col("x").max())
        return by_key.filter(pl.col("n") > 1).group_by("groups").agg(TOTAL, keys=N, x=pl.col("x").min())

    assert_unified(pipeline, pl.DataFrame(table, SCHEMA), output_mode="complete", runs=2, seed=seed)


def test_windows_of_windows_by_their_last_instant_close_in_the_batch_that_closes_the_last_of_them() -> None:
    ends = {"windows of windows": 15, "three deep": 20, "by the label": 15}  # by which [0, 10) waits for [10, 15)
    for chain, end in ends.items():
        story = Story(CHAINS[chain], SCHEMA).add([at(1), at(9)]).run()
        story.add([at(end + 4.99)]).run()
        assert story.answer().height == 0
        batches = len(story.progress)
        story.add([at(end + 5)]).run()
        assert len(story.progress) == batches + 2  # the rows, then one batch for all operators
        assert story.answer().height == 1


def test_nothing_that_an_operator_gives_is_late_for_the_next_one() -> None:
    story = Story(CHAINS["three deep"], SCHEMA)
    for minute in (1, 7, 26, 13, 31, 90, 45, 200):
        story.add([at(minute)]).run()
    story.end()
    late = [[one.num_rows_dropped_by_watermark for one in p.state_operators] for p in story.progress]
    assert [sum(column) for column in zip(*late, strict=True)] == [2, 0, 0]


@pytest.mark.parametrize(
    "dtype", [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("ms", "Europe/Berlin")]
)
def test_the_last_instant_of_a_window_is_in_it_whatever_the_unit_and_the_zone(dtype: Any) -> None:
    zone = getattr(dtype, "time_zone", None)

    def pipeline(frame: Any) -> Any:
        inner = windows(marked(frame), "5m", n=N).with_columns(ub.window_time())
        return inner.with_columns(last=pl.col("_upper_boundary").cast(pl.Datetime("us", zone)) - pl.col("window_time"))

    times = pl.Series("t", [START, START + timedelta(hours=2)]).dt.replace_time_zone(zone).cast(dtype)
    answer = Story(pipeline, {"t": dtype}).add(times.to_frame()).end().answer()
    assert answer["last"].to_list() == [timedelta(microseconds=1)] * 2
    assert answer.schema["window_time"] == pl.Datetime("us", zone)
    assert_unified(lambda f: of_windows(windows(marked(f), "5m", n=N), "1d", n=TOTAL), times.to_frame(), runs=2)


def test_windows_shorter_than_the_watermark_can_tell_are_never_late_behind_one_another() -> None:
    def pipeline(frame: Any) -> Any:
        # Half of them end a microsecond behind a full millisecond, so that their last instant is that.
        marked = frame.pipe(ub.with_watermark, "t", "0s")
        inner = marked.group_by_dynamic("t", every="500us", offset="1us", include_boundaries=True).agg(n=N)
        return inner.group_by(ub.window_time()).agg(n=TOTAL)

    times = [START + timedelta(microseconds=400 * i) for i in range(40)]
    assert_unified(pipeline, pl.DataFrame({"t": times}), output_mode="append", runs=20)


@pytest.mark.parametrize(
    "again",
    [
        lambda f: f.rename({"t": "time"}).pipe(ub.with_watermark, "time", "5m").rename({"time": "t"}),
        lambda f: f.with_columns(copy=pl.col("t")).pipe(ub.with_watermark, "copy", "300s").drop("copy"),
        lambda f: marked(ub.concat([f, f.clear()])),
        lambda f: f.unique(["k", "t"]).pipe(ub.with_watermark, "t", "5m"),
        lambda f: marked(f.group_by_dynamic("t", every="5m").agg(n=N)),
    ],
    ids=["renamed", "copied", "beside bounded rows", "unique", "a window"],
)
def test_a_watermark_that_is_declared_again_on_event_time_is_one_watermark(again: Any) -> None:
    plan = again(marked(ub.scan_memory(ub.MemorySource(SCHEMA))))._plan
    assert sum(isinstance(node, Watermark) for node in walk(plan)) == 1
