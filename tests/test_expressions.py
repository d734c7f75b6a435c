"""What is read from a Polars expression: its tree, its columns, whether it is row-wise, its canonical text?"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

import unbounded as ub
from unbounded.errors import PlanError
from unbounded.expressions import (
    canonical,
    columns_of,
    expand,
    passes,
    python_function,
    truncated,
    why_not_rowwise,
)
from unbounded.expressions.trees import children, expression, nodes, rewrite, tree_of, with_children

A, B, F, L, S, T, Y = map(pl.col, ["a", "b", "f", "l", "s", "t", "y"])
FRAME = pl.DataFrame(
    {
        "k": [1, 2, 1, 2, 3, 1],
        "a": [3, 1, None, 2, 5, 2],
        "b": [2, 2, 3, 1, None, 9],
        "f": [1.5, math.nan, None, -0.0, 2.0, 3.0],
        "y": [True, None, False, True, True, False],
        "s": ["xa", "yb", "2020-01-01", None, "4", "q"],
        "t": [datetime(2020, 1, day, 3) for day in range(1, 7)],
        "l": [[1, 2], [], None, [2], [3, 4, 5], [9]],
    }
).with_columns(st=pl.struct("a", "b"), ar=pl.concat_arr("a", "b"), c=S.cast(pl.Categorical))


def successor(value: Any) -> Any:
    """In Python, and not so simple that Polars would warn to write it as an expression."""
    return value.__add__(1)


def never_called(*values: Any) -> Any:
    raise AssertionError("reading an expression must not call its functions")


# ------------------------------------------------------------------------------------------- trees
@pytest.mark.parametrize(
    ("expr", "tree"),
    [
        (A, {"Column": "a"}),
        (A.alias("z"), {"Alias": [{"Column": "a"}, "z"]}),
        (A.name.suffix("_x"), {"RenameAlias": {"function": {"Suffix": "_x"}, "expr": {"Column": "a"}}}),
        (A.name.keep(), {"KeepName": {"Column": "a"}}),
        (pl.col("a", "b"), {"Selector": {"ByName": {"names": ["a", "b"], "strict": True}}}),
        (pl.lit(-1), {"Literal": {"Dyn": {"Int": (-1).to_bytes(16, "big", signed=True)}}}),
        (pl.lit(1.5), {"Literal": {"Dyn": {"Float": 1.5}}}),
        (pl.lit("x"), {"Literal": {"Scalar": {"String": "x"}}}),
        (pl.lit(None), {"Literal": {"Scalar": {"Null": "Null"}}}),
        (A + B, {"BinaryExpr": {"left": {"Column": "a"}, "op": "Plus", "right": {"Column": "b"}}}),
        (A.cast(pl.Int8), {"Cast": {"expr": {"Column": "a"}, "dtype": {"Literal": "Int8"}, "options": "Strict"}}),
        (
            pl.when(A).then(B).otherwise(F),
            {"Ternary": {"predicate": {"Column": "a"}, "truthy": {"Column": "b"}, "falsy": {"Column": "f"}}},
        ),
        (A.filter(Y), {"Filter": {"input": {"Column": "a"}, "by": {"Column": "y"}}}),
        (A.drop_nulls(), {"Function": {"input": [{"Column": "a"}], "function": "DropNulls"}}),
        (A.drop_nans(), {"Function": {"input": [{"Column": "a"}], "function": "DropNans"}}),
        (L.explode(), {"Explode": {"input": {"Column": "l"}, "options": {"empty_as_null": False, "keep_nulls": True}}}),
        (pl.struct(A, B), {"Function": {"input": [{"Column": "a"}, {"Column": "b"}], "function": "AsStruct"}}),
        (
            T.dt.truncate("5m"),
            {
                "Function": {
                    "input": [{"Column": "t"}, {"Literal": {"Scalar": {"String": "5m"}}}],
                    "function": {"TemporalExpr": "Truncate"},
                }
            },
        ),
        (pl.len(), "Len"),
        (A.len(), {"Agg": {"Count": {"input": {"Column": "a"}, "include_nulls": True}}}),
        (A.count(), {"Agg": {"Count": {"input": {"Column": "a"}, "include_nulls": False}}}),
        (A.sum(), {"Agg": {"Sum": {"Column": "a"}}}),
        (A.min(), {"Agg": {"Min": {"input": {"Column": "a"}, "propagate_nans": False}}}),
        (A.nan_max(), {"Agg": {"Max": {"input": {"Column": "a"}, "propagate_nans": True}}}),
        (A.var(ddof=2), {"Agg": {"Var": [{"Column": "a"}, 2]}}),
        (A.first(), {"Agg": {"First": {"Column": "a"}}}),
        (A.last(ignore_nulls=True), {"Agg": {"LastNonNull": {"Column": "a"}}}),
        (A.n_unique(), {"Agg": {"NUnique": {"Column": "a"}}}),
        (A.null_count(), {"Function": {"input": [{"Column": "a"}], "function": "NullCount"}}),
        (A.min_by(B), {"Function": {"input": [{"Column": "a"}, {"Column": "b"}], "function": "MinBy"}}),
        (
            A.any(ignore_nulls=False),
            {"Function": {"input": [{"Column": "a"}], "function": {"Boolean": {"Any": {"ignore_nulls": False}}}}},
        ),
        (A.bitwise_xor(), {"Function": {"input": [{"Column": "a"}], "function": {"Bitwise": "Xor"}}}),
    ],
    ids=str,
)
def test_the_shapes_that_the_library_relies_on_are_those_of_this_polars(expr: pl.Expr, tree: Any) -> None:
    assert tree_of(expr) == tree


LITERALS = [
    *(0, -1, 127, 128, 2**40, -(2**40), 2**70, 1.5, -0.0, math.inf, -math.inf, "", 'it\'s "q"', "ß" * 40, "x" * 70_000),
    *(b"\x00\xff", None, True, date(2020, 1, 1), datetime(2020, 1, 1), timedelta(days=-1), Decimal("1.20")),
    *([1, None], {"x": 1, "y": "z"}, pl.Series([1, 2]), pl.Series("named", ["x", None])),
]


@pytest.mark.parametrize("literal", LITERALS, ids=lambda literal: repr(literal)[:30])
def test_a_tree_is_written_back_to_the_same_expression(literal: Any) -> None:
    expr = (pl.lit(literal).alias("value") == A).filter(Y).sum().over("k", order_by="t")
    again = expression(tree_of(expr))
    assert again.meta.eq(expr)
    assert again.meta.serialize() == expr.meta.serialize()


def test_a_tree_is_read_once_but_for_one_that_holds_many_rows() -> None:
    small, large = (A.is_in(pl.Series(range(height)).implode()) for height in (3, 30_000))
    assert tree_of(small) is tree_of(small)
    assert tree_of(large) is not tree_of(large)


def test_a_tree_keeps_nan_which_json_would_lose() -> None:
    again = expression(tree_of(F.fill_null(math.nan)))
    assert_frame_equal(FRAME.select(again), FRAME.select(F.fill_null(math.nan)))


def test_a_long_expression_is_read_and_written() -> None:
    expr = reduce(add, [pl.lit(number) for number in range(150)])
    assert len(nodes(tree_of(expr))) == 299
    assert pl.select(expression(tree_of(expr))).item() == sum(range(150))


def test_the_parts_of_a_node_are_read_and_replaced_from_left_to_right() -> None:
    tree = tree_of(pl.when(A > 1).then(B.filter(Y)).otherwise(F.over("k")))
    assert [str(expression(part)) for part in children(tree)] == [
        '[(col("a")) > (dyn int: 1)]',
        'col("b").filter(col("y"))',
        'col("f").over([col("k")])',
    ]
    assert with_children(tree, children(tree)) == tree
    assert rewrite(tree, lambda part: part) == tree


# --------------------------------------------------------------------------------------- expansion
ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("a", "b"), {}),
    ((["a", B + 1],), {}),
    ((), {}),
    (([],), {}),
    ((1, "a"), {"schema": "b", "eager": 2.5, "w": A * 2, "none": None}),
    (("a", [1, 2, 3, 4, 5, 6]), {}),
    ((pl.all(),), {}),
    ((pl.exclude("a", "st"),), {}),
    ((cs.numeric() * 2,), {}),
    ((~cs.numeric() & ~cs.nested(),), {}),
    ((pl.col("^a|b$").name.prefix("p_"),), {}),
    ((pl.col(pl.Int64).name.to_uppercase(),), {}),
    ((pl.col("a", "b").name.suffix("_x") + 1,), {}),
    ((pl.nth(0, -1),), {}),
    ((cs.first(), cs.last()), {}),
    ((pl.all().name.map(str.upper),), {}),
    ((A.name.map(str.upper),), {}),
    ((pl.col("a", "b") / pl.col("b", "a"),), {}),
    ((pl.when(cs.numeric() > 1).then(cs.numeric()),), {}),
    ((cs.by_name("a", "b").fill_null(cs.by_name("b", "a")),), {}),
    ((pl.sum_horizontal(cs.numeric()),), {}),
    ((pl.sum_horizontal(cs.numeric() + 1).alias("s") * 2,), {}),
    ((pl.struct(pl.all()).alias("all"),), {"x": pl.struct(cs.numeric(), z=S)}),
    ((pl.coalesce(cs.by_name("a", "b")), pl.concat_str(cs.string(), "k").alias("text")), {}),
    ((pl.any_horizontal(cs.numeric() > 1).alias("any"),), {}),
    ((pl.format("{}:{}", cs.by_name("a", "b"), S),), {}),
    ((pl.col("st").struct.field("a", "b"),), {}),
    ((pl.col("st").struct.unnest().name.suffix("_st"),), {}),
    ((pl.col("st").struct.field("^a$"),), {}),
    ((pl.lit(1), pl.lit("x").alias("y")), {}),
    ((A.map_elements(successor, return_dtype=pl.Int64),), {"named": A.alias("inner")}),
    ((cs.numeric().sum(), pl.len()), {}),
]


@pytest.mark.parametrize(("args", "named"), ARGUMENTS)
def test_expanded_arguments_make_what_polars_makes_of_the_arguments(args: Any, named: Any) -> None:
    args = tuple(args)
    single = expand(FRAME.schema, args, named)
    assert [expr.meta.has_multiple_outputs() for expr in single] == [False] * len(single)
    expected = FRAME.select(*args, **named)
    assert [expr.meta.output_name() for expr in single] == expected.columns
    assert_frame_equal(FRAME.select(single), expected)


def test_an_iterator_of_arguments_is_read_once() -> None:
    assert [str(expr) for expr in expand(FRAME.schema, (name for name in ("a", "f")), {})] == ['col("a")', 'col("f")']
    assert [str(expr) for expr in expand(FRAME.schema, [(name for name in ("a", "f"))], {})] == ['col("a")', 'col("f")']


@pytest.mark.parametrize(
    "expr", [pl.all().first(), cs.numeric().sum(), pl.col("a", "b").max(), pl.struct(cs.numeric())]
)
def test_selectors_in_agg_leave_out_the_keys(expr: pl.Expr) -> None:
    expected = FRAME.group_by("k", maintain_order=True).agg(expr)
    single = expand(FRAME.schema, [expr], {}, without={"k", "not a column"})
    assert_frame_equal(FRAME.group_by("k", maintain_order=True).agg(single), expected)


def test_predicates_are_expanded_without_names() -> None:
    predicates = expand(FRAME.schema, [A > 1, A < 5, pl.col("k", "b") > 1], {}, unnamed=True)
    assert_frame_equal(FRAME.filter(predicates), FRAME.filter(A > 1, A < 5, pl.col("k", "b") > 1))


def test_one_python_function_over_several_columns_is_refused() -> None:
    with pytest.raises(PlanError, match="one expression per column"):
        expand(FRAME.schema, [pl.col("a", "b").map_elements(never_called, return_dtype=pl.Int64)], {})


def test_an_unknown_column_of_a_selector_is_polars_own_error() -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        expand(FRAME.schema, [pl.col("a", "nope")], {})


# ---------------------------------------------------------------------------------------- questions
@pytest.mark.parametrize(
    "expr",
    [
        A.map_elements(never_called) + 1,
        A.map_batches(never_called).alias("z"),
        A.filter(B.map_elements(never_called)).sum().over("k"),
        A.sort_by(B.map_elements(never_called)),
        pl.struct(B, x=pl.struct(A.map_elements(never_called))),
        L.list.eval(pl.element().map_elements(never_called)),
        pl.fold(0, never_called, [A, B]),
        pl.reduce(never_called, [A, B]),
        A.rolling_map(never_called, 2),
        A.name.map(str.upper),
    ],
    ids=str,
)
def test_a_python_function_is_found_wherever_it_stands(expr: pl.Expr) -> None:
    assert python_function(expr)


@pytest.mark.parametrize("expr", [A, A.sum().over("k"), pl.col(".python_udf("), A == ".fold(", S.str.replace("a", "b")])
def test_an_expression_without_one_holds_no_python_function(expr: pl.Expr) -> None:
    assert not python_function(expr)


def test_a_renamed_column_passes_and_a_computed_one_does_not() -> None:
    assert [passes(expr) for expr in (A, A.alias("z"), A.alias("z").name.suffix("y"), A.name.map(str.upper))] == [
        "a"
    ] * 4
    assert [passes(expr) for expr in (A + 0, A.cast(pl.Int64), pl.lit(1), A.sum(), pl.len())] == [None] * 5


def test_a_truncation_to_a_literal_is_recognised_under_any_name() -> None:
    assert truncated(T.dt.truncate("5m")) == ("t", "5m")
    assert truncated(T.dt.truncate(timedelta(hours=1)).alias("hour").name.prefix("the_")) == ("t", "3600s")
    others = [
        T,
        T.dt.round("5m"),
        T.dt.truncate(S),
        T.dt.truncate("5m").dt.hour(),
        (T + timedelta(1)).dt.truncate("5m"),
    ]
    assert [truncated(expr) for expr in [*others, T.map_elements(never_called)]] == [None] * 6


def test_the_columns_of_an_expression_are_all_it_reads() -> None:
    assert columns_of((A.filter(Y) + F).sum().over("k")) == {"a", "y", "f", "k"}
    assert columns_of(pl.lit(1)) == frozenset()


# ----------------------------------------------------------------------------------------- row-wise
ROWWISE: list[pl.Expr] = [
    *(A, A.alias("z"), pl.lit(1), pl.lit(None), A + B, -A, ~Y, A**2, A // 2, A.eq_missing(B), Y & (A > 1)),
    *(A.abs() * A.abs(), A + A - A),
    *(A.is_in([1, 2]), A.is_in(pl.Series([1, 2])), A.is_in(L), A.replace({1: 2}), A.fill_null(B), A.is_null()),
    *(A.replace_strict({1: 2}, default=None), A.fill_null(strategy="zero"), A.cast(pl.String), A.hash()),
    *(F.round(2), F.fill_nan(0), F.is_nan(), F.clip(1, 2), F.sqrt(), F.cast(pl.Int64, strict=False)),
    *(S.str.contains("x"), S.str.contains(S), S.str.split("-"), S.str.extract("(.)", 1), S.str.to_uppercase()),
    *(S.str.contains_any(["x"]), S.str.replace_many(["x"], ["y"]), S.str.to_date("%Y-%m-%d", strict=False)),
    *(S.cast(pl.Categorical), pl.col("c").cast(pl.String), pl.col("c").cat.starts_with("x")),
    *(
        T.dt.truncate("3d"),
        T.dt.offset_by("1mo"),
        T.dt.strftime("%Y"),
        T - datetime(2020, 1, 1),
        T.dt.convert_time_zone("UTC"),
    ),
    *(
        L.list.sum(),
        L.list.eval(pl.element().cum_sum()),
        L.list.agg(pl.element().sum()),
        L.list.get(0, null_on_oob=True),
    ),
    *(pl.col("ar").arr.sum(), pl.col("st").struct.field("a"), pl.col("st").struct.with_fields(x=pl.field("a") + 1)),
    *(pl.struct(A, z=B), pl.concat_list(A, B), pl.concat_str(S, "k"), pl.format("{}-{}", S, A), pl.coalesce(A, B)),
    *(pl.sum_horizontal(A, B), pl.any_horizontal(Y, A > 1), pl.when(A > 1).then(B).otherwise(0), pl.int_ranges(0, B)),
    T.dt.date().dt.is_business_day(holidays=[date(2020, 1, 2)]),
    pl.business_day_count(T.dt.date(), date(2020, 1, 9)) + T.dt.date().dt.add_business_days(1, roll="forward").dt.day(),
    A.map_elements(successor, return_dtype=pl.Int64),
    *(pl.lit(None) < A, B.eq(pl.lit(None, pl.Int64)) | Y, A.is_between(pl.lit(None), B), pl.lit(None) == pl.lit(None)),
    pl.struct(A, B).map_elements(lambda row: len(row), return_dtype=pl.Int64) + 1,
    A.map_batches(successor, return_dtype=pl.Int64, is_elementwise=True).cast(pl.String),
]


@given(st.sampled_from(ROWWISE), st.lists(st.integers(0, FRAME.height), max_size=4).map(sorted))
def test_a_rowwise_expression_gives_the_same_however_the_rows_are_cut(expr: pl.Expr, cuts: list[int]) -> None:
    assert why_not_rowwise(expr, FRAME.schema) is None
    bounds = [0, *cuts, FRAME.height]
    parts = [FRAME[since:until].with_columns(expr.alias("z"))["z"] for since, until in pairwise(bounds)]
    assert_series_equal(pl.concat(parts), FRAME.with_columns(expr.alias("z"))["z"])


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (A.sum(), "`sum()` looks at all rows"),
        (A - A.mean(), "`mean()` looks at all rows"),
        (pl.len() / A, "`len()` looks at all rows"),
        (A.first(), "`first()` looks at all rows"),
        (pl.when(A > 1).then(B.sum()), "`sum()` looks at all rows"),
        (pl.struct(A.max(), B), "`max()` looks at all rows"),
        (pl.col("st").struct.with_fields(x=pl.field("a").sum()), "looks at all rows"),
        (A.sum() > pl.lit(None), "`sum()` looks at all rows"),
        (A.is_in(B), "`is_in()` looks at all rows"),
        (A.is_in(B.implode()), "`implode()` looks at all rows"),
        (A.replace(B, B), "`replace()` looks at all rows"),
        (A.rank(), "`rank()` looks at all rows"),
        (A.sort_by(B), "`sort_by()` looks at all rows"),
        (A.is_duplicated(), "`is_duplicated()` looks at all rows"),
        (S.str.join(","), "`str.join()` looks at all rows"),
        (pl.int_range(pl.len()), "`len()` looks at all rows"),
        (A.sum().over("k"), "`over(...)` looks at all rows of its partition"),
        (A.shift() * A.shift(), "`shift()` needs the rows before or behind"),
        (A + A.shift(), "`shift()` needs the rows before or behind"),
        (A.diff().abs(), "`diff()` needs the rows before or behind"),
        (A.cum_sum(), "`cum_sum()` needs the rows before or behind"),
        (A.forward_fill(), "`fill_null(strategy=...)` needs the rows before or behind"),
        (A.rolling_mean(2), "`rolling_mean()` needs the rows before or behind"),
        (A.cumulative_eval(pl.element().sum()), "`cumulative_eval()` needs the rows before or behind"),
        (A.filter(Y), "`filter()` changes the number of rows"),
        (A.drop_nulls(), "`drop_nulls()` changes the number of rows"),
        (L.explode(), "`explode()` changes the number of rows"),
        (A.head(3), "`head(), tail() or slice()` changes the number of rows"),
        (T.dt.date().dt.is_business_day().any(), "`any()` looks at all rows"),
        (A.shuffle(), "`shuffle()` gives another answer each time"),
        (L.list.sample(1), "`list.sample()` gives another answer each time"),
        (pl.lit(pl.Series([1, 2])), "a Series is matched to rows by position"),
        (A + pl.Series([1, 2, 3, 4, 5, 6]), "a Series is matched to rows by position"),
        (S.str.to_datetime(), "`str.to_datetime()` guesses the format from the first rows"),
        (A.map_batches(never_called, return_dtype=pl.Int64) + 1, "`map_batches()` may look at all rows"),
        (A.map_elements(never_called, return_dtype=pl.Int64).sum(), "`sum()` looks at all rows"),
        (A.map_elements(never_called, return_dtype=pl.Int64).shift() + 1, "`shift()` needs the rows"),
        (pl.fold(pl.lit(0), never_called, [A, B]), "`fold()` looks at all rows"),
        (cs.numeric().sum(), "`sum()` looks at all rows"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_an_expression_that_looks_beyond_its_row_is_refused_naming_the_part(expr: pl.Expr, reason: str) -> None:
    found = why_not_rowwise(expr, FRAME.schema)
    assert found is not None
    assert reason in found


def test_judging_a_python_function_does_not_call_it() -> None:
    assert why_not_rowwise(A.map_elements(never_called, return_dtype=pl.Int64) + B, FRAME.schema) is None


def test_an_unknown_column_is_polars_own_error_listing_those_there_are() -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match=r"valid columns: \[.*\"t\""):
        why_not_rowwise(pl.col("nope") + A, FRAME.schema)


# ---------------------------------------------------------------------------------------- canonical
DIFFERENT: list[pl.Expr] = [
    *(
        A,
        B,
        pl.col("a b"),
        pl.col('a"b'),
        pl.lit("a"),
        pl.lit('col("a")'),
        A.cast(pl.Int8),
        A.cast(pl.Int8, strict=False),
    ),
    *(F.round(2), F.round(3), F.round(2, mode="half_away_from_zero"), F.var(), F.var(ddof=2), F.std(), F.std(ddof=2)),
    *(
        A.any(),
        A.any(ignore_nulls=False),
        A.first(),
        A.first(ignore_nulls=True),
        A.min(),
        A.nan_min(),
        A.len(),
        A.count(),
    ),
    *(
        pl.lit(1),
        pl.lit(1.0),
        pl.lit(1, dtype=pl.Int8),
        pl.lit("1"),
        pl.lit(True),
        pl.lit(None),
        pl.lit(-1),
        pl.lit(2**70),
    ),
    *(pl.lit(0.0), pl.lit(-0.0), pl.lit(math.nan), pl.lit(math.inf), pl.lit(-math.inf), pl.lit(0.1, dtype=pl.Float32)),
    *(
        pl.lit(date(2020, 1, 1)),
        pl.lit(datetime(2020, 1, 1)),
        pl.lit(timedelta(1)),
        pl.lit(Decimal("1.2")),
        pl.lit(b"a"),
    ),
    *(A.abs() * A.abs(), A + A - A),
    *(A.is_in([1, 2]), A.is_in([1, 3]), A.is_in([1, 2], nulls_equal=True), A.is_in(pl.Series([1, 2], dtype=pl.Int8))),
    *(A.is_in(list(range(500))), A.is_in([*range(499), -1]), S.is_in(["x", "y"]), S.is_in(["x', 'y"])),
    *(
        S.cast(pl.Enum(["x", "y"])),
        S.cast(pl.Enum(["y", "x"])),
        A.cast(pl.Datetime("ms")),
        A.cast(pl.Datetime("us", "UTC")),
    ),
    *(
        T.dt.truncate("5m"),
        T.dt.truncate("6m"),
        T.dt.round("5m"),
        S.str.to_date("%Y"),
        S.str.to_date("%Y", strict=False),
    ),
    *(
        A.filter(Y).sum(),
        A.filter(~Y).sum(),
        A.sum().filter(Y),
        A.fill_null(0),
        A.fill_null(strategy="zero"),
        A.hash(1),
        A.hash(2),
    ),
    *(pl.struct(A), pl.struct(A.alias("z")), pl.struct(A, B), pl.struct(B, A), A - B, B - A, (A + B) + F, A + (B + F)),
    *(L.list.eval(pl.element() + 1), L.list.eval(pl.element() + 2), A.sum().over("k"), A.sum().over("k", order_by="t")),
    *(A.map_elements(never_called), B.map_elements(never_called), A.map_elements(never_called).filter(Y)),
]


def test_different_expressions_have_different_canonical_texts() -> None:
    texts = {canonical(expr): expr for expr in DIFFERENT}
    assert len(texts) == len(DIFFERENT)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (A.filter(B > 1).sum() / pl.len()).round(2),
        lambda: A.is_in([3, 1, 2]),
        lambda: pl.when(F.is_nan()).then(math.nan).otherwise(pl.lit("it's", dtype=pl.String).str.len_chars()),
        lambda: L.list.eval(pl.element() * 2).list.sum().alias("z"),
    ],
)
def test_equal_expressions_have_equal_canonical_texts(make: Callable[[], pl.Expr]) -> None:
    assert canonical(make()) == canonical(make())


def test_a_canonical_text_does_not_depend_on_the_name_of_the_result() -> None:
    assert canonical(A.sum()) == canonical(A.sum().alias("total")) == canonical(A.sum().name.suffix("_total"))
    assert canonical(pl.struct(A).alias("x")) == canonical(pl.struct(A))


def test_a_canonical_text_does_not_depend_on_how_a_series_was_made() -> None:
    made = [pl.Series([1, 2]), pl.Series("named", [1, 2]), pl.Series([1, 2]).set_sorted(), pl.Series([0, 1, 2])[1:]]
    assert len({canonical(A.is_in(series)) for series in made}) == 1


def test_canonical_texts_stay_as_they_were_written_to_checkpoints() -> None:
    assert canonical(A.alias("z")) == 'col("a")'
    assert canonical((A + 1).round(2)) == 'round[decimals=2, mode="HalfToEven"]((col("a") plus lit(dyn[int[1]])))'
    assert canonical(A.is_in([1, 2])) == (
        'boolean[is_in[nulls_equal[false]]](col("a"), lit(scalar[list[Int64 [1, 2]]]))'
    )
    assert canonical(A.filter(S == "x").cast(pl.Float64)) == (
        'cast[dtype=literal["Float64"], expr=filter[by=(col("s") eq lit(scalar[string["x"]])), input=col("a")], '
        'options="Strict"]'
    )


def test_a_misspelt_column_is_answered_without_names_of_our_own() -> None:
    for verb in ("select", "group_by", "with_columns", "filter"):
        with pytest.raises(pl.exceptions.ColumnNotFoundError, match='Did you mean "item"') as refused:
            getattr(ub.scan_memory(ub.MemorySource({"item": pl.String})), verb)(pl.col("itm"))
        assert "__" not in str(refused.value)
