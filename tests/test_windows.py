"""Is a row in the windows that hold its time, and does a slice stand for all of its rows?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.operators import Batch, Tables
from unbounded.operators.aggregate import AggregateOperator
from unbounded.plan import Aggregate, Node, evaluate, walk
from unbounded.plan.windows import LABEL, Window

START = datetime(1970, 1, 1)  # times before it have negative ticks

lengths = st.sampled_from(["1s", "2s", "3s", "4s", "10s", "1s500ms"])
shapes = st.fixed_dictionaries(
    {
        "every": lengths,
        "period": lengths,
        "offset": st.sampled_from([None, "1s", "-3s", "1500ms", "1d1s"]),
        "closed": st.sampled_from(["left", "right", "both", "none"]),
        "label": st.sampled_from(["left", "right"]),
        "include_boundaries": st.booleans(),
    }
)
# Bounds themselves, one tick beside them, anything else, and no time at all.
times = st.lists(
    st.one_of(
        st.none(),
        st.integers(-40, 40).map(lambda half: START + timedelta(milliseconds=500 * half)),
        st.integers(-40, 40).map(lambda half: START + timedelta(milliseconds=500 * half + 1)),
        st.integers(-20_000, 20_000).map(lambda ms: START + timedelta(milliseconds=ms)),
    ),
    max_size=12,
)


def window_over(dtype: pl.DataType, shape: dict[str, Any]) -> Window:
    frame = ub.scan_memory(ub.MemorySource({"t": dtype})).group_by_dynamic("t", **shape).agg(pl.len())
    return next(node for node in walk(frame._plan) if isinstance(node, Window))


@given(
    shape=shapes,
    found=times,
    dtype=st.sampled_from([pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "UTC")]),
)
def test_a_slice_is_a_time_in_the_same_windows_as_the_row(
    shape: dict[str, Any], found: list[datetime | None], dtype: pl.DataType
) -> None:
    window = window_over(dtype, shape)
    rows = pl.LazyFrame({"t": found}, schema={"t": pl.Datetime("us")}).cast(dtype).with_row_index("row")
    if window.slice is None:
        assert window.is_tumbling
        return
    slices = window.assign_slices(rows.with_columns(window.slice.alias(LABEL)))
    assert_frame_equal(slices.collect(), window.assign(rows).collect())


@pytest.mark.parametrize(("closed", "slices"), [("left", 6), ("right", 6), ("both", 12), ("none", 12)])
def test_rows_between_two_bounds_have_one_slice(closed: str, slices: int) -> None:
    window = window_over(pl.Datetime("ms"), {"every": "4s", "period": "6s", "offset": "1s", "closed": closed})
    assert window.slice is not None
    inside = pl.DataFrame({"t": pl.datetime_range(START, START + timedelta(seconds=12), "100ms", eager=True)})[10:-10]
    assert inside.cast(pl.Datetime("ms")).select(window.slice.n_unique()).item() in (slices - 1, slices, slices + 1)


@given(days=st.lists(st.one_of(st.none(), st.integers(-20, 20)), max_size=8), every=st.sampled_from(["1d", "2d", "3d"]))
def test_days_are_sliced_too(days: list[int | None], every: str) -> None:
    window = window_over(pl.Date(), {"every": every, "period": "1w", "offset": "1d"})
    rows = pl.LazyFrame({"t": days}, schema={"t": pl.Int32}).cast(pl.Date)
    assert window.slice is not None
    slices = window.assign_slices(rows.with_columns(window.slice.alias(LABEL)))
    assert_frame_equal(slices.collect(), window.assign(rows).collect())


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (pl.Datetime("us"), {"every": "1h"}),
        (pl.Datetime("us"), {"every": "1mo", "period": "3mo"}),
        (pl.Datetime("us"), {"every": "1w", "period": "2w"}),
        (pl.Datetime("us"), {"every": "1h", "period": "2h", "offset": "1mo"}),
        (pl.Datetime("us", "Europe/Berlin"), {"every": "10m", "period": "1h"}),
    ],
    ids=str,
)
def test_what_is_tumbling_or_told_by_a_calendar_is_not_sliced(dtype: pl.DataType, shape: dict[str, Any]) -> None:
    assert window_over(dtype, shape).slice is None


def sliding(*aggregates: pl.Expr) -> Any:
    def pipeline(frame: ub.StreamFrame) -> ub.StreamFrame:
        windows = frame.with_watermark("t", "1h").group_by_dynamic(
            "t", every="2s", period="10s", group_by=["k", pl.col("t").dt.hour().alias("hour")], include_boundaries=True
        )
        return windows.agg(aggregates)

    return pipeline


def operator_of(plan: Node) -> AggregateOperator:
    node = next(node for node in walk(plan) if isinstance(node, Aggregate))
    return AggregateOperator("aggregate-1", node, "update", None)


MERGING = [pl.len().alias("rows"), pl.col("n").sum().alias("sum"), pl.col("n").mean().alias("mean")]
SCHEMA: dict[str, Any] = {"t": pl.Datetime("ms"), "k": pl.Int64, "n": pl.Int64}


@pytest.mark.parametrize(
    ("aggregates", "repeated"),
    [
        (MERGING, False),
        ([*MERGING, pl.col("n").first().alias("first")], True),
        ([*MERGING, pl.col("n").n_unique().alias("distinct")], True),
    ],
)
def test_rows_are_repeated_for_their_windows_only_if_their_order_or_values_are_asked_for(
    aggregates: list[pl.Expr], repeated: bool
) -> None:
    operator = operator_of(Story(sliding(*aggregates), SCHEMA)._plan)
    plan = operator.prepare(pl.LazyFrame(schema=SCHEMA), Tables({}, {}), Batch(0, START, None, None)).explain()
    assert plan.count("AGGREGATE") == (1 if repeated else 2)


@given(
    cuts=st.lists(
        st.lists(
            st.fixed_dictionaries(
                {
                    "t": st.one_of(
                        st.none(), st.integers(0, 30_000).map(lambda ms: START + timedelta(milliseconds=ms))
                    ),
                    "k": st.sampled_from([1, None]),
                    "n": st.one_of(st.none(), st.integers(-9, 9)),
                }
            ),
            max_size=8,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_sliding_windows_are_those_of_all_rows_and_count_each_row_without_time_once(
    cuts: list[list[dict[str, Any]]],
) -> None:
    story = Story(sliding(*MERGING), SCHEMA)
    for cut in cuts:
        story.add(cut).batch()
    story.end()
    everything = pl.DataFrame([row for cut in cuts for row in cut], schema=SCHEMA)
    expected = evaluate(story._plan, {"feed0": everything.lazy()}).collect()
    same_rows(story.answer(), expected, key=["k", "hour", "t"])
    without_time = [one.state_operators[0].num_rows_without_event_time for one in story.progress]
    assert sum(without_time) == everything["t"].null_count()


@pytest.mark.parametrize(
    ("zone", "noon"),
    [
        ("Africa/Cairo", datetime(2024, 4, 25, 12)),  # no midnight on the 26th
        ("America/Havana", datetime(2024, 3, 9, 12)),
        ("America/Havana", datetime(2024, 11, 2, 12)),  # midnight twice
        ("Europe/Berlin", datetime(2024, 3, 30, 12)),
    ],
)
@pytest.mark.parametrize("period", ["1d", "2d", "3d"])
def test_days_hold_all_their_hours_where_the_clocks_change_at_midnight(zone: str, noon: datetime, period: str) -> None:
    start = pl.Series([noon]).dt.replace_time_zone(zone)[0].astimezone(UTC)
    hours = [start + timedelta(minutes=30 * i) for i in range(4 * 48)]
    rows = pl.DataFrame({"t": hours}, {"t": pl.Datetime("us", "UTC")}).select(pl.col("t").dt.convert_time_zone(zone))

    def pipeline(frame: Any) -> Any:
        marked = frame.pipe(ub.with_watermark, "t", "0s")
        return marked.group_by_dynamic("t", every="1d", period=period).agg(rows=pl.len(), last=pl.col("t").max())

    story = Story(pipeline, rows.schema)
    for some in rows.iter_slices(4):
        story.add(some).run()
    answer = story.end().answer().sort("t")
    assert story.late == 0
    days = int(period[0])
    assert answer["rows"].sum() == days * rows.height
    local = rows.select(pl.col("t").dt.date()).group_by("t").len()
    if period == "1d" and noon.month != 11:  # a day with two midnights is two windows, as dt.truncate has it
        assert sorted(answer["rows"]) == sorted(local["len"])
