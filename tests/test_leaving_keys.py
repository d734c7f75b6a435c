"""Does a table that a sink keeps lose the keys that no longer qualify, and get them back when they do again?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.connectors import Sink
from unbounded.sinks import FileSink, MemorySink, manifest, merging
from unbounded.sinks import files as file_sinks

FRESH = itertools.count()
SCHEMA: dict[str, Any] = {"k": pl.Float64, "v": pl.Int64}
KEYS = st.sampled_from([None, float("nan"), -0.0, 0.0, 1.0, 2.0, float("inf")])
ROWS = st.lists(st.tuples(KEYS, st.integers(-3, 3)), max_size=5)


def in_credit(rows: Any) -> Any:
    """Whose sum is above zero, under other names."""
    sums = rows.group_by("k").agg(pl.col("v").sum(), pl.len().alias("n")).filter(pl.col("v") > 0)
    return sums.rename({"k": "owner", "v": "credit"}).select("credit", pl.col("owner").alias("who"), "n")


def matched(rows: Any) -> Any:
    """The same, but dropped by a join."""
    known = pl.DataFrame({"credit": [1, 2, 3], "name": ["one", "two", "three"]}).lazy()
    return in_credit(rows).join(known, on="credit", how="inner")


@pytest.fixture(params=["memory", "parquet", "csv", "parquet by n"])
def new_sink(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Callable[[], Sink]]:
    """Makes a place, of which each call gives a sink as a restarted process would."""

    def place() -> Callable[[], Sink]:
        memory, path = MemorySink(), tmp_path / f"out{next(FRESH)}"
        format, _, by = request.param.partition(" by ")
        if format == "memory":
            return lambda: memory
        return lambda: FileSink(path, format, partition_by=[by] if by else [], retain=1)

    return place


@pytest.mark.parametrize("pipeline", [in_credit, matched])
def test_a_table_holds_the_keys_that_qualify_after_every_batch(
    new_sink: Callable[[], Callable[[], Sink]], monkeypatch: pytest.MonkeyPatch, pipeline: Callable[[Any], Any]
) -> None:
    for module in (manifest, file_sinks, merging):
        monkeypatch.setattr(module, "FANOUT", 2)
    monkeypatch.setattr(merging, "_SLICE", 2)

    @settings(max_examples=6)
    @given(st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=10))
    def law(script: list[tuple[list[Any], bool]]) -> None:
        story = Story(pipeline, SCHEMA, mode="update", sink=new_sink())
        everything: list[Any] = []
        for rows, restarts in script:
            story.add(pl.DataFrame(rows, SCHEMA, orient="row")).run()
            everything += rows
            if restarts:
                story.restart()
            expected = pipeline(pl.LazyFrame(everything, SCHEMA, orient="row")).collect()
            same_rows(story.answer(), expected)

    law()


def test_a_key_leaves_and_comes_back(new_sink: Callable[[], Callable[[], Sink]]) -> None:
    story = Story(in_credit, SCHEMA, mode="update", sink=new_sink())
    for round in range(1, 18):
        story.add([{"k": 1.0, "v": 5}]).run().expect([(5, 1.0, 2 * round - 1)])
        story.add([{"k": 1.0, "v": -5}]).run().expect([])


def test_a_stream_like_sink_is_given_the_rows_alone() -> None:
    feed, seen = ub.MemorySource(SCHEMA), []
    coming = iter([5, -5, 7])
    feed.add([{"k": 1.0, "v": next(coming)}])
    stream = in_credit(ub.scan_memory(feed))
    for rows in stream.collect_batches(output_mode="update", trigger=ub.processing_time("0s")):
        seen.append(rows["credit"].to_list())
        if len(seen) == 3:
            break
        feed.add([{"k": 1.0, "v": next(coming)}])
    assert seen == [[5], [], [7]]
