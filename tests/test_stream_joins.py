"""A join of two streams is that of all rows in time, whichever side comes first, however they are cut and restarted."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story, same_rows
from tests.sides import SCHEMA, at, row
from unbounded.errors import QueryChangedError
from unbounded.plan.lineage import Clock, clocks
from unbounded.testing import assert_unified

HOWS = ("inner", "left", "right", "full", "semi", "anti")

k, t, v = (pl.col(name) for name in "ktv")
their_k, their_t, their_v = (pl.col(f"{name}_right") for name in "ktv")


def drawn_table(seed: int, height: int = 25) -> pl.DataFrame:
    """Few keys and times, so that many meet; nulls, NaN and both zeros among them."""
    chance = random.Random(seed)
    rows = [
        row(
            chance.choice([1, 2, 3, None]),
            chance.choice([None, *[chance.randint(0, 300)] * 9]),
            chance.randint(0, 9),
            chance.choice([0.0, -0.0, float("nan"), 1.5, None]),
        )
        for _ in range(height)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def marked(*frames: Any, delay: str = "20s") -> list[Any]:
    return [frame.pipe(ub.with_watermark, "t", delay) for frame in frames]


# ------------------------------------------------------------------------------------ the pipelines
def near(how: str, *others: pl.Expr) -> Callable[..., Any]:
    """Rows of one key whose times are near each other."""

    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        times = (their_t >= t - pl.duration(seconds=15), their_t < t + pl.duration(seconds=30))
        return left.ub.join_where(right, k == their_k, *times, *others, how=how)

    return pipeline


def in_one_window(how: str) -> Callable[..., Any]:
    def pipeline(left: Any, right: Any) -> Any:
        windows = [frame.with_columns(w=t.dt.truncate("30s")) for frame in marked(left, right)]
        return windows[0].join(windows[1], on=["k", "w"], how=how)

    return pipeline


def in_truncated_times(how: str) -> Callable[..., Any]:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        return left.ub.join_where(
            right, k.eq_missing(their_k), t.dt.truncate("1m") == their_t.dt.truncate("1m"), how=how
        )

    return pipeline


def at_one_time(how: str, **options: Any) -> Callable[..., Any]:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        return left.join(right, on=["t", "k"], how=how, **options)

    return pipeline


def on_floats(how: str) -> Callable[..., Any]:
    """With a computed key, which is later on one side."""

    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        later = their_t == t + pl.duration(seconds=10)
        return left.ub.join_where(right, pl.col("f") == pl.col("f_right"), later, how=how)

    return pipeline


PIPELINES: dict[str, Callable[..., Any]] = {
    "near": near,
    "near, with conditions on one and both": lambda how: near(how, v > 2, their_v < 8, v != their_v),
    "in one window": in_one_window,
    "in truncated times": in_truncated_times,
    "at one time": at_one_time,
    "at one time, null equal to null": lambda how: at_one_time(how, nulls_equal=True),
    "on floats": on_floats,
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", PIPELINES)
def test_a_join_is_that_of_all_rows_in_time(kind: str, how: str) -> None:
    assert_unified(PIPELINES[kind](how), drawn_table(1), drawn_table(2), runs=3)


@pytest.mark.parametrize("coalesce", [True, False])
def test_the_keys_of_a_full_join_may_be_one_column(*, coalesce: bool) -> None:
    assert_unified(at_one_time("full", coalesce=coalesce), drawn_table(3), drawn_table(4), runs=3)


@pytest.mark.parametrize("how", ["inner", "semi"])
@pytest.mark.parametrize("mode", ["append", "update"])
def test_without_a_time_every_row_is_remembered(how: str, mode: Any) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        return left.join(right, on="k", how=how)

    assert_unified(pipeline, drawn_table(5), drawn_table(6), runs=3, output_mode=mode)


def test_times_that_cannot_be_compared_are_refused_where_it_is_written() -> None:
    left, right = (ub.scan_memory(ub.MemorySource(SCHEMA), name=name).with_watermark("t", "1m") for name in "ab")
    with pytest.raises(pl.exceptions.SchemaError, match=r"time_zone|dtype"):
        left.join_where(right.with_columns(t.dt.replace_time_zone("UTC")), k == their_k, their_t >= t)


def test_pairs_may_be_grouped_in_every_mode() -> None:
    def pipeline(left: Any, right: Any) -> Any:
        return near("inner")(left, right).group_by("k").agg(pl.len().alias("pairs"), v.sum())

    for mode in ("update", "complete"):
        assert_unified(pipeline, drawn_table(7), drawn_table(8), runs=3, output_mode=mode)


# ------------------------------------------------------------------------------- chained operators
@pytest.mark.parametrize("join", [near, in_one_window, in_truncated_times])
@pytest.mark.parametrize("how", ["inner", "left", "right", "full"])
@pytest.mark.parametrize("time", ["t", "t_right"])
def test_windows_behind_a_join_close_when_its_rows_are_final(join: Any, how: str, time: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        rows = join(how)(left, right).filter(pl.col(time).is_not_null())
        return rows.group_by(pl.col(time).dt.truncate("30s")).agg(pl.len().alias("rows"), v.sum())

    assert_unified(pipeline, drawn_table(9), drawn_table(10), runs=3, output_mode="append")


@pytest.mark.parametrize("how", HOWS)
def test_closed_windows_may_be_joined(how: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        counts = [
            frame.filter(t.is_not_null()).group_by("k", t.dt.truncate("30s")).agg(pl.len().alias("rows"))
            for frame in marked(left, right)
        ]
        return counts[0].join(counts[1], on=["k", "t"], how=how)

    assert_unified(pipeline, drawn_table(11), drawn_table(12), runs=3, output_mode="append")


@pytest.mark.parametrize("how", ["inner", "left", "full"])
def test_a_join_may_be_joined_with_a_third_stream_and_grouped(how: str) -> None:
    def pipeline(left: Any, right: Any, third: Any) -> Any:
        (third,) = marked(third)
        third = third.rename({"k": "third_k", "t": "third_t", "v": "third_v", "f": "third_f"})
        close = pl.col("third_t").is_between(t - pl.duration(seconds=10), t + pl.duration(seconds=10))
        both = near(how)(left, right).ub.join_where(third, k == pl.col("third_k"), close, how=how)
        return both.filter(t.is_not_null()).group_by(t.dt.truncate("1m")).agg(pl.len().alias("rows"))

    assert_unified(pipeline, *map(drawn_table, (13, 14, 15)), runs=3, output_mode="append")


@pytest.mark.parametrize("how", HOWS)
def test_a_stream_may_be_joined_with_itself(how: str) -> None:
    def pipeline(frame: Any) -> Any:
        (frame,) = marked(frame)
        later = (their_t > t, their_t <= t + pl.duration(seconds=40))
        return frame.ub.join_where(frame, k == their_k, *later, how=how)

    assert_unified(pipeline, drawn_table(16), runs=3)


def test_distinct_rows_may_be_joined_and_pairs_made_distinct() -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = (frame.unique(["k", "t"]).select("k", "t") for frame in marked(left, right))
        return left.join(right, on="t").select("k", "t").unique()

    assert_unified(pipeline, drawn_table(17), drawn_table(18), runs=3)


# --------------------------------------------------------------------------------- bounded meaning
cells = st.tuples(
    st.sampled_from([1, 2, None]),
    st.one_of(st.none(), st.integers(0, 60)),
    st.integers(0, 3),
    st.sampled_from([0.5, None]),
)
tables = st.lists(cells, max_size=6).map(lambda rows: pl.DataFrame([row(*one) for one in rows], schema=SCHEMA))


@given(left=tables, right=tables, how=st.sampled_from(HOWS))
def test_join_where_of_bounded_frames_is_a_cross_join_less_the_pairs_that_do_not_match(
    left: pl.DataFrame, right: pl.DataFrame, how: str
) -> None:
    asked = (k == their_k, their_t >= t - pl.duration(seconds=20), (v > 0) & (v <= their_v))
    found = left.lazy().ub.join_where(right.lazy(), *asked, how=how).collect()  # type: ignore[attr-defined]  # registered
    theirs = right.select(pl.all().name.suffix("_right"))
    numbered = left.with_row_index("i"), theirs.with_row_index("j")
    pairs = numbered[0].join(numbered[1], how="cross").filter(*asked)
    alone = [one.filter(~pl.col(name).is_in(pairs[name].to_list())) for one, name in zip(numbered, "ij", strict=True)]
    expected = {
        "inner": [pairs],
        "left": [pairs, alone[0]],
        "right": [pairs, alone[1]],
        "full": [pairs, *alone],
        "semi": [numbered[0].filter(pl.col("i").is_in(pairs["i"].to_list()))],
        "anti": [alone[0]],
    }[how]
    same_rows(found, pl.concat(expected, how="diagonal").select(found.columns))


@pytest.mark.parametrize("how", ["inner", "left"])
def test_where_polars_has_the_kind_the_rows_are_its_own(how: Any) -> None:
    left, right = drawn_table(19).lazy(), drawn_table(20).lazy()
    asked = (k == their_k, their_t.is_between(t, t + timedelta(minutes=1)))
    same_rows(
        left.ub.join_where(right, *asked, how=how).collect(),  # type: ignore[attr-defined]  # registered
        left.join_where(right, *asked, how=how).collect(),
    )


# -------------------------------------------------------------------------------------- in stories
def test_a_row_without_a_partner_comes_out_when_none_can_come() -> None:
    story = Story(near("left"), SCHEMA, SCHEMA)
    story.add([row(1, 0), row(2, 0)], feed=0).add([row(2, 10)], feed=1).expect([(2, 0.0, at(0), 0, 2, 0.0, at(10), 0)])
    story.add([row(9, 49)], feed=0).add([row(9, 49.9)], feed=1).run()  # 20 s behind, partners come before second 30
    assert story.answer().height == 2
    assert story.answer().filter(k == 1).is_empty()
    story.add([row(8, 50)], feed=0).add([row(8, 50)], feed=1).run()
    assert story.answer().filter(k == 1)["k_right"].to_list() == [None]


@pytest.mark.parametrize("how", ["inner", "left"])
def test_a_row_is_there_for_a_partner_at_the_last_instant(how: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right, delay="0s")
        return left.ub.join_where(right, k == their_k, their_t <= t + pl.duration(seconds=30), their_t >= t, how=how)

    story = Story(pipeline, SCHEMA, SCHEMA).add([row(1, 0)])
    for feed in (0, 1):
        story.add([row(2, 29.999)], feed)
    story.run().add([row(1, 30)], feed=1).end()
    pairs = story.answer().select("t", "t_right").drop_nulls().sort("t").rows()
    assert pairs == [(at(0), at(30)), (at(29.999), at(29.999))]


@pytest.mark.parametrize("how", ["inner", "left", "full", "semi", "anti"])
def test_a_row_is_there_for_a_partner_at_the_last_time_that_there_is(how: str) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right, delay="10s")
        return left.ub.join_where(
            right, k == their_k, their_t >= t, their_t - t <= pl.duration(seconds=60, time_unit="ns"), how=how
        )

    def before_the_last(seconds: int) -> pl.DataFrame:
        time = pl.lit(2**63 - 1 - seconds * 10**9, pl.Int64).cast(pl.Datetime("ns"))
        return pl.select(k=pl.lit(1, pl.Int64), t=time, v=pl.lit(seconds, pl.Int64))

    story = Story(pipeline, before_the_last(0).schema, before_the_last(0).schema)
    story.add(before_the_last(40), 0).add(before_the_last(50), 1).run()
    story.add(before_the_last(30), 0).add(before_the_last(20), 1).run().add(before_the_last(0), 1).end()
    frames = [pl.concat(map(before_the_last, each)).lazy() for each in ((40, 30), (50, 20, 0))]
    same_rows(story.answer(), pipeline(*frames).collect())


def test_a_watermark_stays_within_the_times_that_there_are() -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right, delay="10s")
        return left.join(right, on=["k", "t"], how="left")

    first = pl.select(k=1, t=pl.lit(-(2**63) + 1_000, pl.Int64).cast(pl.Datetime("ms")))
    later = pl.select(k=1, t=pl.lit(datetime(2026, 3, 1)).cast(pl.Datetime("ms")))
    story = Story(pipeline, first.schema, first.schema)
    for rows in (first, later):
        story.add(rows, 0).add(rows, 1).run()
    assert story.end().answer().equals(pl.concat([first, later]))


def test_a_row_that_is_late_is_counted_and_comes_out_neither_paired_nor_alone() -> None:
    story = Story(near("full"), SCHEMA, SCHEMA)
    story.add([row(1, 100)], feed=0).add([row(1, 100)], feed=1).run()
    story.add([row(1, 80), row(1, 81)], feed=0).add([row(2, 79)], feed=1).run()
    assert story.late == 2
    assert story.end().answer().height == 2


@pytest.mark.parametrize("behind", ["intended", "written", "committed"])
def test_a_partner_is_not_forgotten_over_a_crash(behind: Any) -> None:
    story = Story(near("left"), SCHEMA, SCHEMA)
    story.add([row(1, 0)], feed=0).run().add([row(1, 5)], feed=1).crash(behind).restart().run()
    story.add([row(1, 200)], feed=0).add([row(1, 200)], feed=1)
    assert story.end().answer()["t_right"].to_list() == [at(5), at(200)]


def test_a_row_without_a_time_matches_nothing_and_does_not_wait() -> None:
    story = Story(near("left"), SCHEMA, SCHEMA).add([row(1, None)], feed=0).add([row(1, None), row(1, 3)], feed=1).run()
    assert story.answer()["k_right"].to_list() == [None]
    assert sum(one.num_rows_without_event_time for p in story.progress for one in p.state_operators) == 2


def test_a_row_that_fails_its_own_condition_is_not_remembered() -> None:
    story = Story(near("left", v > 5, their_v > 5), SCHEMA, SCHEMA)
    story.add([row(1, 0, 1), row(1, 0, 6)], feed=0).add([row(1, 0, 1)], feed=1).run()
    assert story.answer()["v"].to_list() == [1]  # alone at once
    assert kept(story) == 1


def test_a_row_is_emitted_once_by_a_semi_join_and_then_forgotten() -> None:
    story = Story(near("semi"), SCHEMA, SCHEMA)
    story.add([row(1, 0)], feed=0).run()
    assert kept(story) == 1
    story.add([row(1, 5), row(1, 6)], feed=1).run()
    assert kept(story) == 2  # of the right
    story.add([row(1, 7)], feed=1).add([row(1, 8)], feed=0).end()
    assert story.answer()["t"].to_list() == [at(0), at(8)]


def test_a_row_that_finds_a_partner_leaves_an_anti_join() -> None:
    story = Story(near("anti"), SCHEMA, SCHEMA)
    story.add([row(1, 0), row(1, 200), row(2, 0)], feed=0).run().add([row(1, 5)], feed=1).run()
    assert kept(story) == 3
    assert sorted(story.end().answer().select("k", "t").rows()) == [(1, at(200)), (2, at(0))]


def test_what_is_kept_does_not_grow_with_what_came() -> None:
    story, most = Story(near("full"), SCHEMA, SCHEMA), 0
    for minute in range(40):
        for feed in (0, 1):
            story.add([row(key, 60 * minute + key) for key in range(10)], feed=feed)
        story.run()
        most = max(most, kept(story))
    assert most <= 2 * 20


def test_of_a_key_with_many_rows_only_those_near_the_time_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right, delay="2h")
        return left.join_where(right, k == their_k, (their_t - t).abs() <= pl.duration(seconds=10), how="left")

    story = Story(pipeline, SCHEMA, SCHEMA).add([row(1, 10 * i) for i in range(500)], feed=0).run()
    left, looked_at = story._batches._tables.multimaps["join-1/left"], list[int]()
    probe = left.probe

    def counted(keys: pl.DataFrame) -> pl.DataFrame:
        found = probe(keys)
        looked_at.append(found.height)
        return found

    monkeypatch.setattr(left, "probe", counted)
    story.add([row(1, 2500)], feed=1).run()
    assert story.answer()["t"].sort().to_list() == [at(2490), at(2500), at(2510)]
    assert sum(looked_at) <= 6


def kept(story: Any) -> int:
    """Rows in the state of the join after the last batch."""
    return int(story.progress[-1].state_operators[0].num_rows_total)


# ----------------------------------------------------------------------------------------- of time
def clocks_of(pipeline: Callable[..., Any]) -> dict[str, Clock]:
    return clocks(pipeline(*(ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("l", "r")))._plan)


def test_times_behind_a_join_run_as_far_behind_as_its_rows_wait() -> None:
    assert clocks_of(near("left")) == {"t": Clock(behind=30_000), "t_right": Clock(behind=15_000)}
    beside = {"t": Clock(behind=30_000), "t_right": Clock(behind=30_000)}  # a time waits for the end of its window
    assert clocks_of(in_one_window("inner")) == {"w": Clock("30s"), **beside}
    assert clocks_of(in_truncated_times("semi")) == {"t": Clock(behind=60_000)}
    assert clocks_of(at_one_time("full", coalesce=True)) == {"t": Clock()}
    assert clocks_of(near("semi")) == {"t": Clock(behind=30_000)}


def test_without_a_bound_there_is_no_event_time_behind_a_join() -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left, right)
        return left.ub.join_where(right, k == their_k, their_t >= t)

    assert clocks_of(pipeline) == {"t_right": Clock()}  # a row of the left may wait for ever, one of the right does not


def test_one_watermark_is_enough_where_times_are_equal() -> None:
    def pipeline(left: Any, right: Any) -> Any:
        return left.pipe(ub.with_watermark, "t", "0s").join(right, on=["k", "t"], how="full")

    story = Story(pipeline, SCHEMA, SCHEMA)
    story.add([row(1, 10)], feed=0).add([row(2, 5)], feed=1).run()
    assert kept(story) == 0
    story.add([row(2, 5)], feed=1).run()
    assert story.late == 1  # what it could have met is forgotten
    assert story.answer().height == 2


# -------------------------------------------------------------------------------------- for people
def test_explain_says_what_is_kept_of_each_side_and_why() -> None:
    story = Story(near("left"), SCHEMA, SCHEMA)
    told = story._batches.explain()
    assert "left join of two streams" in told
    assert "left:    kept until the watermark reaches 't' + 30s, when no partner can come; then emitted, if" in told
    assert "right:   kept until the watermark reaches 't_right' + 15s, when no partner can come; then forg" in told
    assert "late:    rows of the left whose 't' and of the right whose 't_right' the watermark" in told


def test_state_that_grows_is_announced_at_the_start() -> None:
    left, right = (ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("l", "r"))
    with pytest.warns(ub.UnboundedStateWarning, match=r"every row of its left and right side for ever.*join_where"):
        left.join(right, on="k").sink_memory().stop()


def test_what_is_kept_of_a_side_can_be_read(tmp_path: Path) -> None:
    feeds = [ub.MemorySource(SCHEMA), ub.MemorySource(SCHEMA)]
    left, right = (ub.scan_memory(feed, name=f"feed{i}") for i, feed in enumerate(feeds))
    query = near("left")(left, right).sink_memory(checkpoint=tmp_path)
    feeds[0].add([row(1, 0, 7)])
    feeds[1].add([row(2, 3, 8)])
    query.process_all_available()
    query.stop()
    ours, theirs = (ub.read_state(tmp_path, f"join-1/{side}").collect() for side in ("left", "right"))
    assert ours.select("k", "t", "v", "__matched__").rows() == [(1, at(0), 7, False)]
    assert theirs.select("k", "t", "v").rows() == [(2, at(3), 8)]
    with pytest.raises(ub.PlanError, match=r'rows of two streams.*"join-1/left" or "join-1/right"'):
        ub.read_state(tmp_path).collect()


def test_another_interval_is_not_continued(tmp_path: Path) -> None:
    feeds = [ub.MemorySource(SCHEMA), ub.MemorySource(SCHEMA)]
    frames = [ub.scan_memory(feed, name=f"feed{i}") for i, feed in enumerate(feeds)]
    near("left")(*frames).sink_memory(checkpoint=tmp_path).stop()
    left, right = marked(*frames)
    changed = left.join_where(right, k == their_k, their_t >= t, their_t < t + pl.duration(seconds=30), how="left")
    with pytest.raises(QueryChangedError, match="conditions"):
        changed.sink_memory(checkpoint=tmp_path)
