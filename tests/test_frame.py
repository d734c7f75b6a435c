"""Verbs that only pass on: each gives what Polars gives."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.lazyframe.group_by import LazyGroupBy

import unbounded as ub
from unbounded.testing import assert_unified
from unbounded.verbs.refusals import REFUSED, REFUSED_OF_GROUPS

SCHEMA: dict[str, Any] = {"k": pl.String, "v": pl.Int64, "x": pl.Float64, "tags": pl.List(pl.String)}
ROWS = pl.DataFrame(
    [
        {"k": "a", "v": 1, "x": 1.5, "tags": ["p", "q"]},
        {"k": "b", "v": None, "x": float("nan"), "tags": []},
        {"k": None, "v": 3, "x": None, "tags": None},
    ],
    schema=SCHEMA,
)

LIMITS = pl.LazyFrame({"low": [0, 1, 2], "high": [2, 3, 9], "name": ["x", "y", "z"]})


def asof(frame: Any) -> Any:
    """Bounded Polars wants the left side sorted; a stream need not be."""
    sorted_left = frame.sort("v") if isinstance(frame, pl.LazyFrame) else frame
    return sorted_left.join_asof(LIMITS, left_on="v", right_on="low", strategy="nearest")


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
    "fill_null by zero": lambda f: f.select("v", "x").fill_null(strategy="zero"),
    "match_to_schema": lambda f: f.match_to_schema({"v": pl.Int64, "k": pl.String}, extra_columns="ignore"),
    "map_batches": lambda f: f.select("k", "v").map_batches(lambda rows: rows.drop_nulls("v"), streamable=True),
    "join_where": lambda f: f.join_where(LIMITS, pl.col("v") >= pl.col("low"), pl.col("v") < pl.col("high")),
    "join_where semi": lambda f: f.ub.join_where(LIMITS, pl.col("v") >= pl.col("low"), how="semi"),
    "join_where anti": lambda f: f.ub.join_where(LIMITS, pl.col("v") >= pl.col("low"), pl.col("k") > "a", how="anti"),
    "join_where left": lambda f: f.join_where(LIMITS, pl.col("v") <= pl.col("low"), pl.col("k") == "a", how="left"),
    "cross join": lambda f: f.select("k", "v").join(LIMITS.rename({"low": "v"}), how="cross"),
    "join_asof": lambda f: f.drop_nulls("v").pipe(asof),
    "update": lambda f: f.select("k", "v").update(pl.LazyFrame({"k": ["a"], "v": [7]}), on="k"),
    "update inner": lambda f: f.select("k", "v").update(pl.LazyFrame({"k": ["a"], "v": [7]}), on="k", how="inner"),
}
REDUCTIONS = ["count", "null_count", "sum", "mean", "min", "max", "std", "var"]


@pytest.mark.parametrize("verb", VERBS)
def test_a_row_wise_verb_gives_what_polars_gives(verb: str) -> None:
    assert_unified(VERBS[verb], ROWS, runs=2)


@pytest.mark.parametrize("verb", REDUCTIONS)
def test_a_reduction_of_all_columns_gives_what_polars_gives(verb: str) -> None:
    assert_unified(lambda f: getattr(f.select("v", "x"), verb)(), ROWS, runs=2)


@pytest.mark.parametrize("verb", ["sum", "mean", "min", "max", "n_unique", "first", "last", "len"])
def test_a_shortcut_of_a_group_gives_what_polars_gives(verb: str) -> None:
    assert_unified(lambda f: getattr(f.select("k", "v").group_by("k"), verb)(), ROWS, runs=2)


GROUPS: dict[str, Any] = {
    "having": lambda g: g.having(pl.len() > 1, pl.col("v").sum() > 3).agg(pl.col("v").sum()),
    "having, then a shortcut": lambda g: g.having(pl.len() > 1).len(),
}


@pytest.mark.parametrize("verb", GROUPS)
@pytest.mark.parametrize("mode", ["update", "complete"])
def test_a_verb_of_groups_gives_what_polars_gives(verb: str, mode: Any) -> None:
    more = pl.DataFrame([{"k": "a", "v": -4, "x": 0.0, "tags": []}], schema=SCHEMA)
    rows = pl.concat([ROWS, ROWS, more])
    assert_unified(lambda f: GROUPS[verb](f.select("k", "v").group_by("k")), rows, output_mode=mode, runs=3)


PIVOTS: dict[str, Any] = {
    "sum": {"on": "k", "on_columns": ["a", "b", None], "index": "g", "values": "v", "aggregate_function": "sum"},
    "of two values": {"on": "k", "on_columns": ["a", "b"], "index": "g", "aggregate_function": "len"},
    "on two columns": {
        "on": ["k", "g"],
        "on_columns": pl.DataFrame({"k": ["a", "b"], "g": [1, 2]}),
        "index": "v",
        "aggregate_function": "max",
    },
    "an expression": {
        "on": "k",
        "on_columns": ["a"],
        "values": "x",
        "aggregate_function": (pl.element() * 2).sum() / pl.element().len(),
    },
    "named by value and cell": {
        "on": "k",
        "on_columns": ["a"],
        "index": "g",
        "values": ["v"],
        "aggregate_function": "mean",
        "column_naming": "combine",
        "separator": "-",
    },
}


@pytest.mark.parametrize("case", PIVOTS)
def test_a_pivot_with_given_columns_is_polars_own(case: str) -> None:
    schema: dict[str, Any] = {"k": pl.String, "g": pl.Int64, "v": pl.Int64, "x": pl.Float64}
    rows = [
        (k, g, v, float(v)) for v, (k, g) in enumerate([("a", 1), ("b", 1), ("a", 2), (None, 2), ("c", 3), ("a", 1)])
    ]

    frame = pl.DataFrame(rows, schema=schema, orient="row")
    assert_unified(lambda f: f.pivot(**PIVOTS[case]), frame, output_mode="update", runs=3)


OTHER_SIGNATURES = {
    "collect_batches": "a frame for each batch, with the options of a query",
    "explain": "the plan of a stream has output modes, and no engine",
    "show": "prints with Polars' own configuration",
    "sink_batches": "calls once for each batch, with the options of a query",
    "sink_csv": "writes a folder, with a checkpoint",
    "sink_ipc": "writes a folder, with a checkpoint",
    "sink_ndjson": "writes a folder, with a checkpoint",
    "sink_parquet": "writes a folder, with a checkpoint",
}


@pytest.mark.parametrize(
    "name", [name for name in dir(pl.LazyFrame) if name[0] != "_" and name not in OTHER_SIGNATURES]
)
def test_a_verb_has_the_arguments_and_defaults_of_polars(name: str) -> None:
    assert_same_signature(ub.StreamFrame, pl.LazyFrame, name)


@pytest.mark.parametrize("name", [name for name in dir(LazyGroupBy) if name[0] != "_"])
def test_a_verb_of_groups_has_the_arguments_and_defaults_of_polars(name: str) -> None:
    assert_same_signature(ub.StreamGroupBy, LazyGroupBy, name)


def assert_same_signature(ours: type, theirs: type, name: str) -> None:
    found, wanted = (inspect.getattr_static(one, name) for one in (ours, theirs))
    if not inspect.isfunction(wanted):
        assert isinstance(found, property) or name in REFUSED or name == "ub"
        return
    if name not in REFUSED and name not in REFUSED_OF_GROUPS:
        assert [(p.name, p.kind, p.default) for p in inspect.signature(found).parameters.values()] == [
            (p.name, p.kind, p.default) for p in inspect.signature(wanted).parameters.values()
        ]


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
    assert times.lazy().ub.with_watermark("t", "1h").collect()["t"].is_sorted()  # type: ignore[attr-defined]  # registered
    stream = ub.scan_memory(ub.MemorySource(times.schema))
    assert stream.ub.with_watermark("t", "1h").explain() == stream.with_watermark("t", "1h").explain()
