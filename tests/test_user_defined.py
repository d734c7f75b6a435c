"""Does an aggregate that a user writes give the same on bounded and unbounded frames, however the rows are cut?"""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from tests.language import Story
from tests.test_aggregates import SCHEMA, A, B, Y, assert_same, frame_of, in_engine, in_pieces, in_polars
from unbounded.aggregates import cut

N, TOTAL = pl.col("n"), pl.col("total")


def mean(x: pl.Expr) -> pl.Expr:
    sums = {"total": TOTAL.sum(), "n": N.sum()}
    return ub.aggregate(partial={"total": x.sum(), "n": x.count()}, merge=sums, finish=TOTAL / N)


def weighted_mean(x: pl.Expr, weight: pl.Expr) -> pl.Expr:
    sums = {"total": TOTAL.sum(), "n": N.sum()}
    return ub.aggregate(partial={"total": (x * weight).sum(), "n": weight.sum()}, merge=sums, finish=TOTAL / N)


def log_sum_exp(x: pl.Expr) -> pl.Expr:
    most, rest = pl.col("most"), pl.col("rest")
    return ub.aggregate(
        partial={"most": x.max(), "rest": (x - x.max()).exp().sum()},
        merge={"most": most.max(), "rest": (rest * (most - most.max()).exp()).sum()},
        finish=most + rest.log(),
    )


def distance(x: pl.Expr) -> pl.Expr:
    """The last value less the first, 0 of nothing: with an order, a value of no rows, and a part used twice."""
    ends = {"first": pl.col("first").drop_nulls().first(), "last": pl.col("last").drop_nulls().last()}
    partial = {"first": x.drop_nulls().first(), "last": x.drop_nulls().last(), "rows": x.count()}
    return ub.aggregate(
        partial=partial,
        merge={**ends, "rows": pl.col("rows").sum()},
        init={"rows": 0},
        finish=pl.when(pl.col("rows") > 0).then(pl.col("last") - pl.col("first")).otherwise(0),
    )


@given(
    seed=st.integers(0, 1000),
    height=st.integers(0, 12),
    cuts=st.lists(st.integers(0, 12), max_size=4),
    keys=st.sampled_from([[], ["k"], ["s", "y"]]),
)
def test_a_users_aggregate_is_the_same_of_parts_and_of_all_rows(
    seed: int, height: int, cuts: list[int], keys: list[str]
) -> None:
    rows = frame_of(height, seed)
    wanted = [
        mean(pl.col("h")).alias("mean"),
        mean(A.filter(Y)).alias("mean where y"),
        weighted_mean(A, pl.col("g")).round(3).alias("weighted"),
        (log_sum_exp(pl.col("g")) * pl.len()).alias("log_sum_exp"),
        distance(B).alias("distance"),
        A.sum(),
    ]
    assert_same(in_engine(wanted, in_pieces(rows, cuts), keys), in_polars(wanted, rows, keys))


def test_a_users_aggregate_is_named_as_its_finish_and_goes_through_windows_and_restarts() -> None:
    schema: dict[str, Any] = {"k": pl.String, "x": pl.Float64}
    story = Story(lambda frame: frame.group_by("k").agg(mean(pl.col("x"))), schema, mode="update")
    story.add([{"k": "a", "x": 1.0}, {"k": "b", "x": 8.0}]).run().restart().add([{"k": "a", "x": 4.0}]).run()
    assert story.answer().sort("k").to_dict(as_series=False) == {"k": ["a", "b"], "total": [2.5, 8.0]}


def test_parts_are_wide_and_the_answer_is_what_polars_makes_of_it() -> None:
    most = ub.aggregate(
        partial={"n": pl.len(), "x": pl.col("h").max()}, merge={"n": N.sum(), "x": pl.col("x").max()}, finish=N
    )
    done = cut([most], SCHEMA)
    assert done.state.dtypes() == [pl.Int64, pl.Float64]
    assert cut([most], SCHEMA).finish[0].meta.output_name() == "n"
    assert in_engine([most], [frame_of(3, 1)], []).schema == in_polars([most], frame_of(3, 1), []).schema


def test_what_is_kept_tells_partial_and_merge_apart_and_not_the_finish() -> None:
    one = ub.aggregate(partial={"n": A.sum()}, merge={"n": N.sum()}, finish=N)
    doubled = ub.aggregate(partial={"n": A.sum()}, merge={"n": N.sum()}, finish=N * 2)
    other = ub.aggregate(partial={"n": A.sum() * 2}, merge={"n": N.sum()}, finish=N)
    assert cut([one], SCHEMA).canonical == cut([doubled], SCHEMA).canonical != cut([other], SCHEMA).canonical


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other names": ({"partial": {"n": A.sum()}, "merge": {"m": N.sum()}, "finish": N}, r"'n'.*'m'.*same names"),
    "no names": ({"partial": {}, "merge": {}, "finish": N}, r"nothing.*same names"),
    "init of nothing": (
        {"partial": {"n": A.sum()}, "merge": {"n": N.sum()}, "finish": N, "init": {"m": 0}},
        r"init 'm'",
    ),
    "merge reads rows": ({"partial": {"n": A.sum()}, "merge": {"n": A.sum()}, "finish": N}, r"'a'.*only 'n'"),
    "finish reads rows": (
        {"partial": {"n": A.sum()}, "merge": {"n": N.sum()}, "finish": N / A.sum()},
        r"belongs into part",
    ),
    "no aggregate": ({"partial": {"n": A.sum()}, "merge": {"n": N}, "finish": N}, r"value per row.*\.sum\(\)"),
    "several columns": ({"partial": {"n": pl.all().sum()}, "merge": {"n": N.sum()}, "finish": N}, r"several columns"),
    "a function": (
        {"partial": {"n": A.map_elements(abs, return_dtype=pl.Int64).sum()}, "merge": {"n": N.sum()}, "finish": N},
        r"Python function",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_aggregate_that_makes_no_sense_is_refused_where_it_is_written(case: str) -> None:
    arguments, sentence = REFUSED[case]
    with pytest.raises(ub.PlanError, match=sentence):
        ub.aggregate(**arguments)


BROKEN: dict[str, tuple[dict[str, pl.Expr], dict[str, pl.Expr], str]] = {
    "a mean of means": ({"n": A.mean()}, {"n": N.mean()}, r"all parts is the state of all rows"),
    "a sum of squares": ({"n": (A**2).sum()}, {"n": (N**2).sum()}, r"merge of one state is that state"),
    "a count of parts": ({"n": A.count()}, {"n": N.len()}, r"merge of one state"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_merge_that_breaks_the_laws_is_refused_in_agg(case: str) -> None:
    partial, merge, sentence = BROKEN[case]
    broken = ub.aggregate(partial=partial, merge=merge, finish=N)
    frame = ub.scan_memory(ub.MemorySource({"k": pl.Int64, "a": pl.Int64}))
    with pytest.raises(ub.PlanError, match=sentence):
        frame.group_by("k").agg(broken)


def test_messages_do_not_show_how_the_merge_rides_along() -> None:
    with pytest.raises(ub.PlanError) as refused:
        cut([mean(A) - A], SCHEMA)
    assert "__aggregate__" not in str(refused.value)
