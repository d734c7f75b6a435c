"""Are groups of sliding windows kept once for each slice, and shown, read and counted as the windows that they are?"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story
from tests.test_laws import MERGING, SCHEMA
from unbounded.operators.aggregate import AggregateOperator
from unbounded.operators.sliding import Sliding
from unbounded.plan import Aggregate, evaluate, walk
from unbounded.plan.windows import LABEL
from unbounded.sinks.memory import MemorySink
from unbounded.state.memory.table import SlotTable
from unbounded.testing import assert_unified, same_rows
from unbounded.testing import given as told_in_memory
from unbounded.testing.lateness import truth

START = datetime(1970, 1, 1)  # times before it have negative ticks
EVENTS = {"t": pl.Datetime("us"), "k": pl.String(), "n": pl.Int32()}
DTYPES = [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "UTC")]


def second(number: float) -> datetime:
    return START + timedelta(seconds=number)


def whole(rows: pl.DataFrame) -> pl.DataFrame:
    """With the columns of SCHEMA that are missing, full of nulls; the time as it is."""
    others = (pl.lit(None, dtype).alias(name) for name, dtype in SCHEMA.items() if name not in rows.columns)
    return rows.with_columns(*others)


def events(*rows: tuple[float | None, str]) -> pl.DataFrame:
    """Rows of EVENTS: a time in seconds, a key, and a number that is the second."""
    found = [(None, key, None) if time is None else (second(time), key, int(time)) for time, key in rows]
    return pl.DataFrame(found, schema=EVENTS, orient="row")


def counted(frame: Any, **options: Any) -> Any:
    """Rows in windows of 10 s that slide by 2 s."""
    windows = {"every": "2s", "period": "10s", "group_by": "k", **options}
    return frame.pipe(ub.with_watermark, "t", "3s").group_by_dynamic("t", **windows).agg(pl.len().alias("rows"))


# ---------------------------------------------------------------------------------------- the law
shapes = st.builds(
    lambda every, many, **others: {"every": f"{every}ms", "period": f"{every * many}ms", **others},
    st.sampled_from([1, 400, 1000, 2500]),
    st.sampled_from([2, 3, 5, 40]),
    offset=st.sampled_from([None, "1s", "-300ms", "1d1s"]),
    closed=st.sampled_from(["left", "right"]),
    label=st.sampled_from(["left", "right"]),
    include_boundaries=st.booleans(),
    group_by=st.sampled_from([[], ["k"], ["k", (pl.col("n") % 2).alias("odd")]]),
)
# Bounds themselves, times beside them by less than the watermark counts, and no time at all.
times = st.one_of(
    st.none(),
    st.integers(-40, 40).map(lambda half: 500_000 * half),
    st.integers(-40, 40).map(lambda half: 500_000 * half + 1),
    st.integers(-20_000_000, 20_000_000),
)
rows = st.tuples(times, st.sampled_from(["a", "b", None]), st.integers(-9, 9))
# A batch, then whether the query goes on without rows, and whether it is restarted or dies and goes on.
steps = st.tuples(st.lists(rows, min_size=1, max_size=6), st.booleans(), st.sampled_from(["", "restart", "crash"]))


@given(
    shape=shapes,
    told=st.lists(steps, min_size=1, max_size=5),
    dtype=st.sampled_from(DTYPES),
    delay=st.sampled_from(["0s", "700ms", "5s"]),
    aggregates=st.lists(st.sampled_from(MERGING), min_size=1, max_size=3, unique_by=lambda one: one.meta.output_name()),
)
def test_windows_kept_by_slices_hold_every_row_but_for_the_windows_it_was_late_for(
    shape: dict[str, Any],
    told: list[tuple[list[tuple[int | None, str | None, int]], bool, str]],
    dtype: pl.DataType,
    delay: str,
    aggregates: list[pl.Expr],
) -> None:
    schema = {**SCHEMA, "t": dtype}

    def pipeline(frame: Any) -> Any:
        return frame.pipe(ub.with_watermark, "t", delay).group_by_dynamic("t", **shape).agg(aggregates)

    story = told_in_memory(pipeline, schema)  # whose intents can be read
    for found, settles, then in told:
        table = pl.DataFrame(found, schema={"t": pl.Int64, "k": pl.String, "n": pl.Int32}, orient="row")
        story.add(whole(table.with_columns(pl.col("t").cast(pl.Datetime("us")).cast(dtype))))
        if then == "crash":
            story.crash("written").restart()
        story = story.run() if settles else story.batch()
        if then == "restart":
            story.restart()
    story.end()
    must = truth(story.plan, "append", story.taken())
    by = [key if isinstance(key, str) else key.meta.output_name() for key in shape["group_by"]]
    same_rows(story.answer(), must.answer.collect(engine="in-memory"), key=["t", *by])
    for progress in story.progress:
        if not progress.adopted:
            assert progress.state_operators[0].num_rows_dropped_by_watermark == must.late.get(progress.batch_id, 0)
    without_time = [one.num_rows_without_event_time for each in story.progress for one in each.state_operators]
    if not any(progress.adopted for progress in story.progress):
        assert sum(without_time) == sum(time is None for found, _, _ in told for time, _, _ in found)


@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize("shape", [("1d", "3d", None), ("2d", "4d", "1d"), ("1d", "2w", "-5d")])
def test_days_are_kept_by_slices_too(shape: tuple[str, str, str | None], closed: Any) -> None:
    every, period, offset = shape

    def pipeline(frame: Any) -> Any:
        windows = frame.pipe(ub.with_watermark, "day", "1d").group_by_dynamic(
            "day", every=every, period=period, offset=offset, closed=closed, group_by="k"
        )
        return windows.agg(pl.len().alias("rows"))

    days = pl.DataFrame(
        {"day": [date(1970, 1, 1) + timedelta(days=i * 7 % 23 - 9) for i in range(24)], "k": ["a", "b"] * 12}
    )
    assert kept(pipeline, days.schema) is not None
    assert_unified(pipeline, days, output_mode="append")


@pytest.mark.parametrize("label", ["left", "right"])
def test_windows_over_windows_close_as_much_later(label: Any) -> None:
    def pipeline(frame: Any) -> Any:
        first = counted(frame, label=label)
        return first.group_by_dynamic("t", every="4s", period="8s").agg(pl.col("rows").sum(), pl.len().alias("windows"))

    assert_unified(pipeline, events(*((i * 7 % 60, "ab"[i % 2]) for i in range(60))), output_mode="append")


def test_a_row_counts_in_the_windows_for_which_it_was_in_time() -> None:
    story = Story(counted, EVENTS).add(events((1, "a"), (8.5, "a"))).run()
    assert story.answer()["t"].sort().to_list() == [second(-8), second(-6)]  # the watermark stands at 5.5
    story.add(events((1, "a"), (1, "b"))).run()
    assert story.late == 2 * 2
    assert story.progress[-1].state_operators[0].num_rows_updated == 2
    shown = story.end().answer().sort("t")
    windows = [second(start) for start in range(-8, 10, 2)]
    assert shown.filter(pl.col("k") == "a")["t"].to_list() == windows
    # Those that began at -8 and -6 had closed; those at -4, -2 and 0 hold the late row, too.
    assert shown.filter(pl.col("k") == "a")["rows"].to_list() == [1, 1, 2, 2, 3, 1, 1, 1, 1]
    assert shown.filter(pl.col("k") == "b").select("t", "rows").rows() == [(second(s), 1) for s in (-4, -2, 0)]


def test_windows_that_end_within_a_millisecond_close_once_with_the_next() -> None:
    def pipeline(frame: Any) -> Any:
        windows = frame.pipe(ub.with_watermark, "t", "0s").group_by_dynamic("t", every="400us", period="1200us")
        return windows.agg(pl.len().alias("rows"))

    def shown(*rows: int) -> list[tuple[datetime, int]]:
        return [(second(0.0004 * (i - 2)), number) for i, number in enumerate(rows)]

    story = Story(pipeline, EVENTS).add(events((0, "a"), (0.001, "a"))).run().expect(shown(1, 1))
    story.add(events((0.002, "a"))).run().expect(shown(1, 1, 2, 1, 1))


def test_a_watermark_that_passes_many_windows_at_once_closes_them_all() -> None:
    story = Story(counted, EVENTS).add(events((1, "a"), (100, "b"), (1e9, "c"))).run()
    assert story.answer().group_by("k").len().sort("k").rows() == [("a", 5), ("b", 5)]
    assert story.progress[-1].state_operators[0].num_rows_total == 1
    assert story.end().answer().group_by("k").len().sort("k").rows() == [("a", 5), ("b", 5), ("c", 5)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_times_at_both_ends_of_nanoseconds_are_kept_by_slices(dtype: pl.DataType) -> None:
    def pipeline(frame: Any) -> Any:
        windows = frame.pipe(ub.with_watermark, "t", "3s").group_by_dynamic("t", every="2s", period="10s")
        return windows.agg(pl.len().alias("rows"))

    rows = pl.DataFrame({"t": [datetime(1678, 1, 1), datetime(2262, 4, 11, 23, 47)]}).cast(dtype)
    story = Story(pipeline, rows.schema)
    for row in rows.iter_slices(1):
        story.add(row).run()
    expected = evaluate(story.plan, {"feed0": rows.lazy()}).collect()
    same_rows(story.end().answer(), expected, key=["t"])


# --------------------------------------------------------------------------------------- the cost
def kept(pipeline: Callable[[Any], Any], schema: Any = EVENTS, mode: Any = "append") -> Sliding | None:
    """How the topmost aggregate of a pipeline keeps its windows."""
    plan = pipeline(ub.scan_memory(ub.MemorySource(schema)))._plan
    node = next(node for node in walk(plan) if isinstance(node, Aggregate))
    operator = AggregateOperator("aggregate-1", node, mode, None)
    assert set(operator.tables()) >= {"groups" if operator.answer.sliding is None else "slices"}
    return operator.answer.sliding


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({}, "update"),
        ({}, "complete"),
        ({"closed": "both"}, "append"),
        ({"closed": "none"}, "append"),
        ({"period": "5s"}, "append"),
        ({"period": "1s"}, "append"),
        ({"period": "2s"}, "append"),
        ({"period": "2s", "closed": "right"}, "append"),
        ({"group_by": ["k", pl.col("t").alias("time")]}, "append"),
        ({"every": "1mo", "period": "2mo"}, "append"),
    ],
)
def test_other_windows_and_modes_keep_their_groups_by_windows(options: dict[str, Any], mode: Any) -> None:
    assert kept(lambda frame: counted(frame, **options), mode=mode) is None


@pytest.mark.parametrize("aggregate", [pl.col("n").first(), pl.col("n").n_unique(), pl.col("n").median()])
def test_aggregates_that_do_not_merge_in_any_order_keep_their_groups_by_windows(aggregate: pl.Expr) -> None:
    windows = {"every": "2s", "period": "10s"}
    assert kept(lambda f: f.with_watermark("t", "3s").group_by_dynamic("t", **windows).agg(aggregate)) is None


def test_state_has_a_row_for_each_key_and_slice() -> None:
    story = Story(counted, EVENTS).add(events(*((i / 10, "abc"[i % 3]) for i in range(200)))).batch()
    operator = story.progress[-1].state_operators[0]
    assert (operator.num_rows_total, operator.num_rows_updated) == (3 * 10, 3 * 10)
    story.run()  # the watermark stands at 16.9: slices that begin at 6 or before are in no window that is open
    operator = story.progress[-1].state_operators[0]
    assert (operator.num_rows_total, operator.num_rows_removed) == (3 * 6, 3 * 4)
    assert story.answer().height == 3 * 8  # the windows that end at 2, 4, ... 16


def test_a_batch_merges_each_slice_once_and_a_passed_bound_again_only_those_in_its_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged = 0
    original = SlotTable.merge

    def merge(table: SlotTable, partials: pl.DataFrame) -> pl.DataFrame:
        nonlocal merged
        merged += partials.height
        return original(table, partials)

    monkeypatch.setattr(SlotTable, "merge", merge)
    story, keys = Story(counted, EVENTS), [str(i) for i in range(50)]
    costs = []
    for batch in range(12):
        merged = 0
        story.add(events(*((2 * batch + 1, key) for key in keys))).run()
        costs.append(merged)
    # The new slice, and behind each bound the four that have a window behind it; by windows it would be five each.
    assert max(costs) == len(keys) * (1 + 4)
    assert costs[0] == len(keys)
    merged = 0
    Story(counted, EVENTS).add(events(*((i, key) for i in range(500) for key in keys[:2]))).run()
    assert merged < 2 * 250 + 2 * 10  # of 1,250 windows


# ------------------------------------------------------------------------------- what people see
class Running:
    """A query over a feed in a checkpoint that is gone with the test; `add` runs all batches that are due."""

    def __init__(self, pipeline: Callable[[Any], Any], place: str | None = None) -> None:
        self.feed, self.place = ub.MemorySource(EVENTS), place or f"memory://sliding-{uuid.uuid4()}"
        self._pipeline, self._sink = pipeline, MemorySink()

    def add(self, rows: pl.DataFrame, *, final: bool = False, **options: Any) -> ub.StreamingQuery:
        self.feed.add(rows)
        frame = self._pipeline(ub.scan_memory(self.feed))
        trigger = ub.available_now(final=final)
        query: ub.StreamingQuery = frame.sink(self._sink, checkpoint=self.place, trigger=trigger, **options)
        return query


SHOWN = [
    pl.len().alias("rows"),
    pl.col("n").mean().alias("mean"),
    pl.col("n").approx_n_unique().alias("about"),
    pl.col("n").approx_quantile(0.5, error_tightness="empirical").alias("half"),
]


@pytest.mark.parametrize(
    "shape", [{}, {"closed": "right", "label": "right", "include_boundaries": True, "offset": "1s"}]
)
def test_the_state_is_read_as_the_windows_that_are_open(shape: dict[str, Any]) -> None:
    def pipeline(frame: Any) -> Any:
        windows = {"every": "2s", "period": "10s", "group_by": "k", **shape}
        return frame.pipe(ub.with_watermark, "t", "3s").group_by_dynamic("t", **windows).agg(SHOWN)

    rows = events(*((i * 3 % 40, "ab"[i % 2]) for i in range(40)))
    everything = Story(pipeline, EVENTS).add(rows).end().answer()
    running = Running(pipeline)
    shown = running.add(rows).read().collect()
    found = ub.read_state(running.place).collect()
    assert found.columns == everything.columns
    key = ["k", "t"]
    same_rows(found, everything.join(shown, on=key, how="anti"), key=key)
    assert 0 < found.height < everything.height
    before = ub.read_state(running.place, batch_id=0).collect()  # no window was closed then
    same_rows(before, everything, key=key)


def test_the_slices_themselves_are_read_raw() -> None:
    running = Running(counted)
    running.add(events((1, "a"), (1.5, "a"), (3, "a"), (3, "b")))
    raw = ub.read_state(running.place, raw=True).collect()
    same_rows(raw.select("k", LABEL), pl.DataFrame({"k": ["a", "a", "b"], LABEL: [second(0), second(2), second(2)]}))
    assert ub.read_state(running.place, "aggregate-1/slices").collect().height == 3
    said = ub.read_state_metadata(running.place).collect()
    assert said["table"].to_list() == ["slices"]
    assert said["key"].to_list() == [["k: String", f"{LABEL}: {EVENTS['t']}"]]


def test_state_moves_to_another_home_and_goes_on(tmp_path: Path) -> None:
    rows = events(*((i, "ab"[i % 2]) for i in range(20)))
    everything = Story(counted, EVENTS).add(rows).end().answer()
    running = Running(counted, str(tmp_path / "checkpoint"))
    running.add(rows[:15])
    before = ub.read_state(running.place).collect()
    ub.move_state(running.place, "files")
    same_rows(ub.read_state(running.place).collect(), before, key=["k", "t"])
    shown = running.add(rows[15:], final=True, state="files").read().collect()
    same_rows(shown, everything, key=["k", "t"])


def test_others_who_look_into_a_database_see_slices_that_are_called_so(tmp_path: Path) -> None:
    running = Running(counted, str(tmp_path / "checkpoint"))
    running.add(events((1, "a"), (1.5, "a"), (3, "b")), state=ub.sqlite_state(path=tmp_path / "state.db"))
    with closing(sqlite3.connect(tmp_path / "state.db")) as other:
        found = other.execute('select k, "slice of t", rows from aggregate_1 order by k').fetchall()
    assert [(key, time[:19], number) for key, time, number in found] == [
        ("a", "1970-01-01 00:00:00", 2),
        ("b", "1970-01-01 00:00:02", 1),
    ]


def test_a_checkpoint_with_a_row_for_each_window_is_refused_and_not_misread(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(counted)
    with monkeypatch.context() as patch:
        patch.setattr(Sliding, "of", lambda window, clocks: None)
        running.add(events((1, "a")))
    with pytest.raises(ub.CheckpointError, match=r"(?s)aggregate-1\.kept.*by slices of 2s"):
        running.add(events((2, "a")))


def test_what_stays_open_is_said_as_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    running = Running(counted)
    running.add(events((1, "a"), (1, "b"), (3, "a")))
    assert "at least 3 groups stay open: they come out" in caplog.text
    assert ub.read_state(running.place).collect().height >= 3


def test_explain_says_that_windows_are_kept_by_slices() -> None:
    text = counted(ub.scan_memory(ub.MemorySource(EVENTS))).explain(output_mode="append")
    assert "one row per group and slice of 2s, of which a window has 5" in text
    assert "slice" not in counted(ub.scan_memory(ub.MemorySource(EVENTS))).explain(output_mode="update")
