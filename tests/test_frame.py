"""Verbs that only pass on: each gives what Polars gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.plan import evaluate

SCHEMA: dict[str, Any] = {"k": pl.String, "v": pl.Int64, "x": pl.Float64, "tags": pl.List(pl.String)}
ROWS = [
    {"k": "a", "v": 1, "x": 1.5, "tags": ["p", "q"]},
    {"k": "b", "v": None, "x": float("nan"), "tags": []},
    {"k": None, "v": 3, "x": None, "tags": None},
]

VERBS: dict[str, Any] = {
    "filter": lambda f: f.filter(pl.col("v") > 1, k="b"),
    "filter by two": lambda f: f.filter([pl.col("v") > 0, pl.col("k") == "a"]),
    "remove": lambda f: f.remove(pl.col("v") > 1),
    "select": lambda f: f.select("k", (pl.col("v") + 1).alias("w"), pl.col("x").name.suffix("_y")),
    "with_columns": lambda f: f.with_columns(pl.col("v", "x") * 2, one=pl.lit(1)),
    "rename by function": lambda f: f.rename(str.upper),
    "drop": lambda f: f.drop("tags", "x"),
    "cast": lambda f: f.cast({"v": pl.Float32}),
    "explode": lambda f: f.explode("tags"),
    "unnest": lambda f: f.select(pl.struct("k", "v").alias("s")).unnest("s"),
    "unpivot": lambda f: f.unpivot(["v", "x"], index="k"),
    "drop_nulls": lambda f: f.drop_nulls("v"),
    "drop_nans": lambda f: f.drop_nans("x"),
    "fill_null": lambda f: f.fill_null(0),
    "fill_nan": lambda f: f.fill_nan(0.0),
    "pipe": lambda f: f.pipe(lambda g, n: g.with_columns(pl.lit(n).alias("n")), 5),
    "pipe_with_schema": lambda f: f.pipe_with_schema(lambda g, schema: g.select(sorted(schema))),
    "lazy, clone, cache": lambda f: f.lazy().clone().cache(),
    "set_sorted": lambda f: f.set_sorted("v"),
}
REDUCTIONS = ["count", "null_count", "sum", "mean", "min", "max", "std", "var"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_row_wise_verb_gives_what_polars_gives(verb: str) -> None:
    story = Story(VERBS[verb], SCHEMA).add(ROWS[:2]).run().add(ROWS[2:]).run()
    same_rows(story.answer(), VERBS[verb](pl.LazyFrame(ROWS, schema=SCHEMA)).collect())


@pytest.mark.parametrize("verb", REDUCTIONS)
def test_a_reduction_of_all_columns_gives_what_polars_gives(verb: str) -> None:
    def reduced(frame: Any) -> Any:
        return getattr(frame.select("v", "x"), verb)()

    story = Story(reduced, SCHEMA, mode="complete").add(ROWS[:2]).run().add(ROWS[2:]).run()
    same_rows(story.answer(), reduced(pl.LazyFrame(ROWS, schema=SCHEMA)).collect())


@pytest.mark.parametrize("verb", ["sum", "mean", "min", "max", "n_unique", "first", "last", "len"])
def test_a_shortcut_of_a_group_gives_what_polars_gives(verb: str) -> None:
    def grouped(frame: Any) -> Any:
        return getattr(frame.select("k", "v").group_by("k"), verb)()

    story = Story(grouped, SCHEMA, mode="complete").add(ROWS[:2]).run().add(ROWS[2:]).run()
    same_rows(story.answer(), evaluate(story._plan, {"feed0": pl.LazyFrame(ROWS, schema=SCHEMA)}).collect(), key=["k"])
    same_rows(story.answer(), grouped(pl.LazyFrame(ROWS, schema=SCHEMA)).collect(), key=["k"])


@pytest.mark.parametrize("format", ["parquet", "csv", "ndjson", "ipc"])
def test_every_file_verb_writes_what_read_sink_reads(format: str, tmp_path: Path) -> None:
    feed = ub.MemorySource({"k": pl.String, "v": pl.Int64})
    feed.add([{"k": "a", "v": 1}, {"k": "b", "v": 2}])
    sink = getattr(ub.scan_memory(feed), f"sink_{format}")
    sink(tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.available_now(), partition_by="k")
    assert sorted(ub.read_sink(tmp_path / "out").collect().rows()) == [("a", 1), ("b", 2)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"k=a", "k=b"}


def test_a_console_prints_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": "seen"}])
    ub.scan_memory(feed).sink_console(trigger=ub.available_now())
    assert "seen" in capsys.readouterr().out


def test_the_namespace_means_the_same_on_both_kinds_of_frame() -> None:
    times = pl.DataFrame({"t": ["2026-01-02", "2026-01-01"]}).select(pl.col("t").str.to_datetime())
    assert times.lazy().ub.with_watermark("t", "1h").collect()["t"].is_sorted()  # type: ignore[attr-defined]
    stream = ub.scan_memory(ub.MemorySource(times.schema))
    assert stream.ub.with_watermark("t", "1h").explain() == stream.with_watermark("t", "1h").explain()
