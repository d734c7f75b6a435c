"""Does a batch meet the rows of a large bounded table that Polars' own join finds, without a look at the others?"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from tests.language import same_rows
from unbounded.checkpoint import Checkpoint
from unbounded.operators import meeting
from unbounded.operators.meeting import Meeting, may_meet
from unbounded.plan import Join, Static, walk
from unbounded.query import MicroBatches
from unbounded.sinks import MemorySink
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import open_storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAN = float("nan")

SCHEMA: dict[str, Any] = {"k": pl.Int64, "f": pl.Float64, "s": pl.String, "t": pl.Date, "v": pl.Int64}
rows = st.fixed_dictionaries(
    {
        "k": st.sampled_from([1, 2, 3, None]),
        "f": st.sampled_from([0.0, -0.0, 1.5, NAN, None]),
        "s": st.sampled_from(["a", "", "a string that is too long to stand in a view", None]),
        "t": st.sampled_from([datetime(2026, 1, 1).date(), None]),
        "v": st.integers(0, 9),
    }
)
frames = st.lists(rows, max_size=8).map(lambda found: pl.DataFrame(found, schema=SCHEMA))


def join_of(frame: ub.StreamFrame) -> Join:
    return next(node for node in walk(frame._plan) if isinstance(node, Join))


@given(
    ours=frames,
    theirs=frames,
    how=st.sampled_from(["inner", "left", "semi", "anti"]),
    on=st.lists(st.sampled_from(["k", "f", "s", "t"]), min_size=1, max_size=2, unique=True),
    nulls_equal=st.booleans(),
    coalesce=st.sampled_from([None, True, False]),
    suffix=st.sampled_from(["_right", "_theirs"]),
    maintain_order=st.sampled_from([None, "left"]),
    renamed=st.booleans(),
)
def test_the_join_with_what_a_batch_can_meet_is_the_join_with_all_rows(
    ours: pl.DataFrame,
    theirs: pl.DataFrame,
    how: Any,
    on: list[str],
    nulls_equal: bool,
    coalesce: bool | None,
    suffix: str,
    maintain_order: Any,
    renamed: bool,
) -> None:
    right_on = [f"{name}2" for name in on] if renamed else on
    theirs = theirs.rename(dict(zip(on, right_on, strict=True)))
    options: dict[str, Any] = {"nulls_equal": nulls_equal, "suffix": suffix, "maintain_order": maintain_order}
    if how in ("inner", "left"):
        options["coalesce"] = coalesce
    stream = ub.scan_memory(ub.MemorySource(SCHEMA))
    node = join_of(stream.join(theirs, how=how, left_on=on, right_on=right_on, **options))
    left, right = Meeting(node, theirs).sides(ours.lazy())
    found, expected = node.apply(left, right).collect(), node.apply(ours.lazy(), theirs.lazy()).collect()
    assert found.schema == expected.schema == node.schema
    same_rows(found, expected)
    if maintain_order == "left":
        same_rows(found.select("v").with_row_index(), expected.select("v").with_row_index())


@given(theirs=frames, asked=st.lists(st.sampled_from([1, 2, 7]), max_size=3))
def test_rows_of_other_keys_are_not_looked_at(theirs: pl.DataFrame, asked: list[int]) -> None:
    node = join_of(ub.scan_memory(ub.MemorySource(SCHEMA)).join(theirs, on="k"))
    found = Meeting(node, theirs).met_by(pl.DataFrame({"k": asked}, schema={"k": pl.Int64}))
    assert_frame_equal(found, theirs.filter(pl.col("k").is_in(asked)))


class Joined:
    """A stream beside a bounded table, at a time that the test tells."""

    def __init__(self, join: Callable[[ub.StreamFrame], ub.StreamFrame], reread: Any = None) -> None:
        self.feed, self.now, self.sink = ub.MemorySource(SCHEMA), NOON, MemorySink()
        storage = open_storage(f"memory://meeting-{uuid.uuid4()}")
        self.batches = MicroBatches(
            join(ub.scan_memory(self.feed))._plan,
            self.sink,
            mode="append",
            checkpoint=Checkpoint(storage),
            home=MemoryHome(storage),
            reread_bounded=reread,
            wall_clock=lambda: self.now,
        )
        self.batches.open()

    def batch(self, *keys: int | None) -> None:
        row = {"f": 0.0, "s": "a", "t": None, "v": 1}
        self.feed.add(pl.DataFrame([{**row, "k": key} for key in keys], schema=SCHEMA))
        self.batches.run_once()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The heights of the tables that were hashed."""
    heights: list[int] = []

    class Counted(Meeting):
        def __init__(self, node: Join, table: pl.DataFrame) -> None:
            heights.append(table.height)
            super().__init__(node, table)

    monkeypatch.setattr(meeting, "_MANY", 4)
    monkeypatch.setattr(meeting, "_MORE", 0)
    monkeypatch.setattr(meeting, "Meeting", Counted)
    return heights


NAMES = pl.DataFrame({"k": [1, 2, 2, 3, None], "name": ["Ann", "Bob", "Bee", "Cid", "Nil"]})


def test_a_table_is_hashed_once_per_reading(hashed: list[int]) -> None:
    joined = Joined(lambda f: f.join(NAMES.lazy(), on="k"), reread="10m")
    for key in (1, 2, 7):
        joined.batch(key)
    assert hashed == [5]
    joined.now += timedelta(minutes=10)
    joined.batch(3)
    joined.batch(3)
    assert hashed == [5, 5]
    assert joined.sink.read().collect()["name"].to_list() == ["Ann", "Bob", "Bee", "Cid", "Cid"]


def test_a_batch_before_and_behind_other_steps_meets_its_rows(hashed: list[int]) -> None:
    double = NAMES.with_columns(pl.col("k") * 2).rename({"name": "other"})
    joined = Joined(
        lambda f: (
            f.with_columns(pl.col("k").map_elements({0: 1, 1: 2, 9: 10}.get, return_dtype=pl.Int64))
            .join(NAMES, on="k")
            .join(double, on="k", how="left")
            .join(NAMES, on="k", how="semi")
            .select("k", "name", "other")
        )
    )
    joined.batch(0, 1, None, 9)
    assert hashed == [5, 5, 5]
    assert sorted(joined.sink.read().collect().rows()) == [(1, "Ann", None), (2, "Bee", "Ann"), (2, "Bob", "Ann")]


def test_keys_that_are_there_twice_fail_the_join_that_wants_them_once(hashed: list[int]) -> None:
    joined = Joined(lambda f: f.join(NAMES, on="k", validate="m:1"))
    with pytest.raises(pl.exceptions.ComputeError, match="m:1"):
        joined.batch(1)  # of which there is one
    assert hashed == [5]


@pytest.mark.parametrize(
    ("table", "batch_rows", "meets"),
    [
        (pl.DataFrame({"k": [0]}).clear(100_000), 1_000, True),
        (pl.DataFrame({"k": [0]}).clear(100_000), 100_000, False),
        (pl.DataFrame({"k": [0]}).clear(99_999), 1_000, False),
    ],
)
def test_a_table_is_hashed_if_it_is_far_larger_than_a_batch(table: pl.DataFrame, batch_rows: int, meets: bool) -> None:
    node = join_of(ub.scan_memory(ub.MemorySource({"k": pl.Int64})).join(table, on="k"))
    assert isinstance(node.right, Static)
    assert may_meet(node, table, batch_rows) is meets


def test_nested_and_categorical_keys_are_left_to_polars() -> None:
    for dtype in (pl.Categorical(), pl.Enum(["a"]), pl.List(pl.Int64())):
        table = pl.DataFrame(schema={"k": dtype}).clear(100_000)
        node = join_of(ub.scan_memory(ub.MemorySource({"k": dtype})).join(table, on="k"))
        assert not may_meet(node, table, 1)
