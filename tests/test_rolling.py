"""Rows meet those around them in the order of event time as in plain Polars, however they come, cut and restarted."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.errors import QueryChangedError
from unbounded.plan.lineage import Clock, clocks
from unbounded.testing import assert_unified

SCHEMA: dict[str, Any] = {
    "k": pl.String,
    "f": pl.Float64,
    "v": pl.Int64,
    "x": pl.Float64,
    "b": pl.Boolean,
    "s": pl.String,
    "t": pl.Datetime("us"),
}
START = datetime(2026, 3, 1)
k, v, x, b, s, t = (pl.col(name) for name in "kvxbst")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def drawn_table(seed: int, height: int = 30, seconds: int = 60) -> pl.DataFrame:
    """Few keys and times, so that many meet; nulls, NaN and both zeros among keys and values."""
    chance = random.Random(seed)
    rows = [
        {
            "k": chance.choice(["a", "b", None]),
            "f": chance.choice([0.0, -0.0, float("nan"), None]),
            "v": chance.choice([None, *range(-5, 6)]),
            "x": chance.choice([None, float("nan"), float("inf"), 1.5, -2.25, 0.0, 1e6]),
            "b": chance.choice([None, True, False]),
            "s": chance.choice([None, "x", "y", "zz"]),
            "t": at(chance.randint(0, seconds)),
        }
        for _ in range(height)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def marked(frame: Any, delay: str = "10s") -> Any:
    return frame.pipe(ub.with_watermark, "t", delay)


def along(expr: pl.Expr, *keys: Any) -> pl.Expr:
    return expr.over(*keys, order_by="t") if keys else expr.over(order_by="t")


# ------------------------------------------------------------------------------------- expressions
EXPRESSIONS: dict[str, pl.Expr] = {
    "shift": along(v.shift(), "k"),
    "shift of two keys, filled": along(v.shift(2, fill_value=7), "k", "f"),
    "shift by nothing": along(v.shift(0), "k"),
    "diff": along(v.diff(), "f"),
    "diff of three": along(v.diff(3), "k"),
    "gaps": along(t.diff().dt.total_seconds(), "k"),
    "pct_change": along(x.pct_change(2), "k"),
    "cum_sum": along(v.cum_sum(), "k"),
    "cum_sum of floats": along(x.cum_sum(), "k"),
    "cum_sum of booleans": along(b.cum_sum(), "k"),
    "cum_sum of small numbers": along(v.cast(pl.Int8).cum_sum(), "k"),
    "cum_prod": along(v.cum_prod(), "k"),
    "cum_min": along(x.cum_min(), "k"),
    "cum_max": along(x.cum_max(), "f"),
    "cum_min of text": along(s.cum_min(), "k"),
    "cum_count": along(v.cum_count()),
    "forward_fill": along(s.forward_fill(), "k"),
    "forward_fill of two": along(v.forward_fill(2), "k"),
    "rolling_mean": along(v.rolling_mean(3), "k"),
    "rolling_sum": along(v.rolling_sum(4, min_samples=1), "k"),
    "rolling_quantile": along(v.rolling_quantile(0.3, window_size=3)),
    "rolling_mean_by": v.rolling_mean_by("t", "5s").over("k"),
    "rolling_sum_by of all": v.rolling_sum_by("t", "5s"),
    "rolling_std_by": v.cast(pl.Float64).rolling_std_by("t", "7s", closed="both").over("f"),
    "rolling_median_by": v.rolling_median_by("t", "7s", closed="left").over("k", "f"),
    "rolling_quantile_by": v.rolling_quantile_by("t", "9s", quantile=0.3, closed="none", min_samples=2).over("k"),
    "rolling_max_by of all time": v.rolling_max_by("t", "1d").over("k"),
    "rolling_rank_by": v.rolling_rank_by("t", "5s").over("k"),
    "rolling": v.n_unique().rolling("t", period="5s").over("k"),
    "rolling before": v.sum().rolling("t", period="5s", offset="-8s").over("k"),
    "rolling behind": v.sum().rolling("t", period="5s", offset="0s", closed="left").over("k"),
    "rolling of several columns": (v.sum() / b.sum()).rolling("t", period="5s").over("k"),
    "rolling of structs": pl.struct("v", "s").last().rolling("t", period="5s", closed="both").over("k"),
    "rolling of the time": t.min().rolling("t", period="3s").over("k"),
    "shift of rolling": along(v.rolling_sum_by("t", "5s").shift(), "k"),
    "rolling_by of shift": along(v.shift().rolling_sum_by("t", "5s"), "k"),
    "calls of calls": along((v.cum_sum() - v.cum_sum().shift()).fill_null(0).rolling_sum(2), "k"),
    "beside single rows": (v - along(v.shift(), "k")) * 2 + x,
    "within a choice": pl.when(along(v.shift(), "k").is_null()).then(0).otherwise(v),
    "a number for sessions": along((t.diff() > timedelta(seconds=5)).cum_sum(), "k"),
    "a computed key": along(v.cum_sum(), s.str.len_chars()),
    "the time as key": along(v.cum_sum(), "t"),
    "the time as key of a window": v.rolling_sum_by("t", "5s").over("t"),
    "filled with a number": along(v.shift().fill_null(strategy="zero"), "k"),
    "several columns": along(pl.col("v", "x").diff(), "k").name.suffix("_diff"),
}
NAMED = {name: expr if name == "several columns" else expr.alias(name) for name, expr in EXPRESSIONS.items()}


def with_all(frame: Any) -> Any:
    return marked(frame, "1h").with_columns(NAMED.values())


def test_every_expression_gives_what_polars_gives_over_a_table() -> None:
    rows = drawn_table(0, height=60)
    story = Story(with_all, SCHEMA)
    for start in range(0, 60, 7):
        story.add(rows[start : start + 7]).batch()
    same_rows(story.end().answer(), with_all(rows.lazy()).collect())


def test_every_expression_gives_what_polars_gives_where_each_row_comes_out_before_the_next() -> None:
    def soon(frame: Any) -> Any:
        return marked(frame, "0s").with_columns(expr for name, expr in NAMED.items() if name != "rolling behind")

    rows = drawn_table(1, height=25).unique("t", keep="first").sort("t")
    story = Story(soon, SCHEMA)
    for row in range(rows.height):
        story.add(rows[row : row + 1]).run().restart()
        assert story.answer().height == row + 1
    same_rows(story.answer(), soon(rows.lazy()).collect())


@given(
    st.lists(st.sampled_from(sorted(NAMED)), min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.integers(0, 1_000_000),
)
def test_expressions_are_those_of_all_rows_in_time(names: list[str], adds: bool, seed: int) -> None:
    def pipeline(frame: Any) -> Any:
        wanted = [NAMED[name] for name in names]
        return marked(frame).with_columns(wanted) if adds else marked(frame).select("t", "k", *wanted)

    assert_unified(pipeline, drawn_table(seed), runs=1, seed=seed)


@pytest.mark.parametrize("verb", ["filter", "remove"])
def test_rows_are_chosen_by_those_around_them(verb: str) -> None:
    def pipeline(frame: Any) -> Any:
        known = along(v.shift(), "k").is_not_null()
        return getattr(marked(frame), verb)(known & (v >= along(v.shift(), "k")), v.rolling_sum_by("t", "9s") > 0)

    rows = drawn_table(12)
    assert_unified(pipeline, rows, runs=4)
    same_rows(Story(pipeline, SCHEMA).add(rows).end().answer(), pipeline(rows.lazy()).collect())


OF_ANY_TYPE: dict[str, pl.Expr] = {
    "Float32": v.cast(pl.Float32),
    "Int8": v.cast(pl.Int8),
    "UInt32": v.abs().cast(pl.UInt32),
    "Int128": v.cast(pl.Int128),
    "Decimal": v.cast(pl.Decimal(10, 2)),
    "Duration": v.cast(pl.Duration("ms")),
    "Date": v.cast(pl.Int32).cast(pl.Date),
    "Enum": s.cast(pl.Enum(["x", "y", "zz"])),
    "List": pl.concat_list("v", "v"),
    "Struct": pl.struct("v", "s"),
}


@pytest.mark.parametrize("name", OF_ANY_TYPE)
def test_values_of_any_type_are_remembered_as_they_are(name: str) -> None:
    value = OF_ANY_TYPE[name]
    calls = [value.shift(2), value.forward_fill(), value.cum_count()]
    if name not in ("Enum", "List", "Struct"):
        calls += [value.cum_max(), *([value.cum_sum(), value.diff()] if name != "Date" else [])]

    def pipeline(frame: Any) -> Any:
        return marked(frame, "0s").select(along(one, "k").alias(str(i)) for i, one in enumerate(calls))

    rows = drawn_table(2).sort("t")
    story = Story(pipeline, SCHEMA)
    for start in range(0, rows.height, 4):
        story.add(rows[start : start + 4]).batch()
    assert_frame_equal(story.end().answer(), pipeline(rows.lazy()).collect())


# ------------------------------------------------------------------------------------------ rolling
WINDOWS: list[dict[str, Any]] = [
    {},
    {"group_by": "k"},
    {"group_by": ["k", pl.col("v") % 2], "closed": "both"},
    {"group_by": "f", "closed": "left"},
    {"group_by": "k", "closed": "none"},
    {"group_by": "k", "offset": "-2s"},
    {"group_by": "k", "offset": "0s", "closed": "left"},
    {"group_by": "k", "offset": "2s", "closed": "both"},
    {"group_by": "k", "offset": "-30s"},
    {"period": "1d", "group_by": "k"},
    {"period": timedelta(seconds=9)},
]


@given(st.sampled_from(WINDOWS), st.integers(0, 1_000_000))
def test_windows_around_rows_are_those_of_all_rows_in_time(window: dict[str, Any], seed: int) -> None:
    def pipeline(frame: Any) -> Any:
        rolled = marked(frame).rolling("t", **{"period": "5s", **window})
        return rolled.agg(pl.len(), v.sum().alias("sum"), v.median().alias("median"), s, pl.first("b"))

    assert_unified(pipeline, drawn_table(seed), runs=1, seed=seed)
    rows = drawn_table(seed)
    same_rows(Story(pipeline, SCHEMA).add(rows).end().answer(), pipeline(rows.lazy()).collect())


@pytest.mark.parametrize(
    "dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "Europe/Berlin")], ids=str
)
@pytest.mark.parametrize("period", ["1d", "3d", "1mo"])
def test_windows_of_days_and_months_are_those_of_their_zone(dtype: Any, period: str) -> None:
    days = [datetime(2026, 3, 1) + timedelta(days=day) for day in (0, 0, 3, 1, 28, 29, 27, 60, 31, 59)]
    rows = pl.DataFrame({"t": days, "v": range(10)}).with_columns(t.dt.replace_time_zone("UTC").cast(dtype))

    def pipeline(frame: Any) -> Any:
        return marked(frame, "3d").rolling("t", period=period, closed="both").agg(v.sum(), pl.len())

    assert_unified(pipeline, rows, runs=6)


def test_having_and_the_short_aggregates_are_there() -> None:
    def pipeline(frame: Any) -> Any:
        rolled = marked(frame).select("k", "v", "t").rolling("t", period="20s", group_by="k")
        return rolled.having(pl.len() > 1).agg(pl.all().sum())

    assert_unified(pipeline, drawn_table(3), runs=3)
    assert_unified(lambda frame: marked(frame).select("v", "t").rolling("t", period="9s").max(), drawn_table(4), runs=3)


# ------------------------------------------------------------------------------- when rows come out
def test_a_row_comes_out_when_the_watermark_reaches_it_and_meets_all_of_its_time() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame).select("t", "v", v.rolling_sum_by("t", "5s").alias("sum"))

    story = Story(pipeline, {"t": pl.Datetime("us"), "v": pl.Int64})
    story.add([{"t": at(20), "v": 1}, {"t": at(10), "v": 2}]).expect([(at(10), 2, 2)])
    story.add([{"t": at(20), "v": 4}, {"t": at(29), "v": 8}]).expect([(at(10), 2, 2)])
    story.add([{"t": at(30), "v": 0}])  # the watermark reaches 20
    story.expect([(at(10), 2, 2), (at(20), 1, 5), (at(20), 4, 5)])
    story.add([{"t": at(20), "v": 16}]).end()
    assert story.late == 1
    assert story.answer().filter(t > at(20)).rows() == [(at(29), 8, 8), (at(30), 0, 8)]


def test_a_window_that_ends_behind_its_row_is_awaited() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame, "0s").rolling("t", period="5s", offset="0s").agg(v.sum())

    story = Story(pipeline, {"t": pl.Datetime("us"), "v": pl.Int64})
    story.add([{"t": at(0), "v": 1}, {"t": at(4), "v": 2}]).expect([])
    story.add([{"t": at(5), "v": 4}]).expect([(at(0), 6)])
    story.end().expect([(at(0), 6), (at(4), 4), (at(5), 0)])
    assert clocks(story.plan)["t"] == Clock(behind=5000)


def test_a_row_is_not_forgotten_before_the_windows_that_end_with_it_are_told() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame).rolling("t", period="5s", offset="2s", closed="both").agg(v.sum())

    story = Story(pipeline, {"t": pl.Datetime("us"), "v": pl.Int64}).add([{"t": at(32), "v": 1}]).batch()
    story.add([{"t": at(10), "v": 2}, {"t": at(17), "v": 4}])  # the watermark has come to 22 meanwhile
    story.batch().expect([(at(10), 4)])


def test_rows_without_a_time_are_left_out_and_counted() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame).with_columns(before=along(v.shift()))

    story = Story(pipeline, {"t": pl.Datetime("us"), "v": pl.Int64})
    story.add([{"t": None, "v": 1}, {"t": at(1), "v": 2}]).end().expect([(at(1), 2, None)])
    assert sum(one.num_rows_without_event_time for p in story.progress for one in p.state_operators) == 1


# ----------------------------------------------------------------------------------- what is kept
def test_a_key_that_was_silent_goes_on_from_where_it_was() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame, "0s").select("k", "t", along(v.cum_sum(), "k").alias("sum"), along(v.shift(), "k"))

    story = Story(pipeline, {"k": pl.String, "t": pl.Datetime("us"), "v": pl.Int64})
    story.add([{"k": "a", "t": at(0), "v": 3}, {"k": "a", "t": at(1), "v": None}]).run().restart()
    story.add([{"k": "b", "t": at(n), "v": 1} for n in range(2, 9)]).run()
    story.add([{"k": "a", "t": at(10_000), "v": 4}]).run()
    assert story.answer().filter(k == "a")["sum"].to_list() == [3, None, 7]
    assert story.answer().filter(k == "a")["v"].to_list() == [None, 3, None]


def test_rows_are_forgotten_when_no_later_window_reaches_them() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame, "1s").select("t", v.rolling_sum_by("t", "5s").over("k"))

    story = Story(pipeline, SCHEMA)
    story.add(drawn_table(5, height=200, seconds=100)).run()
    assert story.answer().height > 150
    held = story._batches._tables.multimaps["over-1/within-1"].scan()
    assert 0 < held.height < 30
    assert (held["t"] > at(93)).all()


def test_the_last_rows_of_each_key_are_kept_and_no_others() -> None:
    def pipeline(frame: Any) -> Any:
        return marked(frame, "0s").select("t", along(v.diff(3), "k"), along(v.cum_sum(), "k").alias("c"))

    story = Story(pipeline, SCHEMA)
    story.add(drawn_table(6, height=200, seconds=100)).run()
    assert len(story._batches._tables["over-1/before-1"]) == 3 * 3


def test_another_window_is_another_query_and_other_single_rows_are_not(tmp_path: Path) -> None:
    frame = marked(ub.scan_memory(ub.MemorySource(SCHEMA), name="feed"))

    def started(length: str, factor: int) -> ub.StreamingQuery:
        means = factor * v.rolling_mean_by("t", length).over("k")
        query: ub.StreamingQuery = frame.with_columns(means.alias("mean")).sink_memory(checkpoint=tmp_path)
        return query

    started("5m", 1).stop()
    started("5m", 2).stop()
    with pytest.raises(QueryChangedError, match="looks"):
        started("6m", 2)


def test_what_is_kept_can_be_read(tmp_path: Path) -> None:
    feed = ub.MemorySource(SCHEMA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ub.UnboundedStateWarning)
        frame = marked(ub.scan_memory(feed, name="feed")).with_columns(sum=along(v.cum_sum(), "k"))
        query = frame.sink_memory(checkpoint=tmp_path)
    rows = drawn_table(7).sort("t")
    feed.add(rows)
    query.process_all_available()
    query.stop()
    waiting = ub.read_state(tmp_path).collect()
    waits = t > t.max() - timedelta(seconds=10)
    assert waiting.equals(rows.filter(waits))
    sums = rows.filter(~waits).group_by("k").agg(v.sum())
    same_rows(ub.read_state(tmp_path, "over-1/before-1").collect().select("k", pl.last().alias("v")), sums)


def test_the_end_of_a_run_says_how_many_rows_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    feed = ub.MemorySource(SCHEMA)
    feed.add([{"t": at(0)}, {"t": at(15)}, {"t": at(16)}])
    frame = marked(ub.scan_memory(feed)).rolling("t", period="5s").agg(v.sum())
    with caplog.at_level("INFO", logger="unbounded"):
        frame.sink_memory(trigger=ub.available_now())
    assert (
        "2 rows wait: they come out when later rows move the watermark, which is at 2026-03-01T00:00:06" in caplog.text
    )


# ------------------------------------------------------------------------------------------- chains
CHAINS: dict[str, Callable[[Any], Any]] = {
    "windows of changes": lambda f: (
        f.with_columns(change=along(v.diff(), "k"))
        .group_by_dynamic("t", every="10s", group_by="k")
        .agg(pl.col("change").sum(), pl.len())
    ),
    "changes of windows": lambda f: (
        f.group_by_dynamic("t", every="10s", group_by="k")
        .agg(v.sum())
        .with_columns(change=along(v.diff(), "k"), last=v.rolling_sum_by("t", "30s").over("k"))
    ),
    "rolling of rolling": lambda f: (
        f.rolling("t", period="5s", group_by="k")
        .agg(v.sum())
        .rolling("t", period="20s", group_by="k")
        .agg(v.max(), pl.len())
    ),
    "windows of what waits longer": lambda f: (
        f.rolling("t", period="9s", offset="0s", group_by="k")
        .agg(v.sum())
        .pipe(marked)
        .group_by_dynamic("t", every="10s")
        .agg(v.max(), pl.len())
    ),
    "sums once": lambda f: f.select("k", "t", c=along(b.cum_sum(), "k")).pipe(ub.unique_within_watermark, ["k", "c"]),
    "sums once per time, by its window": lambda f: f.with_columns(t.dt.truncate("3s"), c=along(b.cum_sum(), "k")).pipe(
        ub.unique_within_watermark, ["t", "k", "c"]
    ),
    "changes once": lambda f: f.filter(v != along(v.shift(), "k")).pipe(ub.unique_within_watermark, ["k", "v"]),
    "windows once": lambda f: (
        f.rolling("t", period="9s", offset="0s", group_by="k").agg(v.sum()).pipe(ub.unique_within_watermark, ["k", "v"])
    ),
    "first ones of sums": lambda f: f.select("t", along(v.cum_sum(), "k")).unique(["t", "v"]),
    "sessions of numbered rows": lambda f: (
        f.with_columns(n=along(v.cum_count(), "k"))
        .pipe(ub.group_by_session, "t", gap="3s", group_by="k")
        .agg(pl.max("n"))
    ),
    "three deep": lambda f: (
        f.with_columns(change=along(v.diff(), "k"))
        .group_by_dynamic("t", every="10s", group_by="k")
        .agg(pl.col("change").sum())
        .with_columns(so_far=along(pl.col("change").cum_sum(), "k"))
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_what_looks_around_stands_behind_and_before_other_operators(chain: str) -> None:
    rows = drawn_table(8, height=40)
    assert_unified(lambda frame: CHAINS[chain](marked(frame)), rows, runs=8, output_mode="append")
    if "once" not in chain:  # which values are forgotten meanwhile
        story = Story(lambda frame: CHAINS[chain](marked(frame)), SCHEMA).add(rows).end()
        same_rows(story.answer(), CHAINS[chain](marked(rows.lazy())).collect())


def test_rows_of_a_join_meet_those_around_them() -> None:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = marked(left), marked(right)
        soon = pl.col("t_right").is_between(t, t + pl.duration(seconds=5))
        joined = left.ub.join_where(right, k == pl.col("k_right"), soon)
        return joined.select("k", "t", "t_right", longest=(pl.col("t_right") - t).rolling_max_by("t", "9s").over("k"))

    assert_unified(pipeline, drawn_table(10), drawn_table(11), runs=8)
    feeds = (ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in "lr")
    assert clocks(pipeline(*feeds)._plan) == {"t": Clock(behind=5000)}  # rows of one t_right wait for different times


def test_above_a_whole_answer_expressions_see_all_of_it() -> None:
    def pipeline(frame: Any) -> Any:
        days = marked(frame).group_by_dynamic("t", every="10s").agg(v.sum())
        return days.with_columns(before=along(v.shift()), all=along(v.cum_sum()).alias("sum"))

    assert_unified(pipeline, drawn_table(9), runs=4, output_mode="complete")
