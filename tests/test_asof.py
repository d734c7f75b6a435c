"""A row finds the nearest one in time of another stream, as in Polars, however both are cut, shuffled and restarted."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.language import Story, same_rows
from tests.sides import SCHEMA, START, at, row
from unbounded.errors import QueryChangedError
from unbounded.plan import evaluate
from unbounded.plan.lineage import Clock, clocks
from unbounded.testing import assert_unified
from unbounded.testing.story import planned

STRATEGIES = ("backward", "forward", "nearest")


def drawn_table(seed: int, height: int = 25) -> pl.DataFrame:
    """Few keys and times, so that many are equal; nulls, NaN and both zeros among them."""
    chance = random.Random(seed)
    rows = [
        row(
            chance.choice([1, 2, None]),
            chance.choice([None, *[chance.randint(0, 99)] * 9]),
            i,  # which row it is: equal times are told apart
            chance.choice([0.0, -0.0, float("nan"), None]),
        )
        for i in range(height)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def marked(*frames: Any) -> list[Any]:
    return [frame.pipe(ub.with_watermark, "t", "10s") for frame in frames]


def nearest(**options: Any) -> Callable[..., Any]:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        return left.join_asof(right, **{"on": "t", "by": "k", **options})

    return pipeline


# ----------------------------------------------------------------------------------------- the law
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tolerance", [None, "0s", "7s", "40s"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_finds_what_polars_finds_in_all_rows_in_time(
    strategy: str, tolerance: str | None, *, exact: bool
) -> None:
    for seed, by in enumerate(["k", None, ["k", "f"], "f"]):
        pipeline = nearest(strategy=strategy, tolerance=tolerance, allow_exact_matches=exact, by=by)
        assert_unified(pipeline, drawn_table(2 * seed), drawn_table(2 * seed + 1), runs=2, output_mode="append")


@pytest.mark.parametrize(
    "options",
    [
        {"coalesce": False},
        {"suffix": "_of_the_other"},
        {"on": None, "left_on": "t", "right_on": "u", "by": None, "by_left": "k", "by_right": "v"},
        {"on": None, "left_on": pl.col("t"), "right_on": pl.col("u"), "by": None, "coalesce": False},
        {"by": ["k", "f", "v"], "strategy": "forward"},
        {"strategy": "nearest", "tolerance": timedelta(seconds=7), "allow_exact_matches": False},
    ],
)
def test_columns_are_named_as_in_polars(options: dict[str, Any]) -> None:
    tables = [drawn_table(20), drawn_table(21)]

    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        if "right_on" in options:
            right = right.rename({"t": "u"})
        return left.join_asof(right, **{"on": "t", "by": "k", "check_sortedness": False, **options})

    _, plan = planned(pipeline, [SCHEMA, SCHEMA])
    in_order = [table.sort("t", maintain_order=True).lazy() for table in tables]
    same_rows(
        evaluate(plan, {f"feed{i}": table for i, table in enumerate(in_order)}).collect(),
        pipeline(*in_order).collect(engine="in-memory"),
    )
    assert_unified(pipeline, *tables, runs=2, output_mode="append")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("dtype", "every", "tolerance"),
    [
        (pl.Date(), 86_400, "2d"),
        (pl.Datetime("ms", "Europe/Berlin"), 1, "3s"),
        (pl.Datetime("ns"), 1, "2500000001ns"),
        (pl.Datetime("us"), 1, "3 seconds"),
    ],
)
def test_times_may_be_of_any_type(dtype: pl.DataType, every: int, tolerance: str, strategy: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = (frame.pipe(ub.with_watermark, "t", timedelta(seconds=9 * every)) for frame in (left, right))
        options: dict[str, Any] = {"tolerance": tolerance} if isinstance(left, ub.StreamFrame) else {}
        return left.join_asof(right, on="t", by="k", strategy=strategy, **options)

    seconds = (pl.col("t") - START).dt.total_seconds() * every
    tables = [drawn_table(seed).with_columns((START + pl.duration(seconds=seconds)).alias("t")) for seed in (22, 23)]
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        tables = [one.with_columns(pl.col("t").dt.replace_time_zone(dtype.time_zone)) for one in tables]
    assert_unified(pipeline, *(one.cast({"t": dtype}) for one in tables), runs=2, output_mode="append")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("by", [None, "k", ["k", "f"]])
@pytest.mark.parametrize("tolerance", [None, "7s", timedelta(seconds=7), "7 seconds"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_finds_the_nearest_of_a_bounded_frame(strategy: Any, tolerance: Any, by: Any, *, exact: bool) -> None:
    table = drawn_table(40).sort("t", maintain_order=True)

    def pipeline(frame: Any) -> Any:
        bounded = isinstance(frame, pl.LazyFrame)
        length = timedelta(seconds=7) if bounded and tolerance else tolerance  # Polars knows no "seconds"
        frame = frame.sort("t", maintain_order=True) if bounded else frame
        options = {"strategy": strategy, "tolerance": length, "allow_exact_matches": exact, "check_sortedness": False}
        return frame.join_asof(table.lazy(), on="t", by=by, **options)

    assert_unified(pipeline, drawn_table(41), runs=1)


# ------------------------------------------------------------------------------- chained operators
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_windows_behind_it_close_when_its_rows_are_final(strategy: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        rows = nearest(strategy=strategy, tolerance="15s")(left, right)
        windows = rows.filter(pl.col("t").is_not_null()).group_by(pl.col("t").dt.truncate("20s"))
        return windows.agg(pl.len().alias("rows"), pl.col("v_right").sum())

    assert_unified(pipeline, drawn_table(24), drawn_table(25), runs=3, output_mode="append")


def counted(frame: Any) -> Any:
    """The rows of each key in windows."""
    return frame.filter(pl.col("t").is_not_null()).group_by("k", pl.col("t").dt.truncate("20s")).agg(rows=pl.len())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_closed_windows_may_be_joined_with_rows(strategy: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        return counted(left).join_asof(right, on="t", by="k", strategy=strategy, tolerance="9s")

    assert_unified(pipeline, drawn_table(26), drawn_table(27), runs=3, output_mode="append")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_may_be_joined_with_closed_windows(strategy: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        return left.join_asof(counted(right), on="t", by="k", strategy=strategy)

    assert_unified(pipeline, drawn_table(28), drawn_table(29), runs=3, output_mode="append")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_starts_of_windows_may_be_joined(strategy: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = (frame.with_columns(w=pl.col("t").dt.truncate("15s")) for frame in marked(left, right))
        near = left.join_asof(right, left_on="w", right_on="t", by="k", strategy=strategy, tolerance="9s")
        windows = near.filter(pl.col("w").is_not_null()).group_by(pl.col("w").dt.truncate("30s"))
        return windows.agg(pl.len().alias("rows"), pl.col("v_right").sum())

    assert_unified(pipeline, drawn_table(30), drawn_table(31), runs=3, output_mode="append")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_may_find_the_nearest_of_three_streams(strategy: str) -> None:
    def pipeline(left: Any, right: Any, third: Any) -> Any:
        (third,) = marked(third)
        both = nearest(strategy=strategy, tolerance="15s")(left, right)
        return both.join_asof(third, on="t", by="k", strategy=strategy, suffix="_third")

    assert_unified(pipeline, *map(drawn_table, (32, 33, 34)), runs=3, output_mode="append")


def test_a_stream_may_be_joined_with_itself() -> None:
    def before(frame: Any) -> Any:
        (frame,) = marked(frame)
        return frame.join_asof(frame, on="t", by="k", allow_exact_matches=False)

    assert_unified(before, drawn_table(35), runs=3)  # in append and in update mode


@pytest.mark.parametrize("mode", ["update", "complete"])
def test_its_rows_may_be_grouped_in_every_mode(mode: Any) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        rows = nearest(strategy="nearest")(left, right)
        return rows.group_by("k").agg(pl.len().alias("rows"), pl.col("v_right").sum())

    assert_unified(pipeline, drawn_table(36), drawn_table(37), runs=3, output_mode=mode)


# -------------------------------------------------------------------------------------- in stories
def test_a_row_comes_out_when_the_watermark_of_both_has_reached_it() -> None:
    story = Story(nearest(), SCHEMA, SCHEMA).add([row(1, 20)], feed=0).add([row(1, 29, 8), row(1, 18, 7)], feed=1)
    assert story.run().answer().is_empty()
    story.add([row(1, 40)], feed=0).add([row(1, 30)], feed=1).run()
    assert story.answer().select("t", "v_right").rows() == [(at(20), 7)]


def test_a_row_that_looks_ahead_comes_out_with_the_first_one_behind_it() -> None:
    story = Story(nearest(strategy="forward"), SCHEMA, SCHEMA)
    story.add([row(1, 20), row(1, 90)], feed=0).add([row(1, 19), row(2, 90)], feed=1).run()
    story.add([row(2, 91), row(1, 82, 5)], feed=1).add([row(9, 95)], feed=0).run()
    assert story.answer().is_empty()  # the watermark is at 81 s, and there is no row of the right up to it
    assert kept(story) == 6  # one is open; of the left two wait, of the right three
    story.add([row(2, 93)], feed=1).run()
    assert story.answer().select("t", "v_right").rows() == [(at(20), 5)]


def test_a_row_that_finds_none_within_the_tolerance_comes_out_alone() -> None:
    story = Story(nearest(strategy="forward", tolerance="5s"), SCHEMA, SCHEMA)
    story.add([row(1, 20), row(1, 34.9)], feed=0).add([row(2, 34.9)], feed=1).run()
    assert story.answer().is_empty()
    story.add([row(1, 35)], feed=0).add([row(2, 35)], feed=1).run()
    assert story.answer().select("t", "v_right").rows() == [(at(20), None)]


def test_the_nearest_is_known_when_the_watermark_is_as_far_ahead_as_the_best_is_behind() -> None:
    story = Story(nearest(strategy="nearest"), SCHEMA, SCHEMA)
    story.add([row(1, 20)], feed=0).add([row(1, 17, 7), row(2, 32.9)], feed=1).add([row(9, 60)], feed=0).run()
    assert story.answer().is_empty()  # one at 23 s would be as near, and later
    story.add([row(2, 33)], feed=1).run()
    assert story.answer()["v_right"].to_list() == [7]


def test_of_two_that_are_as_near_the_later_one_is_found_also_where_it_comes_later() -> None:
    story = Story(nearest(strategy="nearest"), SCHEMA, SCHEMA).add([row(1, 20), row(9, 32.9)], feed=0)
    story.add([row(1, 17, 7), row(1, 23, 8), row(2, 32.9)], feed=1).run()
    assert story.answer().is_empty()
    story.add([row(9, 33)], feed=0).add([row(2, 33)], feed=1).run()
    assert story.answer()["v_right"].to_list() == [8]


def test_a_row_is_found_as_long_as_the_tolerance_reaches() -> None:
    story = Story(nearest(tolerance="5s"), SCHEMA, SCHEMA)
    story.add([row(1, 20)], feed=0).add([row(1, 15, 7)], feed=1)
    for second in (29.9, 30, 31):
        story.add([row(9, second)], feed=0).add([row(9, second)], feed=1).run()
    assert story.answer().filter(pl.col("k") == 1)["v_right"].to_list() == [7]
    assert kept(story) == 6  # rows of the key 9 that wait, and of the key 1 none


@pytest.mark.parametrize(("strategy", "found"), [("backward", 2), ("forward", 3), ("nearest", 4)])
def test_of_rows_of_one_time_the_order_of_arrival_decides_however_they_are_cut(strategy: str, found: int) -> None:
    story = Story(nearest(strategy=strategy), SCHEMA, SCHEMA)
    for value, second in enumerate([19, 19, 19, 21, 21]):
        story.add([row(1, second, value)], feed=1).run()
    assert story.add([row(1, 20)], feed=0).end().answer()["v_right"].to_list() == [found]


def test_a_row_that_is_late_is_counted_and_neither_comes_out_nor_is_found() -> None:
    story = Story(nearest(), SCHEMA, SCHEMA).add([row(1, 100)], feed=0).add([row(1, 100, 5)], feed=1).run()
    story.add([row(1, 90), row(1, 91)], feed=0).add([row(1, 90, 6)], feed=1).run()
    assert story.late == 2
    assert sorted(story.end().answer().select("t", "v_right").rows()) == [(at(91), None), (at(100), 5)]


def test_a_row_that_can_find_nothing_does_not_wait() -> None:
    story = Story(nearest(strategy="forward"), SCHEMA, SCHEMA)
    story.add([row(1, None), row(None, 20)], feed=0).add([row(1, None), row(None, 20)], feed=1).run()
    assert story.answer()["v_right"].to_list() == [None, None]
    assert kept(story) == 0
    assert sum(one.num_rows_without_event_time for p in story.progress for one in p.state_operators) == 2


@pytest.mark.parametrize("behind", ["intended", "written", "committed"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_may_be_found_is_not_forgotten_over_a_crash(strategy: str, behind: Any) -> None:
    story = Story(nearest(strategy=strategy), SCHEMA, SCHEMA)
    story.add([row(1, 20)], feed=0).add([row(1, 19, 7)], feed=1).run()
    story.add([row(1, 60)], feed=0).add([row(1, 24, 8), row(1, 60, 9)], feed=1).crash(behind).restart().run()
    assert story.answer().filter(pl.col("t") == at(20))["v_right"].to_list() == [8 if strategy == "forward" else 7]


def test_zeros_and_nans_are_keys_like_others_and_come_out_as_they_came() -> None:
    numbers, nan = [0.0, -0.0, float("nan")], float("nan")
    story = Story(nearest(by="f", strategy="forward"), SCHEMA, SCHEMA)
    story.add([row(1, 20, i, number) for i, number in enumerate(numbers)], feed=0)
    story.add([row(1, 50)], feed=0).add([row(1, 50, 5, nan)], feed=1).run()
    story.add([row(1, 70)], feed=0).add([row(1, 51, 6, -0.0), row(1, 70)], feed=1).run()
    found = story.answer().filter(pl.col("t") == at(20)).sort("v")
    assert found["v_right"].to_list() == [6, 6, 5]
    assert list(map(str, found["f"])) == ["0.0", "-0.0", "nan"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_kept_does_not_grow_with_what_came(strategy: str) -> None:
    story, most = Story(nearest(strategy=strategy, tolerance="20s"), SCHEMA, SCHEMA), 0
    for minute in range(30):
        story.add([row(key, 60 * minute + key) for key in range(10)], feed=0)
        story.add([row(10 * minute + key, 60 * minute + key) for key in range(10)], feed=1).run()
        most = max(most, kept(story))
    assert most <= 4 * 20


def test_without_a_tolerance_one_row_of_each_key_is_kept_and_a_batch_looks_at_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    story = Story(nearest(), SCHEMA, SCHEMA)
    for second in range(5):
        story.add([row(key, second, second) for key in range(300)], feed=1)
    story.add([row(0, 60)], feed=0).add([row(0, 60)], feed=1).run()
    assert kept(story) == 300 + 2
    last, looked_at = story._batches._tables["join_asof-1/last"], list[int]()
    lookup = last.lookup

    def counted(keys: pl.DataFrame) -> pl.DataFrame:
        looked_at.append(keys.height)
        return lookup(keys)

    monkeypatch.setattr(last, "lookup", counted)
    story.add([row(7, 55)] * 3 + [row(7, 90)], feed=0).add([row(0, 90)], feed=1).run()
    assert story.answer().filter(pl.col("k") == 7)["v_right"].to_list() == [4, 4, 4]
    assert max(looked_at) <= 2  # keys 0 and 7


def kept(story: Any) -> int:
    """Rows in the state of the join after the last batch."""
    return int(story.progress[-1].state_operators[0].num_rows_total)


# ----------------------------------------------------------------------------------------- of time
def clocks_of(pipeline: Callable[..., Any]) -> dict[str, Clock]:
    return clocks(pipeline(*(ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("l", "r")))._plan)


def test_time_behind_it_runs_as_far_behind_as_a_row_waits() -> None:
    assert clocks_of(nearest()) == {"t": Clock()}
    assert clocks_of(nearest(strategy="forward", tolerance="1500us")) == {"t": Clock(behind=2)}
    assert clocks_of(nearest(strategy="nearest", tolerance="7s")) == {"t": Clock(behind=7_000)}
    assert clocks_of(nearest(strategy="nearest")) == {}


# -------------------------------------------------------------------------------------- for people
def test_explain_says_what_is_kept_for_how_long_and_why() -> None:
    told = Story(nearest(strategy="nearest", tolerance="7s"), SCHEMA, SCHEMA)._batches.explain()
    assert "nearest join_asof of two streams" in told
    for line in (
        "key:     'k' = 'k'",
        "state:   bounded by the watermark: rows of both sides",
        "kept:    until the watermark reaches 't', when no earlier row can come; then joined",
        "last:    of the right, the last row of each key, until a later one is there, or the watermark reach",
        "what they found is behind, or the watermark reaches 't' + 7s; then emitted",
        "late:    rows of the left whose 't' and of the right whose 't' the watermark of the batch before had reached",
    ):
        assert line in told
    assert "state:   grows with the keys:" in Story(nearest(), SCHEMA, SCHEMA)._batches.explain()
    assert "state:   bounded by the watermark:" in Story(nearest(by=None), SCHEMA, SCHEMA)._batches.explain()


@pytest.mark.parametrize("strategy", ["forward", "nearest"])
def test_rows_that_may_wait_for_ever_are_announced_at_the_start(strategy: str) -> None:
    left, right = (ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("l", "r"))
    with pytest.warns(ub.UnboundedStateWarning, match=r"without tolerance= keeps a row of the left.*tolerance="):
        nearest(strategy=strategy)(left, right).sink_memory().stop()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tolerance_may_reach_beyond_the_last_time_that_there_is(strategy: str) -> None:
    def before_the_last(seconds: int) -> pl.DataFrame:
        time = pl.lit(2**63 - 1 - seconds * 10**9, pl.Int64).cast(pl.Datetime("ns"))
        return pl.select(k=pl.lit(1, pl.Int64), t=time, v=pl.lit(seconds, pl.Int64))

    pipeline = nearest(strategy=strategy, tolerance="60s")
    story = Story(pipeline, before_the_last(0).schema, before_the_last(0).schema)
    rows: tuple[list[pl.DataFrame], list[pl.DataFrame]] = ([], [])
    for seconds in (90, 70, 50, 30, 15, 0):
        for feed, one in enumerate((before_the_last(seconds), before_the_last(seconds + 14))):
            rows[feed].append(one)
            story.add(one, feed)
        story.run()
    same_rows(story.end().answer(), pipeline(*(pl.concat(each).lazy() for each in rows)).collect(), key=["t"])


def test_the_end_of_a_run_says_how_many_rows_of_the_left_wait(caplog: pytest.LogCaptureFixture) -> None:
    feeds = [ub.MemorySource(SCHEMA), ub.MemorySource(SCHEMA)]
    frames = [ub.scan_memory(feed, name=f"feed{i}") for i, feed in enumerate(feeds)]
    feeds[0].add([row(1, 20), row(1, 35)])
    feeds[1].add([row(1, 19), row(1, 32)])
    with caplog.at_level("INFO", logger="unbounded"):
        nearest(strategy="forward", tolerance="9s")(*frames).sink_memory(trigger=ub.available_now())
    assert (
        "2 rows wait: they come out when later rows move the watermark, which is at 2026-03-01T00:00:22" in caplog.text
    )


def test_what_is_kept_can_be_read_and_another_tolerance_is_not_continued(tmp_path: Path) -> None:
    feeds = [ub.MemorySource(SCHEMA), ub.MemorySource(SCHEMA)]
    frames = [ub.scan_memory(feed, name=f"feed{i}") for i, feed in enumerate(feeds)]
    query = nearest(strategy="nearest", tolerance="9s")(*frames).sink_memory(checkpoint=tmp_path)
    feeds[0].add([row(1, 20, 1), row(1, 35, 2)])
    feeds[1].add([row(1, 19, 3), row(1, 30, 4)])
    query.process_all_available()
    query.stop()
    names = ("waiting", "right", "last", "open")
    tables = {name: ub.read_state(tmp_path, f"join_asof-1/{name}").collect() for name in names}
    assert [tables[name]["v"].to_list() for name in names] == [[2], [4], [3], [1]]
    assert tables["open"]["v_right"].to_list() == [3]
    with pytest.raises(ub.PlanError, match=r'two streams.*"join_asof-1/last" or "join_asof-1/open"'):
        ub.read_state(tmp_path).collect()
    with pytest.raises(QueryChangedError, match="tolerance"):
        nearest(strategy="nearest", tolerance="8s")(*frames).sink_memory(checkpoint=tmp_path)
