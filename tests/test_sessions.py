"""Are sessions those of all rows, however the input is cut, and do those that were merged away leave the table?"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story, same_rows
from tests.test_laws import AGGREGATES
from unbounded.sinks.memory import MemorySink
from unbounded.testing import assert_unified

START = datetime(2026, 3, 1)
SCHEMA: dict[str, Any] = {
    "k": pl.String,
    "g": pl.Int64,
    "x": pl.Float64,
    "n": pl.Int32,
    "b": pl.Boolean,
    "t": pl.Datetime("us"),
    "gap": pl.Duration("us"),
}

seconds = st.one_of(st.none(), st.integers(-1, 40))
rows = st.fixed_dictionaries(
    {
        "k": st.sampled_from(["a", "b", None]),
        "g": st.sampled_from([1, 2, None]),
        "x": st.sampled_from([0.0, -0.0, 1.5, float("nan"), None]),
        "n": st.one_of(st.none(), st.integers(-100, 100)),
        "b": st.sampled_from([True, False, None]),
        "t": st.one_of(st.none(), st.integers(0, 240).map(lambda s: START + timedelta(seconds=s))),
        "gap": seconds.map(lambda s: None if s is None else timedelta(seconds=s)),
    }
)
# No time comes twice: with a gap per row a row behind the watermark could begin where a session began that has ended.
tables = st.lists(rows, max_size=14).map(
    lambda found: pl.DataFrame(found, schema=SCHEMA).with_columns(
        pl.col("t") + pl.int_range(pl.len()) * pl.duration(microseconds=1)
    )
)

GAPS: list[Any] = ["10s", timedelta(milliseconds=4500), pl.col("gap"), pl.duration(seconds=pl.col("n").abs() % 30)]
KEYS: list[Any] = [None, "k", ["k", "g"], "x", pl.col("n") % 2]

# What shows the first or the last rows, or values in order of appearance, is refused below.
REFUSED = ("head", "tail", "in_order")
KEPT = [one for one in AGGREGATES if one.meta.output_name() not in REFUSED]


def at(*offsets: float, **columns: Any) -> list[dict[str, Any]]:
    return [{"t": START + timedelta(seconds=s), **columns} for s in offsets]


def when(second: float) -> datetime:
    return START + timedelta(seconds=second)


# ---------------------------------------------------------------------------------- on bounded frames
def naive(found: Sequence[dict[str, Any]]) -> list[tuple[Any, datetime, datetime, int]]:
    """Sessions by key as the definition says, one row after another."""
    sessions: list[tuple[Any, datetime, datetime, int]] = []
    for key in {row["k"] for row in found}:
        open_session: tuple[Any, datetime, datetime, int] | None = None
        mine = [row for row in found if row["k"] == key and row["t"] is not None and row["gap"] is not None]
        for row in sorted(mine, key=lambda row: row["t"]):
            if row["gap"] <= timedelta():
                continue
            end = row["t"] + row["gap"]
            if open_session is not None and row["t"] <= open_session[2]:
                open_session = (key, open_session[1], max(end, open_session[2]), open_session[3] + 1)
                sessions[-1] = open_session
            else:
                open_session = (key, row["t"], end, 1)
                sessions.append(open_session)
    return sessions


@given(table=tables, seed=st.integers(0, 9))
def test_a_bounded_frame_has_the_sessions_of_the_definition_in_any_order(table: pl.DataFrame, seed: int) -> None:
    mixed = table.sample(fraction=1, shuffle=True, seed=seed)
    grouped = mixed.lazy().ub.group_by_session(  # type: ignore[attr-defined]  # a registered namespace
        "t", gap=pl.col("gap"), group_by="k", include_boundaries=True
    )
    found = grouped.len("rows").collect()
    assert found.columns == ["k", "_lower_boundary", "_upper_boundary", "t", "rows"]
    assert found["t"].equals(found["_lower_boundary"])
    shown = found.select("k", "t", "_upper_boundary", "rows").rows()
    assert sorted(shown, key=str) == sorted(naive(table.to_dicts()), key=str)


def test_a_bounded_frame_has_every_verb_of_groups_and_any_aggregate() -> None:
    table = pl.LazyFrame(at(0, 3, 60, v=1, k="a") + at(2, v=5, k="a"))
    groups = ub.group_by_session(table, "t", gap="10s", group_by="k")
    assert groups.sum().sort("t").collect().rows() == [("a", when(0), 7), ("a", when(60), 1)]
    assert groups.having(pl.len() > 1).agg(pl.col("v").sort().last()).collect().rows() == [("a", when(0), 5)]
    assert groups.head(2).sort("t", "v").collect().rows() == [("a", when(0), 1), ("a", when(0), 1), ("a", when(60), 1)]


def test_days_are_sessions_of_dates() -> None:
    days = pl.LazyFrame({"d": [date(2026, 3, day) for day in (1, 3, 2, 9)]})
    found = ub.group_by_session(days, "d", gap="2d", include_boundaries=True).len("n").sort("d").collect()
    assert found.drop("_lower_boundary").rows() == [
        (date(2026, 3, 5), date(2026, 3, 1), 3),
        (date(2026, 3, 11), date(2026, 3, 9), 1),
    ]
    assert_unified(lambda f: f.pipe(ub.with_watermark, "d", "1d").pipe(ub.group_by_session, "d", gap="2d").len(), days)


@pytest.mark.parametrize("dtype", [pl.Datetime("ns"), pl.Datetime("ms"), pl.Datetime("us", "Europe/Berlin")])
@pytest.mark.parametrize("gap", ["1500us", "999ns", "1h"])
def test_sessions_are_of_any_unit_and_zone(dtype: Any, gap: str) -> None:
    hours = pl.DataFrame({"t": [datetime(2026, 3, 29) + timedelta(milliseconds=m) for m in (0, 0, 1, 3, 3_600_003)]})
    zone = getattr(dtype, "time_zone", None)
    times = hours.select(pl.col("t").dt.replace_time_zone(zone).cast(dtype) if zone else pl.col("t").cast(dtype))

    def sessions(frame: Any) -> Any:
        return frame.pipe(ub.with_watermark, "t", "1s").pipe(ub.group_by_session, "t", gap=gap).len("n")

    counts = {"1500us": [3, 1, 1], "999ns": [2, 1, 1, 1], "1h": [5]}
    assert sessions(times.lazy()).collect().sort("t")["n"].to_list() == counts[gap]
    assert_unified(sessions, times, runs=2)


# ------------------------------------------------------------------------------------------- the law
@settings(deadline=None)
@given(
    table=tables,
    gap=st.sampled_from(GAPS),
    by=st.sampled_from(KEYS),
    aggregates=st.lists(st.sampled_from(KEPT), min_size=1, max_size=4, unique_by=lambda e: e.meta.output_name()),
    delay=st.sampled_from(["0s", "20s", "2m"]),
    boundaries=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sessions_are_those_of_all_rows_in_time_however_they_come(
    table: pl.DataFrame, gap: Any, by: Any, aggregates: list[pl.Expr], delay: str, boundaries: bool, seed: int
) -> None:
    def sessions(frame: Any) -> Any:
        marked = ub.with_watermark(frame, "t", delay)
        grouped = ub.group_by_session(marked, "t", gap=gap, group_by=by, include_boundaries=boundaries)
        return grouped.agg(aggregates)

    assert_unified(sessions, table, runs=2, seed=seed)


def ended(frame: Any, **options: Any) -> Any:
    marked = ub.with_watermark(frame, "t", "20s")
    return ub.group_by_session(marked, "t", gap=pl.col("gap"), group_by="k", include_boundaries=True).agg(
        pl.len().alias("rows"), pl.col("n").sum(), **options
    )


def windows_of_sessions(frame: Any) -> Any:
    sessions = ended(frame)
    in_order = sessions.sort("_upper_boundary") if isinstance(sessions, pl.LazyFrame) else sessions
    return in_order.group_by_dynamic("_upper_boundary", every="1m").agg(pl.col("rows").sum())


def sessions_of_windows(frame: Any) -> Any:
    marked = frame.filter(pl.col("t").is_not_null()).pipe(ub.with_watermark, "t", "20s")
    windows = marked.group_by_dynamic("t", every="5s", group_by="k").agg(pl.len().alias("rows"))
    return ub.group_by_session(windows, "t", gap="10s", group_by="k").agg(pl.col("rows").sum())


def windows_of_sessions_of_windows(frame: Any) -> Any:
    marked = frame.filter(pl.col("t").is_not_null()).pipe(ub.with_watermark, "t", "20s")
    windows = marked.group_by_dynamic("t", every="5s", group_by="k").agg(pl.len().alias("rows"))
    sessions = ub.group_by_session(windows, "t", gap="10s", group_by="k", include_boundaries=True).agg(
        pl.col("rows").sum()
    )
    return sessions.group_by(pl.col("_upper_boundary").dt.truncate("1m")).agg(pl.col("rows").sum())


def sessions_of_sessions(frame: Any) -> Any:
    return ub.group_by_session(ended(frame), "_upper_boundary", gap="30s").agg(pl.col("rows").sum())


def sessions_of_distinct_rows(frame: Any) -> Any:
    distinct = frame.pipe(ub.with_watermark, "t", "20s").unique(["k", "t"], keep="first")
    return ub.group_by_session(distinct, "t", gap="10s").agg(pl.len().alias("rows"), pl.col("k").n_unique())


@settings(deadline=None)
@given(table=tables, seed=st.integers(0, 99))
@pytest.mark.parametrize(
    "pipeline",
    [
        windows_of_sessions,
        sessions_of_windows,
        sessions_of_sessions,
        sessions_of_distinct_rows,
        windows_of_sessions_of_windows,
    ],
)
def test_sessions_stand_behind_and_before_other_operators(
    pipeline: Callable[[Any], Any], table: pl.DataFrame, seed: int
) -> None:
    assert_unified(pipeline, table, runs=1, seed=seed)


def test_a_large_batch_has_the_same_sessions_as_a_small_one() -> None:
    """From some rows on, Polars' streaming engine computes a batch."""
    chance = random.Random(0)
    table = pl.DataFrame(
        {
            "k": [chance.randrange(900) for _ in range(30_000)],
            "t": [when(chance.randrange(5_000)) for _ in range(30_000)],
            "gap": [timedelta(seconds=chance.randrange(60)) for _ in range(30_000)],
        }
    )
    for gap in ("20s", pl.col("gap")):

        def sessions(frame: Any, gap: Any = gap) -> Any:
            grouped = frame.pipe(ub.group_by_session, "t", gap=gap, group_by="k", include_boundaries=True)
            return grouped.agg(pl.len().alias("rows"), pl.col("t").max().alias("last"))

        story = Story(sessions, table.schema, mode="complete")
        story.add(table[:25_000]).run().add(table[25_000:]).run()
        same_rows(story.answer(), sessions(table.lazy()).collect(), key=["k", "t"])


# ------------------------------------------------------------------------------------------- stories
def visits(frame: Any) -> Any:
    return frame.pipe(ub.with_watermark, "t", "0s").pipe(ub.group_by_session, "t", gap="10s", group_by="k").len("n")


ROW: dict[str, Any] = {"t": pl.Datetime("us"), "k": pl.String}


def test_a_closed_session_comes_once_and_an_event_at_the_end_joins() -> None:
    story = Story(visits, ROW)
    story.add(at(0, k="a")).run().expect([])
    story.add(at(10, k="a")).run().expect([])
    story.add(at(20.000001, k="a")).run().expect([("a", when(0), 2)])
    story.add(at(99, k=None)).run().expect([("a", when(0), 2), ("a", when(20.000001), 1)], key=["k", "t"])
    assert story.late == 0


def test_a_row_is_late_by_its_own_end_even_where_an_open_session_would_take_it() -> None:
    story = Story(visits, ROW).add(at(20, k="a") + at(23, k="b")).run()
    story.add(at(13, k="a")).run().add(at(12, k="a")).run()  # the first ends at 23, and so does the watermark
    assert story.late == 2
    story.add(at(14, k="a")).run()  # older than the watermark, and its end is not
    story.end().expect([("a", when(14), 2), ("b", when(23), 1)], key=["k"])


def test_a_late_row_makes_no_bridge_between_rows_of_its_own_batch() -> None:
    story = Story(
        lambda f: f.with_watermark("t", "0s").ub.group_by_session("t", gap=pl.col("g")).len("n"),
        {"t": pl.Datetime("us"), "g": pl.Duration("us")},
    )
    g = timedelta(seconds=1)
    story.add(at(100, g=g)).run()
    story.add([*at(90, g=timedelta(seconds=30)), *at(95, g=timedelta(seconds=4)), *at(110, g=g)]).run()
    assert story.late == 1
    story.end().expect([(when(90), 3)])


@pytest.mark.parametrize("gap", ["10s", pl.col("g")])
def test_rows_in_no_session_are_counted(gap: Any) -> None:
    g = timedelta(seconds=10)
    schema = {"t": pl.Datetime("us"), "g": pl.Duration("us")}
    story = Story(lambda f: f.with_watermark("t", "0s").group_by_session("t", gap=gap).len("n"), schema)
    story.add([*at(0, 5, g=g), {"t": None, "g": g}, *at(50, g=None), *at(60, g=-g), *at(70, g=timedelta())]).end()
    none = sum(one.num_rows_without_event_time for p in story.progress for one in p.state_operators)
    assert (story.answer()["n"].sum(), none) == ((5, 1) if isinstance(gap, str) else (2, 4))


def test_an_early_long_gap_covers_later_rows() -> None:
    def sessions(frame: Any) -> Any:
        return frame.pipe(ub.group_by_session, "t", gap=pl.col("g"), include_boundaries=True).len("n")

    story = Story(sessions, {"t": pl.Datetime("us"), "g": pl.Duration("us")}, mode="complete")
    story.add([*at(0, g=timedelta(seconds=100)), *at(20, 40, g=timedelta(seconds=1))]).run()
    story.add(at(41, 60, g=timedelta(seconds=1))).run().expect([(when(0), when(100), when(0), 5)])


def updates(sink: Callable[[], Any] | None = None) -> Story:
    """Visits in update mode, into a table, with all of the history of one key in sight."""
    return Story(lambda f: f.group_by_session("t", gap="10s", group_by="k").len("n"), ROW, mode="update", sink=sink)


def test_a_session_that_begins_earlier_or_is_merged_leaves_the_table() -> None:
    memory = MemorySink()
    for sink in (None, lambda: memory):
        story = updates(sink)
        story.add(at(20, 50, k="a") + at(0, k="b")).run()
        story.expect([("a", when(20), 1), ("a", when(50), 1), ("b", when(0), 1)], key=["k", "t"])
        story.add(at(15, k="a")).run()  # begins earlier
        story.expect([("a", when(15), 2), ("a", when(50), 1), ("b", when(0), 1)], key=["k", "t"])
        story.restart().add(at(28, 36, 44, k="a")).run()  # makes one of two
        story.expect([("a", when(15), 6), ("b", when(0), 1)], key=["k", "t"])


def test_a_sink_that_keeps_no_table_gets_the_new_rows_of_touched_sessions_alone() -> None:
    written: list[Any] = []
    feed = ub.MemorySource(ROW)
    frame = ub.scan_memory(feed).group_by_session("t", gap="10s", group_by="k").len("n")
    options: Any = {"output_mode": "update", "checkpoint": f"memory://{uuid.uuid4()}", "trigger": ub.available_now()}
    for added in (at(20, 50, k="a"), at(15, k="a"), at(100, k="b")):
        feed.add(added)
        with pytest.warns(ub.UnboundedStateWarning):
            frame.foreach_batch(lambda rows, batch: written.append(rows.sort("t").rows()), **options)
    assert written == [[("a", when(20), 1), ("a", when(50), 1)], [("a", when(15), 2)], [("b", when(100), 1)]]


def test_renamed_and_filtered_sessions_leave_the_table_too() -> None:
    def pipeline(frame: Any) -> Any:
        sessions = frame.group_by_session("t", gap="10s", group_by="k").len("n").filter(pl.col("n") % 2 == 0)
        return sessions.rename({"t": "began", "k": "who"}).select("n", "began", "who")

    story = Story(pipeline, ROW, mode="update").add(at(0, 1, 15, 16, k="a")).run()
    story.expect([(2, when(0), "a"), (2, when(15), "a")], key=["began"])
    story.add(at(8, k="a")).run().expect([])
    story.add(at(9, k="a")).run().expect([(6, when(0), "a")])


def test_first_and_last_are_in_order_of_arrival_though_sessions_got_their_rows_by_turns() -> None:
    def pipeline(frame: Any) -> Any:
        v = pl.col("v")
        return frame.group_by_session("t", gap="10s").agg(
            v.first().alias("first"),
            v.last().alias("last"),
            v.implode().alias("all"),
            v.drop_nulls().first().alias("given"),
        )

    story = Story(pipeline, {"t": pl.Datetime("us"), "v": pl.Int64}, mode="complete")
    story.add([*at(20, v=None), *at(0, v=2)]).run().add([*at(1, v=3), *at(21, v=4)]).run().add(at(19, 2, v=5)).run()
    story.add(at(11, v=6)).run().expect([(when(0), None, 6, [None, 2, 3, 4, 5, 5, 6], 2)])


def test_a_window_of_ends_waits_for_the_sessions_that_end_in_it() -> None:
    story = Story(windows_of_sessions, {name: SCHEMA[name] for name in ("t", "k", "gap", "n")})
    row: dict[str, Any] = {"gap": timedelta(seconds=10), "n": 1}
    story.add(at(40, k="a", **row) + at(47, k="b", **row)).run()
    story.add(at(76, k="c", **row)).run().expect([])  # the watermark stands at 56: one of two sessions has ended
    story.add(at(79.999, k="c", **row)).run().expect([])
    story.add(at(80, k="c", **row)).run().expect([(START, 2)])
    assert story.late == 0


# -------------------------------------------------------------------------------------- what is kept
def test_state_holds_open_sessions_only() -> None:
    story = Story(
        lambda f: (
            f.with_watermark("t", "0s")
            .group_by_session("t", gap="10s", group_by="k")
            .agg(pl.col("t").n_unique().alias("n"))
        ),
        ROW,
    )
    sizes = []
    for second in range(0, 400, 20):
        story.add(at(second, second + 1, k="a") + at(second, k="b")).run()
        sizes.append(sum(one.num_rows_total for one in story.progress[-1].state_operators))
    assert set(sizes) == {5}  # two sessions, and their three times
    story.end()
    assert sum(one.num_rows_total for one in story.progress[-1].state_operators) == 0


def test_what_sessions_remember_can_be_read() -> None:
    place = f"memory://{uuid.uuid4()}"
    feed = ub.MemorySource({**ROW, "v": pl.Int64})
    feed.add(at(0, 5, k="a", v=4) + at(30, k=None, v=7))
    grouped = ub.scan_memory(feed).with_watermark("t", "1m").group_by_session("t", gap="10s", group_by="k")
    grouped.agg(pl.col("v").mean(), pl.col("v").median().alias("m")).sink_memory(
        checkpoint=place, trigger=ub.available_now()
    )
    same_rows(
        ub.read_state(place, "session-1").collect(),
        pl.DataFrame({"k": ["a", None], "t": [when(0), when(30)], "v": [4.0, 7.0], "m": [4.0, 7.0]}),
        key=["t"],
    )
    assert {"first event time", "end"} <= {
        text.partition(": ")[2] for texts in ub.read_state_metadata(place).collect()["values"] for text in texts
    }


@pytest.mark.parametrize("home", ["files", "sqlite"])
def test_sessions_and_their_values_are_kept_in_other_homes(home: str, tmp_path: Path) -> None:
    feed = ub.MemorySource({**ROW, "v": pl.Float64})
    parts = [
        at(0, 30, k="a", v=1.0),
        at(8, k="a", v=2.0) + at(1, k=None, v=None),
        at(14, 90, k="a", v=1.0) + at(20, k="a", v=3.0),
    ]

    def sessions(frame: Any) -> Any:
        grouped = ub.group_by_session(ub.with_watermark(frame, "t", "1m"), "t", gap="10s", group_by="k")
        return grouped.agg(pl.col("v").n_unique(), pl.col("v").sum().alias("sum"), pl.col("v").median().alias("half"))

    for part in parts:
        feed.add(part)
        sessions(ub.scan_memory(feed)).sink_parquet(
            tmp_path / "out", checkpoint=tmp_path / "checkpoint", trigger=ub.available_now(), state=home
        )
    sessions(ub.scan_memory(feed)).sink_parquet(
        tmp_path / "out", checkpoint=tmp_path / "checkpoint", trigger=ub.available_now(final=True), state=home
    )
    rows = pl.LazyFrame([row for part in parts for row in part], schema={**ROW, "v": pl.Float64})
    same_rows(ub.read_sink(tmp_path / "out").collect(), sessions(rows).collect(), key=["k", "t"])


@pytest.mark.parametrize(
    ("gap", "by"), [("11s", "k"), (pl.duration(seconds=10), "k"), ("10s", pl.col("k").str.slice(1))]
)
def test_other_sessions_are_another_query(gap: Any, by: Any, tmp_path: Path) -> None:
    frame = ub.scan_memory(ub.MemorySource(ROW)).with_watermark("t", "1h")
    options: Any = {"checkpoint": tmp_path / "checkpoint", "trigger": ub.available_now()}
    frame.group_by_session("t", gap="10 seconds", group_by="k").len().sink_parquet(tmp_path / "out", **options)
    same = timedelta(seconds=10)
    frame.group_by_session("t", gap=same, group_by="k").len().sink_parquet(tmp_path / "out", **options)
    with pytest.raises(ub.CheckpointError, match=r"session-1\.(session|keys)"):
        frame.group_by_session("t", gap=gap, group_by=by).len().sink_parquet(tmp_path / "out", **options)


def test_a_plan_says_how_long_sessions_are_kept() -> None:
    assert (
        visits(ub.scan_memory(ub.MemorySource(ROW), name="clicks")).explain()
        == """in append mode (possible: append, update, complete)

sessions of 't', 10s apart, by 'k'  [session-1]
  watermark on 't', 0s behind
    scan 'clicks': memory

session-1
  key:     'k', 't'
  state:   bounded by the watermark: the open sessions
  kept:    until the watermark reaches the session's end, the latest 't' + gap, when no row can join it; then \
emitted and forgotten
  late:    rows whose own 't' + gap the watermark of the batch before had reached; dropped and counted
  null:    rows whose 't' is null; dropped and counted"""
    )


def test_a_session_may_reach_beyond_the_last_time_that_there_is() -> None:
    def pipeline(frame: Any) -> Any:
        frame = frame.pipe(ub.with_watermark, "t", "10s")
        return frame.pipe(ub.group_by_session, "t", gap="60s").agg(pl.len())

    def before_the_last(seconds: int) -> pl.DataFrame:
        return pl.select(t=pl.lit(2**63 - 1 - seconds * 10**9, pl.Int64).cast(pl.Datetime("ns")))

    rows = [before_the_last(seconds) for seconds in (200, 40, 30, 0)]
    story = Story(pipeline, rows[0].schema)
    for one in rows:
        story.add(one).run()
    assert story.end().late == 0
    same_rows(story.answer(), pipeline(pl.concat(rows).lazy()).collect())
    assert story.answer().sort("t")["len"].to_list() == [1, 3]
