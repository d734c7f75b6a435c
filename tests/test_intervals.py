"""What predicates over two rows say of their times: nothing that is not so, and all that is."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbounded.expressions.intervals import Within, within

SCHEMA = pl.Schema(
    {
        "a": pl.Datetime("us"),
        "b": pl.Datetime("us"),
        "ms": pl.Datetime("ms"),
        "ns": pl.Datetime("ns"),
        "berlin": pl.Datetime("us", "Europe/Berlin"),
        "oslo": pl.Datetime("us", "Europe/Oslo"),
        "day": pl.Date(),
        "other_day": pl.Date(),
        "n": pl.Int64(),
        "m": pl.Int64(),
    }
)
a, b, ms = pl.col("a"), pl.col("b"), pl.col("ms")
MINUTE = 60_000_000_000


@pytest.mark.parametrize(
    ("predicate", "meant"),
    [
        (b <= a + timedelta(minutes=5), [Within("b", "a", 5 * MINUTE)]),
        (b < a + pl.duration(minutes=5), [Within("b", "a", 5 * MINUTE, strict=True)]),
        (a + pl.duration(minutes=5) > b, [Within("b", "a", 5 * MINUTE, strict=True)]),
        (b >= a - timedelta(minutes=5), [Within("a", "b", 5 * MINUTE)]),
        (b >= a.dt.offset_by("5m"), [Within("a", "b", -5 * MINUTE)]),
        (b <= a.dt.offset_by("1d"), [Within("b", "a", 1440 * MINUTE)]),
        (b - a <= timedelta(minutes=5), [Within("b", "a", 5 * MINUTE)]),
        (b - timedelta(minutes=1) <= a + timedelta(minutes=1), [Within("b", "a", 2 * MINUTE)]),
        (-timedelta(minutes=1) <= b - a, [Within("a", "b", MINUTE)]),
        (
            (b - a).abs() < timedelta(minutes=1),
            [Within("b", "a", MINUTE, strict=True), Within("a", "b", MINUTE, strict=True)],
        ),
        (b.is_between(a, a + timedelta(minutes=1)), [Within("a", "b", 0), Within("b", "a", MINUTE)]),
        (
            b.is_between(a, a + timedelta(minutes=1), closed="left"),
            [Within("a", "b", 0), Within("b", "a", MINUTE, strict=True)],
        ),
        (b == a + timedelta(minutes=1), [Within("b", "a", MINUTE), Within("a", "b", -MINUTE)]),
        ((b <= a).alias("named"), [Within("b", "a", 0)]),
        (pl.col("day") <= pl.col("other_day").dt.offset_by("1d"), [Within("day", "other_day", 1440 * MINUTE)]),
        (pl.col("oslo") <= pl.col("berlin") + timedelta(days=1), [Within("oslo", "berlin", 1440 * MINUTE)]),
    ],
    ids=str,
)
def test_a_comparison_of_times_says_how_far_apart_they_may_be(predicate: pl.Expr, meant: list[Within]) -> None:
    assert list(within(predicate, SCHEMA)) == meant


@pytest.mark.parametrize(
    "predicate",
    [
        b != a,
        b.eq_missing(a),
        (b <= a) | (b <= a + timedelta(minutes=1)),
        b <= a.dt.offset_by("1mo"),
        pl.col("oslo") <= pl.col("berlin").dt.offset_by("1d"),  # the clocks change on some days
        pl.col("day") <= pl.col("other_day") + timedelta(hours=30),  # Polars makes a day of it
        b <= pl.lit(datetime(2026, 1, 1)),
        b <= a + pl.duration(minutes=pl.col("n")),
        b <= pl.max_horizontal("a", "ms"),
        b.dt.truncate("1h") <= a,
        pl.col("n") <= pl.col("m"),
        a <= a + timedelta(minutes=1),
        (b - a).abs() > timedelta(minutes=1),
        b.map_elements(lambda time: time > datetime(2026, 1, 1), return_dtype=pl.Boolean),
    ],
    ids=str,
)
def test_what_is_not_understood_says_nothing(predicate: pl.Expr) -> None:
    assert within(predicate, SCHEMA) == ()


ticks = st.integers(-4_000, 4_000)  # microseconds, so that units are cut off all the time
lengths = st.builds(
    lambda n, unit: pl.lit(timedelta(microseconds=n), dtype=pl.Duration(unit)),
    st.integers(-3_000, 3_000),
    st.sampled_from(["us", "ms", "ns"]),
)
columns = st.sampled_from(["a", "b", "ms", "ns"]).map(lambda name: pl.col(name))
sides = st.one_of(
    columns,
    st.builds(lambda x, n: x + n, columns, lengths),
    st.builds(lambda x, n, m: x - n + m, columns, lengths, lengths),
    st.builds(lambda x, n: x.dt.offset_by(f"{n}us"), columns, st.integers(-3_000, 3_000)),
)
comparisons = st.one_of(
    st.builds(lambda x, y, op: getattr(x, op)(y), sides, sides, st.sampled_from(["lt", "le", "gt", "ge", "eq"])),
    st.builds(lambda x, y, n: x - y < n, sides, sides, lengths),
    st.builds(lambda x, y, n: (x - y).abs() <= n, sides, sides, lengths),
    st.builds(
        lambda x, y, z, closed: x.is_between(y, z, closed=closed),
        sides,
        sides,
        sides,
        st.sampled_from(["both", "left", "right", "none"]),
    ),
)


@given(data=st.data(), times=st.lists(st.tuples(ticks, ticks, ticks, ticks), min_size=1, max_size=30))
def test_no_row_for_which_a_predicate_holds_is_outside_of_what_it_says(
    data: st.DataObject, times: list[tuple[int, int, int, int]]
) -> None:
    predicate = data.draw(comparisons)
    start = datetime(2026, 1, 1)
    names = ["a", "b", "ms", "ns"]
    rows: dict[str, list[Any]] = {
        name: [start + timedelta(microseconds=row[i]) for row in times] for i, name in enumerate(names)
    }
    frame = pl.DataFrame(rows, schema={name: SCHEMA[name] for name in names})
    held = frame.filter(predicate).select(pl.all().cast(pl.Datetime("ns")).to_physical())
    for one in within(predicate, SCHEMA):
        apart = held[one.later] - held[one.earlier]
        assert (apart < one.nanoseconds if one.strict else apart <= one.nanoseconds).all(), f"{predicate}: {one}"


@given(length=st.integers(-9, 9), times=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=300))
def test_in_one_unit_what_it_says_is_what_the_predicate_asks(length: int, times: list[tuple[int, int]]) -> None:
    frame = pl.DataFrame(times, schema={"a": pl.Int64, "b": pl.Int64}, orient="row").cast(pl.Datetime("us"))
    predicate = b < a + timedelta(microseconds=length)
    (found,) = within(predicate, SCHEMA)
    apart = (pl.col("b") - pl.col("a")).dt.total_nanoseconds()
    assert found.strict
    assert frame.filter(predicate).equals(frame.filter(apart < found.nanoseconds))
