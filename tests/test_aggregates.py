"""Is the aggregate of all rows what follows from partial aggregates, however the rows are cut?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.language import Story
from unbounded.aggregates import Cut, cut
from unbounded.connectors import Mode
from unbounded.errors import CountOverflowError, PlanError, UnsupportedOperationError
from unbounded.operators import Batch, Tables
from unbounded.operators.aggregate import AggregateOperator
from unbounded.partials.columns import overflow
from unbounded.plan import Aggregate, Scan
from unbounded.sources.memory import MemorySource
from unbounded.state.memory.home import MemoryHome
from unbounded.state.memory.stored import Stored
from unbounded.testing.shelf import Shelf

A, B, F, L, S, T, Y = map(pl.col, ["a", "b", "f", "l", "s", "t", "y"])
# Instants are near 1970, where the floats in which Polars averages them are exact, as ours are everywhere.
DTYPES: dict[str, tuple[pl.DataType, list[Any]]] = {
    "k": (pl.Int64(), [1, 2, None]),
    "a": (pl.Int64(), [0, 1, 2, -3, 7, 2**16]),
    "b": (pl.Int8(), [5, 127, -128]),
    "u": (pl.UInt32(), [0, 5, 2**31]),
    "f": (pl.Float64(), [0.1, -0.0, 0.0, 3.5, -1e6, 1e6, math.nan, math.inf, -math.inf]),
    "g": (pl.Float64(), [0.25, 2.5, -3.25, 1000.0]),
    "h": (pl.Float32(), [0.5, 2.0, -8.25, math.nan]),
    "y": (pl.Boolean(), [True, False]),
    "s": (pl.String(), ["", "x", "yy"]),
    "c": (pl.Categorical(), ["q", "p"]),
    "e": (pl.Enum(["q", "p"]), ["q", "p"]),
    "l": (pl.List(pl.Int64), [[], [1], [2, None, 3]]),
    "t": (pl.Datetime("us", "Europe/Berlin"), [datetime(1971, 7, 1, 3), datetime(1969, 1, 1, 0, 0, 0, 1)]),
    "d": (pl.Date(), [date(1970, 5, 6), date(1969, 1, 4)]),
    "r": (pl.Duration("us"), [timedelta(microseconds=-1), timedelta(microseconds=-2), timedelta(3)]),
    "m": (pl.Time(), [time(3), time(4, 5, 6)]),
    "n": (pl.Decimal(10, 2), [Decimal("1.25"), Decimal("-3.10")]),
    "z": (pl.Null(), [None]),
}
SCHEMA = pl.Schema({name: dtype for name, (dtype, _) in DTYPES.items()} | {"i": pl.Int64(), "w": pl.Float64()})


def frame_of(height: int, seed: int) -> pl.DataFrame:
    """Rows of every dtype; `i` and `w` are different in every row, for aggregates that break ties."""
    random = Random(seed)
    columns = {}
    for name, (dtype, values) in DTYPES.items():
        naive = pl.Datetime("us") if isinstance(dtype, pl.Datetime) else dtype
        columns[name] = pl.Series(name, random.choices([None, *values], k=height), dtype=naive)
    order = random.sample(range(height), height)
    columns["i"] = pl.Series("i", [None if place == 3 else place for place in order], dtype=pl.Int64)
    columns["w"] = pl.Series("w", [math.nan if place == 2 else place / 4 for place in order], dtype=pl.Float64)
    return pl.DataFrame(columns).with_columns(T.dt.replace_time_zone("Europe/Berlin"))


FRAMES = st.builds(frame_of, st.integers(0, 12), st.integers(0, 2**32))


# ------------------------------------------------------------------------------ the engine, in small
def in_pieces(frame: pl.DataFrame, cuts: Sequence[int]) -> list[pl.DataFrame]:
    bounds = [0, *sorted(min(place, frame.height) for place in cuts), frame.height]
    return [frame[since:until] for since, until in pairwise(bounds)]


def partial_rows(done: Cut, pieces: Sequence[pl.DataFrame], keys: list[str]) -> list[pl.DataFrame]:
    """The partial rows of each piece."""
    wanted = [*done.partial, pl.len().alias("rows")]
    return [
        piece.lazy().group_by(keys, maintain_order=True).agg(wanted).collect() if keys else piece.select(wanted)
        for piece in pieces
    ]


def merged(done: Cut, rows: Sequence[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    together = pl.concat([row.select(*keys, *done.state.names(), "rows") for row in rows])
    merge = [*done.merge, pl.col("rows").sum()]
    state = together.group_by(keys, maintain_order=True).agg(merge) if keys else together.select(merge)
    assert state.select(done.state.names()).schema == done.state
    return state


def in_batches(
    aggregates: Sequence[pl.Expr],
    pieces: Sequence[pl.DataFrame],
    keys: list[str],
    merges: Sequence[tuple[int, int]] = (),
) -> pl.DataFrame:
    """The aggregates, from partial rows that are merged first as `merges` says and then all together."""
    done = cut(aggregates, pieces[0].schema)
    rows = partial_rows(done, pieces, keys)
    for place, many in merges:
        since = place % len(rows)
        rows[since : since + many] = [merged(done, rows[since : since + many], keys)]
    answer = merged(done, rows, keys).select(*keys, *done.finish)
    return answer.explode(done.lists) if done.lists and not keys else answer


def in_engine(
    aggregates: Sequence[pl.Expr], pieces: Sequence[pl.DataFrame], keys: list[str], mode: Mode = "complete"
) -> pl.DataFrame:
    """The aggregates as the engine's operator keeps them in its tables; in update mode the newest row per key."""
    source = Scan(MemorySource(pieces[0].schema), "rows")
    node = Aggregate(source, tuple(map(pl.col, keys)), tuple(aggregates))
    operator = AggregateOperator("aggregate", node, mode, None)
    tables = Tables.declared(MemoryHome(Shelf()), operator.tables())
    answer = pl.DataFrame(schema=node.schema)
    for number, piece in enumerate(pieces):
        batch = Batch(number, datetime(2026, 1, 1), None, None)
        rows = operator.step(operator.prepare(piece.lazy(), tables, batch).collect(), tables, batch).rows.collect()
        replaced = (
            answer.join(rows, on=keys, how="anti", nulls_equal=True) if keys and mode == "update" else rows.clear()
        )
        answer = pl.concat([replaced, rows])
    return answer


def in_polars(aggregates: Sequence[pl.Expr], rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    return rows.group_by(keys, maintain_order=True).agg(aggregates) if keys else rows.select(aggregates)


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    close = 1e-6 if "Float32" in str(expected.schema) else 1e-9
    assert_frame_equal(found, expected, check_row_order=False, rel_tol=close, abs_tol=close)


# -------------------------------------------------------------------------------------------- the law
NUMBERS = [A, B, pl.col("u"), F, pl.col("g"), pl.col("h"), A * 2 - B, F.fill_nan(0).clip(-10, 10), S.str.len_bytes()]
ANY = [*NUMBERS, S, Y, T, L, pl.col("c"), pl.col("e"), pl.col("d"), pl.col("n"), pl.col("r"), pl.col("z")]
ORDERED = [*NUMBERS, S, Y, T, pl.col("c"), pl.col("e"), pl.col("d"), pl.col("m"), pl.col("n"), pl.col("r")]
TRUTHS = [Y, A > 1, F.is_nan(), S == "x"]
AVERAGED = [*NUMBERS, Y, pl.col("n")]
SHORTENED: list[Callable[[pl.Expr], pl.Expr]] = [
    lambda value: value,
    lambda value: value.drop_nulls(),
    lambda value: value.filter(Y),
    lambda value: value.filter(A > 1).drop_nulls(),
]


def shortened(values: Sequence[pl.Expr]) -> st.SearchStrategy[pl.Expr]:
    return st.builds(lambda shorten, value: shorten(value), st.sampled_from(SHORTENED), st.sampled_from(values))


def over(values: st.SearchStrategy[pl.Expr], *aggregates: Callable[..., pl.Expr]) -> st.SearchStrategy[pl.Expr]:
    return st.builds(lambda aggregate, value: aggregate(value), st.sampled_from(aggregates), values)


SUMMED = over(shortened([*NUMBERS, Y, pl.col("n")]), pl.Expr.sum)
COUNTED = st.one_of(st.just(pl.len()), over(shortened(ANY), pl.Expr.len, pl.Expr.count, pl.Expr.null_count))
SPREAD = over(
    shortened(AVERAGED),
    pl.Expr.mean,
    pl.Expr.var,
    pl.Expr.std,
    lambda value: value.var(ddof=0),
    lambda value: value.std(ddof=3),
)
FEW: list[Callable[[pl.Expr], pl.Expr]] = [
    lambda value: value.top_k(2).sort(),
    lambda value: value.bottom_k(3).sort(descending=True),
    lambda value: value.top_k_by("i", 2).sort(),
    lambda value: value.bottom_k_by(["k", "i"], 3).sort(),
    lambda value: value.top_k_by(["u", "w"], 4, reverse=[True, False]).sort(),
]
ENDS: list[Callable[[pl.Expr], pl.Expr]] = [
    lambda value: value.head(2),
    lambda value: value.tail(3),
    lambda value: value.slice(1, 2),
    lambda value: value.slice(-3, 2),
    lambda value: value.tail(2).reverse(),
]
LISTS = st.one_of(
    over(shortened(ORDERED), *FEW[:2]),
    over(st.sampled_from(ORDERED), *FEW[2:]),
    over(shortened(ANY), *ENDS),
    over(shortened(ANY), lambda value: value.head(0)),
)
HISTOGRAMS = over(
    shortened(NUMBERS),
    lambda value: value.hist([-1.0, 0.0, 0.5, 7.0]),
    lambda value: value.hist([-3, 2], include_breakpoint=True, include_category=True),
)
# Their third and fourth powers, and those of their products, are far from the ends of what floats can hold.
TAME = [A, B, pl.col("u"), pl.col("g"), A * 2 - B, F.fill_nan(0).clip(-10, 10), pl.col("h").clip(-1, 1)]
MOMENTS = st.one_of(
    over(
        shortened([*TAME, Y, pl.col("n")]),
        pl.Expr.skew,
        pl.Expr.kurtosis,
        lambda value: value.skew(bias=False),
        lambda value: value.kurtosis(bias=False, fisher=False),
    ),
    # Of a single zero, and of one value that is not normalized, Polars' two engines say different things.
    over(shortened([A.abs() + 1, pl.col("g"), pl.col("u").clip(1)]), pl.Expr.entropy),
    st.builds(pl.cov, st.sampled_from(TAME), st.sampled_from(NUMBERS), ddof=st.integers(1, 2)),  # of one NaN: 0, or NaN
    # Of no pair, Polars' two engines say null and NaN.
    st.builds(lambda one, two: pl.corr(one, two).fill_nan(None), st.sampled_from(TAME), st.sampled_from(TAME)),
)
AGGREGATES = st.one_of(
    SUMMED,
    COUNTED,
    SPREAD,
    MOMENTS,
    over(st.one_of(LISTS, HISTOGRAMS), pl.Expr.implode, pl.Expr.len, pl.Expr.first),
    over(shortened(ANY), pl.Expr.has_nulls, pl.Expr.is_empty, lambda value: value.is_empty(ignore_nulls=True)),
    over(shortened([T, pl.col("r"), pl.col("m")]), pl.Expr.mean),
    over(shortened([pl.col("d")]), lambda value: value.mean().dt.round("1ms")),  # Polars may be 1 us away
    over(shortened([pl.col("r")]), pl.Expr.sum),
    over(shortened(ORDERED), pl.Expr.min, pl.Expr.max),
    over(shortened([F, pl.col("h"), A]), pl.Expr.nan_min, pl.Expr.nan_max),
    over(shortened(ANY), pl.Expr.first, pl.Expr.last),
    over(shortened(ANY), lambda value: value.first(ignore_nulls=True), lambda value: value.last(ignore_nulls=True)),
    over(
        shortened(TRUTHS),
        pl.Expr.any,
        pl.Expr.all,
        lambda value: value.any(ignore_nulls=False),
        lambda value: value.all(ignore_nulls=False),
    ),
    over(shortened([B, pl.col("g"), Y]), pl.Expr.product),
    over(shortened([A, B]), pl.Expr.bitwise_and, pl.Expr.bitwise_or, pl.Expr.bitwise_xor),
    over(st.sampled_from(ANY), lambda value: value.min_by("i"), lambda value: value.max_by(pl.col("w"))),
    over(st.sampled_from([L, L.list.explode()]), lambda value: value.first()),
    over(st.just(L.explode()), pl.Expr.sum, pl.Expr.mean, pl.Expr.len, pl.Expr.last, pl.Expr.min, pl.Expr.std),
)
COMPOSED = st.one_of(
    AGGREGATES,
    st.builds(lambda left, right: left.cast(pl.Float64) / right, SUMMED, COUNTED),
    st.builds(lambda value: value.round(2) * 3, SUMMED),
    st.builds(lambda when, then: pl.when(when.cast(pl.Int64) > 2).then(then).otherwise(math.nan), COUNTED, SPREAD),
    st.builds(lambda one, two: pl.struct(one.alias("one"), two.alias("two")), AGGREGATES, AGGREGATES),
    st.builds(lambda value: pl.coalesce(value, pl.lit(math.inf)), SPREAD),
    st.builds(lambda value: pl.format("{} of {}", value, S.first().str.to_uppercase()), COUNTED),
    st.builds(lambda value: pl.concat_list(value, A.max(), 0), COUNTED),
    st.builds(lambda value: value.is_in([0, 1, 3]) & Y.any(), COUNTED),
)
KEYS = st.sampled_from([[], ["k"], ["s", "y"]])


@settings(max_examples=200)
@given(
    frame=FRAMES,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    merges=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=3),
    aggregates=st.lists(COMPOSED, min_size=1, max_size=3),
    keys=KEYS,
)
def test_partial_aggregates_merged_in_any_nesting_give_the_aggregate_of_all_rows(
    frame: pl.DataFrame,
    cuts: list[int],
    merges: list[tuple[int, int]],
    aggregates: list[pl.Expr],
    keys: list[str],
) -> None:
    named = [aggregate.alias(f"aggregate {place}") for place, aggregate in enumerate(aggregates)]
    assert_same(in_batches(named, in_pieces(frame, cuts), keys, merges), in_polars(named, frame, keys))


INTERPOLATIONS = ("nearest", "lower", "higher", "midpoint", "linear", "equiprobable")
SET: list[Callable[[pl.Expr], pl.Expr]] = [
    lambda value: value.unique().sort(),
    lambda value: value.unique(maintain_order=True),
    lambda value: value.unique().drop_nulls().len(),
    lambda value: value.n_unique(),
    lambda value: value.mode().sort(),
    lambda value: value.mode(maintain_order=True),
    lambda value: value.unique_counts(),
    lambda value: value.unique_counts().max(),
    lambda value: value.value_counts(name="times").struct.field("times").sort(),
    lambda value: value.value_counts(sort=True, normalize=True).struct.field("proportion"),
    lambda value: value.rank("min"),
    lambda value: value.is_unique(),
    lambda value: value.is_duplicated().any(),
    lambda value: value.is_first_distinct(),
    lambda value: pl.struct(value, A).unique(maintain_order=True).first(),
    lambda value: pl.struct(value, A).tail(2).last(),
    lambda value: value.mode(maintain_order=True).first().is_null(),
]
# Polars tells values of a group apart in these; of lists and the like it has no order.
DISTINCT = [A, B, pl.col("u"), F, pl.col("g"), S, Y, T, *map(pl.col, "cednrmh"), A * 2 - B]
OF_VALUES = st.one_of(
    over(shortened(DISTINCT), *SET),
    over(shortened(ANY), lambda value: value, pl.Expr.implode, pl.Expr.n_unique),
    over(shortened([L, pl.struct(A, F)]), lambda value: value.unique(maintain_order=True)),
    over(shortened([*NUMBERS, Y, T, *map(pl.col, "rmn")]), pl.Expr.median),
    st.builds(
        lambda value, at, method: value.quantile(at, method),
        shortened([*NUMBERS, T, *map(pl.col, "rn")]),
        st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]),
        st.sampled_from(INTERPOLATIONS),
    ),
)


@settings(max_examples=200)
@given(
    frame=FRAMES,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    aggregates=st.lists(st.one_of(OF_VALUES, OF_VALUES, COMPOSED), min_size=1, max_size=3),
    keys=st.sampled_from([["k"], ["s", "y"], ["f"]]),
    mode=st.sampled_from(["complete", "update"]),
)
def test_values_per_key_give_the_aggregate_of_all_rows(
    frame: pl.DataFrame, cuts: list[int], aggregates: list[pl.Expr], keys: list[str], mode: Mode
) -> None:
    named = [aggregate.alias(f"aggregate {place}") for place, aggregate in enumerate(aggregates)]
    assert_same(in_engine(named, in_pieces(frame, cuts), keys, mode), in_polars(named, frame, keys))


def test_the_most_frequent_value_is_a_struct_also_where_a_group_has_none() -> None:
    rows = pl.DataFrame({"k": [1, 1, 1, 2], "s": ["x", "yy", "yy", None]})
    most = S.drop_nulls().value_counts(sort=True).first()
    expected = [{"s": "yy", "count": 2}, None]
    assert in_engine([most], in_pieces(rows, [2]), ["k"]).sort("k")["s"].to_list() == expected
    assert in_engine([most], in_pieces(rows, [2]), ["k"], "update").sort("k")["s"].to_list() == expected


OF_ALL_ROWS = st.one_of(
    over(shortened(DISTINCT), *SET[:-7]),
    over(shortened(ANY), pl.Expr.implode),
    over(shortened([*NUMBERS, T]), pl.Expr.median, lambda value: value.quantile([0.2, 0.9], "linear")),
)


@given(frame=FRAMES, cuts=st.lists(st.integers(0, 12), max_size=4), aggregate=OF_ALL_ROWS)
def test_values_of_the_whole_stream_give_the_aggregate_of_all_rows(
    frame: pl.DataFrame, cuts: list[int], aggregate: pl.Expr
) -> None:
    wanted = [aggregate.alias("values"), pl.len().alias("rows in all")]
    assert_same(in_engine(wanted, in_pieces(frame, cuts), []), in_polars(wanted, frame, []))


@given(
    frame=FRAMES,
    cuts=st.lists(st.integers(0, 12), max_size=4),
    merges=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=3),
    aggregate=st.one_of(LISTS, HISTOGRAMS),
    keys=KEYS,
)
def test_several_values_per_group_are_a_list_in_agg_and_rows_in_select(
    frame: pl.DataFrame, cuts: list[int], merges: list[tuple[int, int]], aggregate: pl.Expr, keys: list[str]
) -> None:
    wanted = [aggregate.alias("values"), pl.len().alias("rows in all")]
    assert_same(in_batches(wanted, in_pieces(frame, cuts), keys, merges), in_polars(wanted, frame, keys))


@given(frame=FRAMES, aggregate=st.one_of(COMPOSED, LISTS, HISTOGRAMS), keys=KEYS)
def test_the_merge_of_one_partial_row_is_that_row(frame: pl.DataFrame, aggregate: pl.Expr, keys: list[str]) -> None:
    done = cut([aggregate.alias("x")], SCHEMA)
    (row,) = partial_rows(done, [frame], keys)
    kept = row.select(*keys, *done.state.names())
    assert_frame_equal(merged(done, [row], keys).select(kept.columns), kept, check_dtypes=True)


@pytest.mark.parametrize("few", [A.top_k(3), A.bottom_k(3), A.top_k_by(B, 3), A.head(3), A.tail(3), A.slice(-3, 1)])
def test_of_the_rows_of_a_batch_no_more_than_k_are_kept(few: pl.Expr) -> None:
    done = cut([few], SCHEMA)
    (row,) = partial_rows(done, [frame_of(100, 1)], [])
    assert row["__0"].list.len().to_list() == [3]
    assert merged(done, [row, row], [])["__0"].list.len().to_list() == [3]


EVERY: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    name: getattr(pl.Expr, name)
    for name in (
        *("all", "any", "bitwise_and", "bitwise_or", "bitwise_xor", "count", "first", "has_nulls", "last", "len"),
        *("max", "mean", "min", "n_unique", "nan_max", "nan_min", "null_count", "product", "std", "sum", "var"),
        *("is_empty", "skew", "kurtosis", "head", "tail", "implode", "median", "unique_counts"),
    )
} | {
    "top_k": lambda value: value.top_k(3).sort(),
    "bottom_k": lambda value: value.bottom_k(3).sort(),
    "top_k_by": lambda value: value.top_k_by("i", 3).sort(),
    "hist": lambda value: value.hist([0, 1, 10]),
    "unique": lambda value: value.unique(maintain_order=True),
    "mode": lambda value: value.mode(maintain_order=True),
    "value_counts": lambda value: value.value_counts(sort=True).struct.field("count"),
    "quantile": lambda value: value.quantile(0.3, "midpoint"),
    "cov": lambda value: pl.cov(value, "g"),
    "corr": lambda value: pl.corr("g", value).fill_nan(None),
}


@pytest.mark.parametrize("column", DTYPES)
def test_every_dtype_has_polars_answer_and_dtype_or_polars_error(column: str) -> None:
    rows = frame_of(12, seed=1)
    for name in EVERY.keys() - ({"product"} if column == "n" else set()):  # refused, see below
        expr = EVERY[name](pl.col(column)).alias(name)
        try:
            rows.select(expr)
        except pl.exceptions.PolarsError:  # in a group_by Polars sums dates without an error
            with pytest.raises(pl.exceptions.PolarsError):
                in_engine([expr], in_pieces(rows, [2, 7]), [])
            continue
        for keys in ([], ["k"]):
            assert_same(in_engine([expr], in_pieces(rows, [2, 7]), keys), in_polars([expr], rows, keys))


def test_entropy_of_values_that_are_no_probabilities_is_minus_the_sum_of_x_log_x() -> None:
    rows = pl.DataFrame({"f": [1.0, 4.0, 0.5, None, 8.0]})
    wanted = [F.entropy(2, normalize=False)]
    assert_same(in_batches(wanted, in_pieces(rows, [1, 3]), []), in_polars(wanted, rows, []))
    assert in_batches(wanted, [rows[1:2]], []).item() == -8


@pytest.mark.parametrize("keys", [[], ["k"]])
@pytest.mark.parametrize(
    "expr",
    [
        pl.struct(A.sum(), A.mean().alias("m"), A.max().name.suffix("_max"), x=B.min()),
        (A.filter(Y) + B.filter(Y)).sum(),
        A.dot(B),
        (A == 1).mean(),
        pl.col("t").max() - pl.col("t").min(),
        T.max().dt.truncate("1d"),
        L.list.sum().sum().fill_null(0) // 2,
        pl.lit(3),
        pl.lit(None).alias("nothing"),
        A.max().replace({7: None}),
        A.alias("renamed").sum(),
        -A.sum().alias("inner"),
        pl.sum_horizontal(A.sum(), B.sum(), 1),
        cs.by_name("a", "b").max().name.prefix("max_"),
        pl.all_horizontal(cs.boolean().any(), A.sum() > 0),
        pl.when(F.sum().is_nan()).then(math.inf).otherwise(-math.inf),
        pl.concat_arr("a", "a").arr.explode().max(),
        pl.concat_arr("a", "a").explode().count(),
    ],
    ids=str,
)
def test_whatever_stands_above_aggregates_is_computed_as_polars_does(expr: pl.Expr, keys: list[str]) -> None:
    rows = pl.DataFrame(
        {"k": [1, 1, 2, 1], "a": [1, 7, None, 2], "b": [3, None, 5, 6], "f": [0.5, math.nan, 1.0, 2.0]}
        | {"y": [True, None, False, True], "l": [[1], [], None, [2, 3]]},
        schema_overrides={"b": pl.Int8},
    ).with_columns(t=datetime(2020, 1, 1) + pl.duration(hours="a"))
    found = in_batches([expr], in_pieces(rows, [1, 1, 3]), keys, merges=[(1, 2)])
    assert_same(found, in_polars([expr], rows, keys))


@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2], [0, 1, 1, 3]])
def test_a_null_is_a_first_value_and_a_part_without_rows_has_none(cuts: list[int]) -> None:
    rows = pl.DataFrame({"a": [5, None, 7, 8], "y": [False, True, True, False]})
    pieces = in_pieces(rows, cuts)
    found = in_batches([A.filter(Y).first().alias("first"), A.filter(Y).last().alias("last")], pieces, [])
    assert found.rows() == [(None, 7)]


@pytest.mark.parametrize(
    "values", [[None, False], [None, True], [True, None, False], [False, None, None], [None, None]]
)
def test_an_unknown_part_makes_any_and_all_unknown_unless_another_part_decides(values: list[bool | None]) -> None:
    rows = pl.DataFrame({"y": values}, schema={"y": pl.Boolean})
    aggregates = [Y.any(ignore_nulls=False).alias("any"), Y.all(ignore_nulls=False).alias("all")]
    assert_same(in_batches(aggregates, in_pieces(rows, [1, 2]), []), in_polars(aggregates, rows, []))


@pytest.mark.parametrize("keys", [[], ["k"]])
def test_a_python_function_of_single_rows_may_stand_in_the_input_of_an_aggregate(keys: list[str]) -> None:
    def twice(value: int) -> int:
        return value * 2 if value else 0  # Polars warns of a function that it could do itself

    doubled = A.map_elements(twice, return_dtype=pl.Int64)
    halved = F.map_batches(lambda values: values / 2, return_dtype=pl.Float64, is_elementwise=True)
    aggregates = [
        doubled.sum().alias("sum"),
        (doubled + 1).filter(Y).max().alias("max"),
        (doubled.sum() / pl.len()).alias("mean"),
        halved.drop_nulls().median().alias("median"),
        A.min_by(halved).alias("min_by"),
        doubled.first(ignore_nulls=True).alias("first"),
        B.sum(),
    ]
    rows = frame_of(12, 1).filter(F.is_finite())
    assert_same(in_engine(aggregates, in_pieces(rows, [2, 7]), keys), in_polars(aggregates, rows, keys))


# ------------------------------------------------------------------------------------------- state
def test_state_is_wider_than_the_answer() -> None:
    aggregates = [
        pl.len(),
        Y.sum(),
        B.sum().alias("b"),
        pl.col("h").sum(),
        pl.col("u").sum(),
        A.n_unique(),
        B.min().alias("x"),
    ]
    assert cut(aggregates, SCHEMA).state.dtypes() == [
        *(pl.Int64, pl.Int64, pl.Int64, pl.Float64, pl.UInt32, pl.Int64, pl.Int8),
    ]


@pytest.mark.parametrize("aggregate", [pl.len(), A.count(), A.null_count(), Y.sum(), A.n_unique(), A.filter(Y).len()])
def test_a_count_that_polars_cannot_hold_is_an_error_and_never_wraps(aggregate: pl.Expr) -> None:
    done = cut([aggregate], SCHEMA)
    most = pl.DataFrame({"__0": [2**32 - 1]}).select(done.finish)
    assert most.item() == 2**32 - 1
    with pytest.raises(pl.exceptions.InvalidOperationError) as raised:
        pl.DataFrame({"__0": [2**32]}).select(done.finish)
    assert "4294967296" in str(overflow(raised.value))
    wide = cut([aggregate.cast(pl.Int64), (aggregate.cast(pl.Float64) / 2).alias("half")], SCHEMA)
    assert pl.DataFrame({"__0": [2**32]}).select(wide.finish).row(0) == (2**32, 2**31)


def test_a_count_that_polars_cannot_hold_has_a_name_and_a_way_out() -> None:
    story = Story(lambda frame: frame.select(pl.len()), {"a": pl.Int64}, mode="complete").add([{"a": 1}]).run()
    many = pl.DataFrame({"__0": [2**32]})
    story._batches._tables["aggregate-1/groups"].merge(many)
    with pytest.raises(CountOverflowError, match=r"4294967298, .*pl.len\(\).cast\(pl.Int64\)"):
        story.add([{"a": 1}]).run()


def test_an_overflow_of_the_users_own_is_polars_error() -> None:
    story = Story(lambda frame: frame.select(pl.col("a").sum().cast(pl.UInt32)), {"a": pl.Int64}, mode="complete")
    with pytest.raises(pl.exceptions.InvalidOperationError, match="-1"):
        story.add([{"a": -1}]).run()


def test_equal_parts_of_several_aggregates_are_kept_once() -> None:
    done = cut(
        [F.mean(), F.std().alias("std"), F.var(ddof=0).alias("var"), F.count().alias("n"), F.sum().alias("sum")], SCHEMA
    )
    assert done.canonical == (
        'count of col("f"): Int64',
        'float sum of col("f"): Float64',
        'M2 of col("f"): Float64',
    )


def test_the_number_of_rows_tells_for_every_first_and_last_whether_there_was_one() -> None:
    done = cut([A.first(), B.last(), pl.len(), A.filter(Y).first().alias("x"), S.filter(Y).last()], SCHEMA)
    assert [text for text in done.canonical if text.startswith("len")] == [
        "len: Int64",
        'len of filter col("y"): Int64',
    ]
    assert done.ordered


@pytest.mark.parametrize("aggregate", [A.sum(), A.mean(), A.min(), A.n_unique(), Y.any(), F.std()])
def test_most_aggregates_do_not_ask_for_an_order(aggregate: pl.Expr) -> None:
    assert not cut([aggregate], SCHEMA).ordered


def test_values_are_left_to_tables_of_their_own() -> None:
    done = cut([A.n_unique(), A.filter(Y).n_unique().alias("x"), A.n_unique().alias("again"), pl.len()], SCHEMA)
    assert [one.name for one in done.values] == ["__0", "__1"]
    assert [expr.meta.output_name() for expr in done.partial] == ["__2"]
    assert [expr.meta.output_name() for expr in done.merge] == ["__0", "__1", "__2"]
    assert [expr.meta.output_name() for expr in done.finish] == ["a", "x", "again", "len"]


def test_aggregates_of_the_same_values_share_their_tables() -> None:
    done = cut(
        [
            A.n_unique(),
            A.median().alias("x"),
            A.quantile(0.9).alias("y"),
            A.unique().alias("z"),
            A.implode().alias("i"),
        ],
        SCHEMA,
    )
    assert done.canonical == ('n_unique of col("a"): Int64, counts, values', 'rows of col("a"): Int64, values')


def test_a_batch_writes_the_values_that_are_new_and_no_others() -> None:
    node = Aggregate(
        Scan(MemorySource({"k": pl.Int64, "a": pl.Int64}), "rows"), (pl.col("k"),), (A, A.unique().alias("u"))
    )
    operator = AggregateOperator("aggregate", node, "update", None)
    tables = Tables.declared(MemoryHome(Shelf()), operator.tables())
    shapes = {**tables, **tables.multimaps}
    batch = Batch(0, datetime(2026, 1, 1), None, None)
    for piece in (pl.DataFrame({"k": [1] * 500, "a": range(500)}), pl.DataFrame({"k": [1, 1], "a": [7, 1000]})):
        for shape in shapes.values():
            assert isinstance(shape, Stored)
            shape.settle(0)
        operator.step(operator.prepare(piece.lazy(), tables, batch).collect(), tables, batch)
    changes = {name: shape.changes() for name, shape in shapes.items() if isinstance(shape, Stored)}
    written = {name: rows.height for name, rows in changes.items() if rows is not None}
    assert written == {"groups": 1, "lists__0": 2, "values__1": 1, "lists__1": 1}


def test_state_texts_tell_every_difference_that_matters_to_the_state() -> None:
    exprs = [
        A.sum(),
        B.sum(),
        A.mean(),
        A.min(),
        A.nan_min(),
        (A + 1).sum(),
        A.filter(A > 1).sum(),
        A.filter(A > 2).sum(),
    ]
    exprs += [
        A.first(),
        A.first(ignore_nulls=True),
        Y.any(),
        Y.any(ignore_nulls=False),
        F.round(2).sum(),
        F.round(3).sum(),
    ]
    assert len({cut([expr], SCHEMA).canonical for expr in exprs}) == len(exprs)


def test_what_only_the_finish_computes_may_change_over_restarts() -> None:
    assert cut([F.var(ddof=1)], SCHEMA).canonical == cut([F.std(ddof=2).round(3)], SCHEMA).canonical
    assert cut([A.sum()], SCHEMA).canonical == cut([(A.sum() * 2).alias("twice")], SCHEMA).canonical


# ---------------------------------------------------------------------------------------- precision
def test_the_variance_of_far_away_numbers_is_not_lost() -> None:
    rows = pl.DataFrame({"f": [1e9 + place % 7 for place in range(1000)]})
    found = in_batches([F.var()], in_pieces(rows, range(1, 1000, 3)), [])
    assert found.item() == pytest.approx(rows["f"].var(), rel=1e-6)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_the_mean_of_one_instant_is_that_instant(unit: Any) -> None:
    rows = pl.DataFrame({"t": [datetime(2024, 2, 29, 23, 59, 59, 999_999)] * 5000}).with_columns(
        T.dt.cast_time_unit(unit)
    )
    found = in_batches([T.mean()], in_pieces(rows, [1, 77, 4000]), [])
    assert found.item() == rows.item(0, 0)


# ----------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("expr", "because", "instead"),
    [
        (A - A.mean(), "column 'a' stands there without an aggregate", "first()"),
        (pl.struct(A, B.sum()), "column 'a' stands there without an aggregate", "first()"),
        (pl.corr(A, B, method="spearman"), "ranks all rows anew", "Pearson's"),
        (A.hist(bin_count=3), "`hist()` lays its bins", "hist([0, 10, 20])"),
        (A.arg_min(), "`arg_min()` numbers the rows", "min_by('a')"),
        (A.item(), "second row", "first()"),
        (A.unique() + B.sum(), "matched by position", "one column for each"),
        (A.rank("random"), "`rank()` looks at all rows", "values of single rows"),
        (A.sort_by(B).first(), "`sort_by()` looks at all rows", "min_by('b') or max_by('b')"),
        (A.sort().last(), "`sort()` looks at all rows", "min_by('b') or max_by('b')"),
        (A.sum().over("k"), "`over(...)` looks at all rows of its partition", "query.read()"),
        (A.shift().sum(), "`shift()` needs the rows before or behind", "values of single rows"),
        (A.sum().shift(), "`shift()` needs the rows before or behind", "values of single rows"),
        (A.cum_sum().last(), "`cum_sum()` needs the rows before or behind", "values of single rows"),
        (A.slice(3), "`head(), tail() or slice()` changes the number of rows", "values of single rows"),
        (A.head(pl.len()), "computed from the rows", "a number"),
        (A.head(2) + A.tail(2), "matched by position", "one column for each"),
        (A.filter(A.mean() < A).sum(), "`mean()` looks at all rows", "values of single rows"),
        (A.sum().max(), "`sum()` looks at all rows", "values of single rows"),
        (A.is_in(B).sum(), "`is_in()` looks at all rows", "values of single rows"),
        (A.sum().is_in(B.sum()), "`is_in()` looks at all rows", "values of single rows"),
        ((A.filter(Y) + B.filter(~Y)).sum(), "filtered in different ways", "filter last"),
        (A.filter(Y).fill_null(B).sum(), "filtered in different ways", "filter last"),
        (A.filter(Y).min_by(B.filter(Y)), "pairs the wrong rows", "pl.when(condition)"),
        (pl.lit(1).sum(), "reads a literal", "columns of the frame"),
        (pl.col("n").product(), "rounded at each step", "Float64"),
        (A.map_elements(len, return_dtype=pl.Int64).std(), "below `std()`, whose options", "with_columns(...) first"),
        (
            A.map_batches(len, return_dtype=pl.Int64).sum(),
            "`map_batches()` may look at all rows",
            "with_columns(...) first",
        ),
        (
            A.sum().map_elements(len, return_dtype=pl.Int64),
            "what a Python function makes of an aggregate",
            ".agg(...).with_columns(...)",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_cut_is_refused_with_a_way_out(expr: pl.Expr, because: str, instead: str) -> None:
    with pytest.raises(UnsupportedOperationError) as refused:
        cut([expr.alias("x")], SCHEMA)
    assert because in refused.value.message
    assert instead in refused.value.message.split("Instead: ")[1]
    assert "dyn int" not in refused.value.message


@pytest.mark.parametrize(
    ("expr", "because"),
    [
        (A.sum() + A, "column 'a' stands there without an aggregate"),
        (A.drop_nulls(), "column 'a' stands there without an aggregate"),
        (A.rank(), "`rank()` looks at all rows"),
        (A.is_unique().all(), "`is_unique()` looks at all rows"),
    ],
)
def test_the_rows_of_a_whole_stream_are_not_collected_again_with_each_batch(expr: pl.Expr, because: str) -> None:
    with pytest.raises(UnsupportedOperationError) as refused:
        cut([expr.alias("x")], SCHEMA, keyed=False)
    assert because in refused.value.message


def test_all_aggregates_that_cannot_be_cut_are_named_at_once() -> None:
    with pytest.raises(PlanError) as refused:
        cut([A.sum(), B - B.mean(), F.arg_max().alias("middle"), S.first()], SCHEMA)
    assert "2 aggregates cannot be kept up to date" in refused.value.message
    assert "column 'b' stands there" in refused.value.message
    assert "`arg_max()` numbers the rows" in refused.value.message
