"""Are approximate aggregates within their error, however the rows are cut, and is what they keep bounded?"""

from __future__ import annotations

import sys
from itertools import pairwise
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story
from tests.test_aggregates import DTYPES, SCHEMA, A, Y, assert_same, frame_of, in_engine, in_pieces, in_polars
from unbounded.aggregates import cut
from unbounded.errors import CorruptRecordError, UnsupportedOperationError

X = pl.col("x")


def pieces_of(rows: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    random = Random(seed)
    return in_pieces(rows, [random.randrange(rows.height) for _ in range(20)])


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(0, 12),
    cuts=st.lists(st.integers(0, 12)),
    keys=st.sampled_from([[], ["k"]]),
)
def test_of_few_values_approximate_aggregates_are_exact(
    seed: int, height: int, cuts: list[int], keys: list[str]
) -> None:
    rows = frame_of(height, seed)
    counted = {name: pl.col(name) for name in DTYPES if name not in ("l", "z")}
    ranked = {name: pl.col(name) for name in "kabufghytdrmn"}
    approximate = [one.approx_n_unique().alias(f"n {name}") for name, one in counted.items()]
    approximate += [one.filter(Y).approx_quantile(0.4, error=0.01).alias(f"q {name}") for name, one in ranked.items()]
    exact = [one.n_unique().alias(f"n {name}") for name, one in counted.items()]
    exact += [one.filter(Y).approx_quantile(0.4).alias(f"q {name}") for name, one in ranked.items()]
    assert_same(in_engine(approximate, in_pieces(rows, cuts), keys), in_polars(exact, rows, keys))


@pytest.mark.parametrize("many", [100, 5_000, 200_000])
@pytest.mark.parametrize("dtype", [pl.Int64, pl.String, pl.Float64])
def test_distinct_values_are_counted_within_five_percent(many: int, dtype: Any) -> None:
    rows = pl.DataFrame(
        {"k": pl.int_range(many, eager=True) % 2, "x": pl.int_range(many, eager=True) // 4}
    ).with_columns(X.cast(dtype))
    found = in_engine([X.approx_n_unique()], pieces_of(rows, many), ["k"], "update")
    assert found["x"].to_list() == pytest.approx([many / 4] * 2, rel=0.05)  # three standard errors


@pytest.mark.parametrize("error", [0.05, 0.01, 0.001])
def test_quantiles_are_within_the_error_in_rank_that_was_asked_for(error: float) -> None:
    random = Random(7)
    rows = pl.DataFrame({"x": [random.expovariate(1) for _ in range(100_000)]})
    ranks = [0.01, 0.25, 0.5, 0.9, 0.999]
    quantiles = [X.approx_quantile(rank, error=error).alias(str(rank)) for rank in ranks]
    found = in_engine(quantiles, pieces_of(rows, 3), []).row(0)
    for rank, value in zip(ranks, found, strict=True):
        assert rows.select((value >= X).mean()).item() == pytest.approx(rank, abs=error)


def test_several_quantiles_share_one_sketch_whose_size_is_bounded() -> None:
    wanted = [X.approx_quantile([0.5, 0.9], error=0.01), X.approx_quantile(0.1, error=0.01).alias("y")]
    done = cut(wanted, {"x": pl.Float64()}, keyed=False)
    assert done.canonical == ('KLL 269 of col("x"): Binary',)
    rows = pl.DataFrame({"x": pl.int_range(300_000, eager=True).cast(pl.Float64)})
    assert rows.select(done.partial)["__0"].bin.size().item() < 10_000


def test_nulls_count_as_one_value_and_have_no_rank() -> None:
    rows = pl.DataFrame({"x": [None, 3, None]}, schema={"x": pl.Int64})
    wanted = [X.approx_n_unique().alias("n"), X.approx_quantile(0.9).alias("q")]
    assert in_engine(wanted, in_pieces(rows, [1]), []).row(0) == (2, 3)
    assert in_engine(wanted, [rows.clear()], []).row(0) == (0, None)


def test_nan_is_the_greatest_and_infinity_stays_what_it_is() -> None:
    values = [float("nan"), float("inf"), 1.0, float("-inf")]
    ranks = [0.0, 0.34, 0.67, 1.0]
    found = in_engine([X.approx_quantile(ranks)], in_pieces(pl.DataFrame({"x": values}), [1, 3]), [])
    assert_same(found, pl.DataFrame({"x": [[float("-inf"), 1.0, float("inf"), float("nan")]]}))


def test_sketches_survive_a_restart() -> None:
    story = Story(
        lambda frame: frame.group_by("k").agg(X.approx_n_unique().alias("n"), X.approx_quantile(0.5).alias("q")),
        {"k": pl.String, "x": pl.Int64},
        mode="update",
    )
    for since, until in pairwise(range(0, 60, 10)):
        story.add([{"k": "a", "x": x} for x in range(since, until)]).run().restart()
    story.expect([("a", 50, 25)])


def test_approximate_aggregates_warn_of_no_growth() -> None:
    frame = ub.scan_memory(ub.MemorySource({"k": pl.String, "x": pl.Int64}))
    frame.group_by("k").agg(X.approx_n_unique()).sink_memory(output_mode="update", trigger=ub.available_now())


@pytest.mark.parametrize("aggregate", [A.approx_n_unique(), A.approx_quantile(0.5)])
def test_bytes_that_are_no_sketch_are_an_error_and_do_not_end_the_process(aggregate: pl.Expr) -> None:
    done = cut([aggregate], SCHEMA)
    sketch = frame_of(12, 1).select(done.partial)
    stored, random = sketch["__0"].item(), Random(1)
    for _ in range(300):
        bad = bytearray(stored[: random.choice([len(stored), random.randrange(len(stored))])])
        if len(bad) == len(stored):
            bad[random.randrange(len(bad))] ^= 1 << random.randrange(8)
        damaged = sketch.with_columns(pl.Series("__0", [bytes(bad)]))
        with pytest.raises(CorruptRecordError, match="not what was written"):
            damaged.with_columns(done.opened).select(done.finish)
        with pytest.raises(CorruptRecordError, match="not what was written"):
            pl.concat([damaged, sketch]).select(done.merge)


def test_without_the_library_the_refusal_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(ub.PlanError, match=r"pip install 'unbounded\[sketches\]'.*n_unique\(\)"):
        cut([A.approx_n_unique()], SCHEMA)


@pytest.mark.parametrize(
    ("expr", "sentence"),
    [
        (A.approx_quantile(0.5, method="req_hi"), r"same error.*at every rank.*method='kll'"),
        (A.approx_quantile(0.5, error_tightness="formal"), r"a measured one.*smaller error"),
        (A.approx_quantile(0.5, error=1e-6), r"no sketch is as exact.*quantile\(\)"),
        (pl.col("s").approx_quantile(0.5), r"numbers and times, not String"),
        ((ub.current_timestamp() - pl.col("t")).approx_n_unique(), r"what a batch says of time.*with_columns"),
    ],
)
def test_what_a_sketch_cannot_do_is_refused(expr: pl.Expr, sentence: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=sentence):
        cut([expr.alias("x")], SCHEMA)
