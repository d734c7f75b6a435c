"""Does `unique_within_watermark` let the first row of a value pass, and forget the value when its delay is over?"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.operators.unique import UniqueOperator
from unbounded.plan import Unique
from unbounded.testing import assert_unified

START = datetime(2026, 3, 1)
SCHEMA: dict[str, Any] = {"k": pl.String, "x": pl.Float64, "t": pl.Datetime("us")}

rows = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", "c", None]),
            "x": st.sampled_from([0.0, -0.0, 1.0, float("nan"), None]),
            "t": st.one_of(st.none(), st.integers(0, 1800).map(lambda s: START + timedelta(seconds=s))),
        }
    ),
    max_size=20,
)


def at(minute: float, k: str = "a") -> dict[str, Any]:
    return {"k": k, "x": minute, "t": START + timedelta(minutes=minute)}


def first_ones(frame: Any) -> Any:
    return frame.pipe(ub.with_watermark, "t", "5m").pipe(ub.unique_within_watermark, "k")


PIPELINES: dict[str, Any] = {
    "by a key": first_ones,
    "by all columns": lambda f: f.pipe(ub.with_watermark, "t", "5m").pipe(ub.unique_within_watermark),
    "by a float": lambda f: f.pipe(ub.with_watermark, "t", "2m").pipe(ub.unique_within_watermark, ["x"]),
    "by the time": lambda f: f.pipe(ub.with_watermark, "t", "0s").pipe(ub.unique_within_watermark, ["k", "t"]),
    "twice": lambda f: first_ones(f).pipe(ub.unique_within_watermark, "x"),
    "before windows": lambda f: (
        first_ones(f)
        .with_columns(pl.col("x").fill_nan(None))
        .group_by_dynamic("t", every="10m")
        .agg(pl.len(), pl.col("x").sum())
    ),
    "behind windows": lambda f: (
        f.pipe(ub.with_watermark, "t", "5m")
        .group_by_dynamic("t", every="2m", group_by="k")
        .agg(pl.len())
        .pipe(ub.unique_within_watermark, "k")
    ),
    "between windows": lambda f: (
        first_ones(f)
        .group_by_dynamic("t", every="2m")
        .agg(pl.len())
        .pipe(ub.unique_within_watermark, "len")
        .group_by_dynamic("t", every="10m")
        .agg(pl.len().alias("n"), pl.col("len").sum())
    ),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
@given(table=rows, seed=st.integers(0, 1000))
def test_it_gives_the_first_rows_to_arrive_however_they_are_cut(
    pipeline: str, table: list[dict[str, Any]], seed: int
) -> None:
    frame = pl.DataFrame(table, SCHEMA)
    if "windows" in pipeline:  # which Polars' own group_by_dynamic asks for
        frame = frame.drop_nulls("t")
    assert_unified(PIPELINES[pipeline], frame, output_mode="append", runs=2, seed=seed)


@given(
    times=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300)), max_size=20),
    cuts=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_no_value_comes_twice_where_its_rows_lie_within_the_delay(
    times: list[tuple[str, int]], cuts: list[bool]
) -> None:
    story = Story(first_ones, SCHEMA)
    for (k, second), settle in zip(times, cuts, strict=False):
        story.add([at(30 * "abc".index(k) + second / 60, k)])
        if settle:
            story.run()
    answer = story.run().answer()
    assert answer["k"].is_unique().all()
    if not story.late:
        bounded = pl.LazyFrame([at(30 * "abc".index(k) + s / 60, k) for k, s in times], SCHEMA)
        same_rows(answer, ub.unique_within_watermark(bounded, "k").collect())


def test_of_groups_that_close_together_the_one_of_the_earliest_time_comes_first() -> None:
    def pipeline(frame: Any) -> Any:
        times = frame.pipe(ub.with_watermark, "t", "1s").group_by("t", "k").agg(pl.len())
        return times.pipe(ub.unique_within_watermark, "k").select("k", "t")

    times = [START + timedelta(microseconds=900 - i) for i in range(50)]  # the watermark counts milliseconds
    story = Story(pipeline, SCHEMA).add(pl.DataFrame({"k": "a", "x": 0.0, "t": times}, SCHEMA)).end()
    assert story.answer().rows() == [("a", min(times))]


def test_a_value_is_forgotten_when_the_watermark_reaches_its_first_row_plus_the_delay() -> None:
    story = Story(first_ones, SCHEMA)
    story.add([at(0)]).run().add([at(4)]).run().add([at(9.9, "b")]).run()  # the watermark is at 4.9
    story.add([at(5)]).run()
    assert story.answer()["x"].to_list() == [0.0, 9.9]
    story.add([at(10, "c")]).run().restart().add([at(5.1)]).run()  # at 5, the first row plus the delay
    assert story.answer()["x"].to_list() == [0.0, 9.9, 10.0, 5.1]
    assert story.late == 0


def test_rows_without_a_time_are_forgotten_with_their_batch_and_counted() -> None:
    story = Story(first_ones, SCHEMA)
    nowhen = [{"k": "n", "x": 1.0, "t": None}, {"k": "n", "x": 2.0, "t": None}]
    story.add(nowhen).run().add(nowhen).run()
    assert story.answer()["x"].to_list() == [1.0, 1.0]
    assert [p.state_operators[0].num_rows_total for p in story.progress] == [0, 0]
    assert [p.state_operators[0].num_rows_without_event_time for p in story.progress] == [1, 1]


def test_rows_without_a_time_that_unique_keeps_for_ever_are_counted() -> None:
    story = Story(lambda f: f.with_watermark("t", "0s").unique(["k", "t"]), SCHEMA)
    story.add([{"k": "n", "x": 1.0, "t": None}, at(1)]).run().add([at(60)]).run()
    assert [p.state_operators[0].num_rows_without_event_time for p in story.progress] == [1, 0, 0, 0]
    assert story.progress[-1].state_operators[0].num_rows_total == 1


def test_the_delay_may_change_over_a_restart() -> None:
    story = Story(first_ones, SCHEMA)
    before = story._plan
    after = Story(lambda f: f.with_watermark("t", "1h").unique_within_watermark("k"), SCHEMA)._plan
    assert isinstance(before, Unique)
    assert isinstance(after, Unique)
    assert [before.within, after.within] == [300_000, 3_600_000]
    assert UniqueOperator("u", before).pinned() == UniqueOperator("u", after).pinned()


def test_the_namespace_says_the_same_on_both_kinds_of_frames() -> None:
    table = pl.LazyFrame([at(0), at(1), at(0, "b")], SCHEMA)
    same_rows(table.ub.unique_within_watermark("k").collect(), table.unique("k", keep="first").collect())  # type: ignore[attr-defined]  # registered
    story = Story(lambda f: f.ub.with_watermark("t", "1m").ub.unique_within_watermark("k"), SCHEMA)
    story.add(table.collect()).run().expect(table.unique("k", keep="first").collect())
