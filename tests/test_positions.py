"""Verbs that look at the order of rows, or tell equal rows apart: over any cut they give what Polars gives over all."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story, same_rows

SCHEMA: dict[str, Any] = {"k": pl.String, "x": pl.Float64, "n": pl.Int64, "t": pl.Datetime("us")}
START = datetime(2026, 3, 1)

rows = st.fixed_dictionaries(
    {
        "k": st.sampled_from(["a", "b", None]),
        "x": st.sampled_from([0.0, -0.0, 1.5, float("nan"), None]),
        "n": st.integers(0, 3),
        "t": st.one_of(st.none(), st.integers(0, 60).map(lambda m: START + timedelta(minutes=m))),
    }
)
cuts = st.lists(st.lists(rows, max_size=6), min_size=1, max_size=5)
restarts = st.sets(st.integers(0, 4))


def all_rows(batches: list[list[dict[str, Any]]]) -> pl.LazyFrame:
    return pl.DataFrame([row for cut in batches for row in cut], schema=SCHEMA).lazy()


def told(pipeline: Any, batches: list[list[dict[str, Any]]], at: set[int], mode: Any = "append") -> Story:
    story = Story(pipeline, SCHEMA, mode=mode)
    for i, cut in enumerate(batches):
        story.add(cut).run()
        if i in at:
            story.restart()
    return story


FROM_THE_BEGINNING: dict[str, Any] = {
    "head": lambda f: f.head(7),
    "limit": lambda f: f.limit(3),
    "head of nothing": lambda f: f.head(0),
    "first": lambda f: f.first(),
    "slice": lambda f: f.slice(2, 5),
    "slice to no end": lambda f: f.slice(3),
    "gather_every": lambda f: f.gather_every(3, 1),
    "gather_every from late": lambda f: f.gather_every(2, 9),
    "with_row_index": lambda f: f.with_row_index(),
    "with_row_index from ten": lambda f: f.with_row_index("i", 10),
    "head of a filter": lambda f: f.filter(pl.col("n") > 1).head(4),
    "numbers, then a filter": lambda f: f.with_row_index().filter(pl.col("n") > 1),
    "head of an index of a slice": lambda f: f.slice(1).with_row_index().head(6),
    "unique first": lambda f: f.unique("k", keep="first"),
    "unique first of two": lambda f: f.unique(["x", "k"], keep="first"),
    "unique by a selector": lambda f: f.unique(pl.col("k", "n"), keep="first", maintain_order=True),
    "unique rows": lambda f: f.select("k", "n").unique(),
    "unique floats": lambda f: f.select("x").unique(maintain_order=True),
    "unique of a head": lambda f: f.head(8).unique("k", keep="first"),
    "head of unique": lambda f: f.unique(["k", "n"], keep="first").head(3),
    "first by key above a join": lambda f: f.join(
        pl.LazyFrame({"k": ["a", "a", "b"], "m": [1, 2, 3]}), on="k", maintain_order="left"
    ).unique(["k", "m"], keep="first"),
}


@pytest.mark.parametrize("verb", FROM_THE_BEGINNING)
@given(batches=cuts, at=restarts, mode=st.sampled_from(["append", "update"]))
def test_rows_from_the_beginning_are_those_of_all_rows(
    verb: str, batches: list[list[dict[str, Any]]], at: set[int], mode: Any
) -> None:
    story = told(FROM_THE_BEGINNING[verb], batches, at, mode)
    same_rows(story.answer(), FROM_THE_BEGINNING[verb](all_rows(batches)).collect())


def counted(frame: Any) -> Any:
    return frame.group_by("k", "n").agg(pl.len().alias("rows"), pl.col("t").max())


LIMITS = pl.LazyFrame({"low": [2, 0, 1], "high": [9, 2, 3], "name": ["z", "x", "y"]})
LOOKUPS: dict[str, Any] = {
    "join_where": lambda f: f.join_where(LIMITS, pl.col("v") >= pl.col("low"), pl.col("v") < pl.col("high")),
    "join_asof": lambda f: f.join_asof(LIMITS, left_on="v", right_on="low"),
    "cross": lambda f: f.join(LIMITS, how="cross"),
    "update": lambda f: f.update(pl.LazyFrame({"v": [1], "place": [-1]}), on="v"),
}


@pytest.mark.parametrize("verb", LOOKUPS)
def test_a_lookup_hands_rows_on_in_their_order_to_those_who_look_at_it(verb: str) -> None:
    # So many rows that the streaming engine takes them in several morsels.
    rows = pl.DataFrame({"place": pl.int_range(300_000, eager=True)}).with_columns(v=(pl.col("place") * 7 % 10))
    story = Story(lambda f: LOOKUPS[verb](f).with_row_index().tail(3), rows.schema, mode="complete")
    answer = story.add(rows).run().answer()
    found = LOOKUPS[verb](ub.scan_memory(ub.MemorySource(rows.schema)))._plan.in_order.apply(
        rows.lazy(), LIMITS if verb != "update" else pl.LazyFrame({"v": [1], "place": [-1]})
    )
    same_rows(answer, found.with_row_index().tail(3).collect())
    assert verb == "update" or answer["place"].to_list() == sorted(answer["place"])


WHOLE: dict[str, Any] = {
    "tail": lambda f: f.tail(4),
    "last": lambda f: f.last(),
    "top_k": lambda f: f.select("n", "t").top_k(3, by=["n", "t"]).select("n"),
    "bottom_k": lambda f: f.select("n").bottom_k(4, by=-pl.col("n")),
    "the largest of groups": lambda f: counted(f).top_k(2, by=["rows", "k", "n"]),
    "a sorted answer": lambda f: counted(f).sort("rows", "k", "n", descending=[True, False, False]),
    "a reversed answer": lambda f: counted(f).sort("rows", "k", "n").reverse(),
    "the end of an answer": lambda f: counted(f).sort("rows", "k", "n").tail(2),
    "a slice from the end": lambda f: counted(f).sort("rows", "k", "n").slice(-3, 2),
    "a numbered answer": lambda f: counted(f).sort("rows", "k", "n").with_row_index().head(3),
    "groups of groups": lambda f: counted(f).group_by("k").agg(pl.col("rows").sum(), pl.col("n").max()),
    "windows of groups": lambda f: (
        counted(f).filter(pl.col("t").is_not_null()).sort("t").group_by_dynamic("t", every="10m").agg(pl.len())
    ),
    "one row per number of rows": lambda f: counted(f).sort("rows", "k", "n").unique("rows", keep="first"),
    "groups of a tail": lambda f: f.tail(5).group_by("k").agg(pl.len()),
    "groups of a head": lambda f: f.head(6).group_by("k").agg(pl.len()),
    "groups of unique rows": lambda f: f.unique(["k", "n"], keep="first").group_by("k").agg(pl.col("n").sum()),
}


@pytest.mark.parametrize("verb", WHOLE)
@given(batches=cuts, at=restarts)
def test_a_whole_answer_in_complete_mode_is_that_of_all_rows(
    verb: str, batches: list[list[dict[str, Any]]], at: set[int]
) -> None:
    if not any(batches):
        return
    story = told(WHOLE[verb], batches, at, "complete")
    expected = WHOLE[verb](all_rows(batches)).collect()
    same_rows(story.answer(), expected, key=expected.columns)


def test_a_sorted_answer_comes_out_sorted() -> None:
    story = told(
        WHOLE["a sorted answer"], [[{"k": k, "x": 0.0, "n": 0, "t": None} for k in "abbacca"]], set(), "complete"
    )
    assert story.answer()["k"].to_list() == ["a", "b", "c"]
    assert story.answer()["rows"].to_list() == [3, 2, 2]


@given(batches=cuts, at=restarts, mode=st.sampled_from(["update", "complete"]))
def test_the_last_row_of_each_key_replaces_the_one_before(
    batches: list[list[dict[str, Any]]], at: set[int], mode: Any
) -> None:
    def pipeline(frame: Any) -> Any:
        return frame.unique("k", keep="last")

    story = told(pipeline, batches, at, mode)
    same_rows(story.answer(), pipeline(all_rows(batches)).collect(), key=["k"])


# ------------------------------------------------------------------------------------- event time
def naive(
    batches: list[list[dict[str, Any]]], delay: timedelta, settled: list[bool], timeless: bool
) -> tuple[list[dict[str, Any]], int]:
    """The rows that are not late, and how many are: one row at a time, by the rules of the watermark."""
    kept: list[dict[str, Any]] = []
    late = 0
    used: datetime | None = None
    mark: datetime | None = None
    for cut, settle in zip(batches, settled, strict=False):
        if not cut:
            used = mark  # a watermark that moved runs a batch without rows
            continue
        before, used = used, mark
        for row in cut:
            if row["t"] is None:
                kept += [row] if timeless else []
            elif before is not None and row["t"] <= before:
                late += 1
            else:
                kept.append(row)
        times = [row["t"] for row in cut if row["t"] is not None]
        mark = max([max(times) - delay, *([mark] if mark else [])]) if times else mark
        used = mark if settle else used
    return kept, late


@given(
    batches=cuts,
    subset=st.sampled_from([["t"], ["k", "t"], ["k"]]),
    minutes=st.sampled_from([0, 5, 20]),
    settled=st.lists(st.booleans(), min_size=5, max_size=5),
    at=restarts,
)
def test_unique_rows_are_those_of_all_rows_but_the_late(
    batches: list[list[dict[str, Any]]], subset: list[str], minutes: int, settled: list[bool], at: set[int]
) -> None:
    def pipeline(frame: ub.StreamFrame) -> ub.StreamFrame:
        return frame.with_watermark("t", f"{minutes}m").unique(subset, keep="first")

    story = Story(pipeline, SCHEMA)
    for i, cut in enumerate(batches):
        story.add(cut).batch()
        if settled[i]:
            story.run()
        if i in at:
            story.restart()
    kept, late = naive(batches, timedelta(minutes=minutes), settled, timeless=True)
    assert story.late == late
    expected = pl.LazyFrame(kept, schema=SCHEMA).unique(subset, keep="first", maintain_order=True)
    same_rows(story.answer(), expected.collect())


def test_a_value_behind_the_watermark_is_forgotten() -> None:
    def pipeline(frame: ub.StreamFrame) -> ub.StreamFrame:
        return frame.with_watermark("t", "10m").unique(["k", "t"])

    story = Story(pipeline, SCHEMA)
    for minute in range(0, 600, 10):
        story.add([{"k": "a", "x": 0.0, "n": 0, "t": START + timedelta(minutes=minute)}]).run()
    assert story.progress[-1].state_operators[0].num_rows_total <= 1
    assert story.answer().height == 60


@given(
    batches=cuts,
    minutes=st.sampled_from([0, 5, 20]),
    settled=st.lists(st.booleans(), min_size=5, max_size=5),
    at=restarts,
)
def test_merged_rows_come_out_sorted_once_each(
    batches: list[list[dict[str, Any]]], minutes: int, settled: list[bool], at: set[int]
) -> None:
    def pipeline(left: ub.StreamFrame, right: ub.StreamFrame) -> ub.StreamFrame:
        marked = [side.with_watermark("t", f"{minutes}m") for side in (left, right)]
        return marked[0].merge_sorted(marked[1], ["t", "n"])

    story = Story(pipeline, SCHEMA, SCHEMA)
    story.add([{"k": None, "x": None, "n": 9, "t": START + timedelta(hours=9)}], feed=1).batch()  # the left one counts
    for i, cut in enumerate(batches):
        story.add(cut).batch()
        if settled[i]:
            story.run()
        if i in at:
            story.restart()
    kept, late = naive(batches, timedelta(minutes=minutes), settled, timeless=False)
    assert story.late == late
    answer = story.end().answer()
    expected = pl.DataFrame(kept, schema=SCHEMA).sort("t", "n", maintain_order=True)
    same_rows(answer.head(-1), expected)
    assert answer.select("t", "n").rows() == [*expected.select("t", "n").rows(), (START + timedelta(hours=9), 9)]


def test_a_snapshot_of_every_verb_is_polars_own() -> None:
    feed = ub.MemorySource(SCHEMA)
    feed.add([{"k": k, "x": 1.0, "n": n, "t": START} for n, k in enumerate("abcab")])
    for verbs in (FROM_THE_BEGINNING, WHOLE):
        for verb in verbs.values():
            bounded = verb(ub.scan_memory(feed).snapshot()).collect()
            same_rows(verb(ub.scan_memory(feed)).snapshot().collect(), bounded, key=bounded.columns)


def test_a_reached_limit_reads_no_more_rows() -> None:
    story = told(lambda f: f.head(2), [[{"k": "a", "x": 0.0, "n": 0, "t": None}] * 3], set())
    story.add([{"k": "b", "x": 0.0, "n": 0, "t": None}] * 5).run()
    assert story.progress[-1].num_input_rows == 5
    assert story.progress[-1].state_operators[0].num_rows_updated == 0
    assert story.answer()["k"].to_list() == ["a", "a"]


def test_an_index_that_cannot_be_numbered_is_an_error() -> None:
    story = Story(lambda f: f.with_row_index(offset=2**32 - 2), SCHEMA)
    story.add([{"k": "a", "x": 0.0, "n": 0, "t": None}]).run()
    with pytest.raises(ub.PlanError, match=r"with_row_index\(\): more than 4,294,967,295 rows"):
        story.add([{"k": "a", "x": 0.0, "n": 0, "t": None}]).run()


def test_a_limit_that_was_reached_is_not_raised_for_the_rows_between_are_gone(tmp_path: Path) -> None:
    feed = ub.MemorySource(SCHEMA)
    feed.add([{"k": "a", "x": 0.0, "n": n, "t": None} for n in range(3)])
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    ub.scan_memory(feed).head(2).sink_parquet(tmp_path / "out", **options)
    with pytest.raises(ub.CheckpointError, match=r"(?s)slice-1\.length: was .*2.*is .*4"):
        ub.scan_memory(feed).head(4).sink_parquet(tmp_path / "out", **options)
