"""How are sums, counts, extremes and ends kept, one or two numbers per group?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import polars as pl

from unbounded.errors import UnsupportedOperationError
from unbounded.partials.columns import Leaf, StateColumns

__all__ = ["SINGLE", "Value", "counted", "float_sum", "nulls"]

Value: TypeAlias = Callable[[Leaf, StateColumns], pl.Expr]
"""The value of an aggregate over one row of state columns, which are added to those needed so far."""


# ------------------------------------------------------------------------------------ shared columns
def _rows(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """How many rows there are, nulls included; above zero it says that `first` has a value."""
    partial, of = (leaf.inputs[0].len(), f" of {leaf.rows}") if leaf.rows else (pl.len(), "")
    return state.column(f"len{of}", partial.cast(pl.Int64), pl.Expr.sum)


def counted(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.column(f"count of {leaf.texts[0]}", leaf.inputs[0].count().cast(pl.Int64), pl.Expr.sum)


def nulls(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.column(f"null_count of {leaf.texts[0]}", leaf.inputs[0].null_count().cast(pl.Int64), pl.Expr.sum)


def float_sum(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.column(f"float sum of {leaf.texts[0]}", leaf.inputs[0].cast(pl.Float64).sum(), pl.Expr.sum)


# -------------------------------------------------------------------------------------------- values
def _sum(leaf: Leaf, state: StateColumns) -> pl.Expr:
    if leaf.dtype.is_float():
        return float_sum(leaf, state).cast(leaf.dtype)
    partial = leaf.inputs[0].sum()
    if leaf.of[0] == pl.Boolean:  # Polars counts them in 32 bits
        partial = partial.cast(pl.Int64)
    return state.column(f"sum of {leaf.texts[0]}", partial, pl.Expr.sum).cast(leaf.dtype)


def _product(leaf: Leaf, state: StateColumns) -> pl.Expr:
    if leaf.dtype.is_decimal():
        raise UnsupportedOperationError(
            f"{leaf.whole}",
            because="a product of decimals is rounded at each step, so it depends on how the rows are cut",
            instead="cast the column to Float64 first",
        )
    value = leaf.inputs[0].cast(pl.Float64) if leaf.dtype.is_float() else leaf.inputs[0]
    return state.column(f"product of {leaf.texts[0]}", value.product(), pl.Expr.product).cast(leaf.dtype)


def _mean(leaf: Leaf, state: StateColumns) -> pl.Expr:
    count = counted(leaf, state)
    if leaf.dtype.is_temporal():
        return _mean_time(leaf, count, state)
    return pl.when(count > 0).then(float_sum(leaf, state) / count).cast(leaf.dtype)


_HALF = 2**32


def _mean_time(leaf: Leaf, count: pl.Expr, state: StateColumns) -> pl.Expr:
    """The mean in whole ticks, cut towards zero as in Polars, but exact: a float is too short for a sum of instants.

    Ticks are summed as high and low halves, and both sums stay below 2**63 for 2**31 rows.
    """
    ticks = leaf.inputs[0].cast(leaf.dtype).to_physical()
    high = state.column(f"high sum of {leaf.texts[0]}", (ticks // _HALF).sum(), pl.Expr.sum)
    low = state.column(f"low sum of {leaf.texts[0]}", (ticks % _HALF).sum(), pl.Expr.sum)
    rest = high % count * _HALF + low
    floor = high // count * _HALF + rest // count
    towards_zero = ((floor < 0) & (rest % count != 0)).cast(pl.Int64)
    return pl.when(count > 0).then(floor + towards_zero).cast(leaf.dtype)


def _end(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """`first` or `last`: null is a value, and also stands for no row at all, so the number of rows tells them apart."""
    rows = _rows(leaf, state)
    end = pl.Expr.first if leaf.function == "first" else pl.Expr.last
    text = f"{leaf.function} of {leaf.texts[0]}"
    return state.column(text, leaf.whole, lambda column: end(column.filter(rows > 0)), ordered=True)


def _beside(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """`min_by` or `max_by`: a null extreme says that there is no value, and Polars skips it.

    Of several rows with the same extreme Polars takes any one, and so does the merge.
    """
    text, by_text = leaf.texts
    extreme, beside = {
        "min_by": (pl.Expr.min, pl.Expr.min_by),
        "max_by": (pl.Expr.max, pl.Expr.max_by),
    }[leaf.function]
    by = state.column(f"{leaf.function[:3]} of {by_text}", extreme(leaf.inputs[1]), extreme)
    what = f"{leaf.function} of {text}, {by_text}"
    return state.column(what, leaf.whole, lambda column: beside(column, by), ordered=True)


def _any_or_all(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """With ignore_nulls=False a null among the parts may still make the whole null."""
    merge, ignore_nulls = pl.Expr.any if leaf.function == "any" else pl.Expr.all, leaf.options["ignore_nulls"]
    text = f"{leaf.function}{'' if ignore_nulls else ' or null'} of {leaf.texts[0]}"
    return state.column(text, leaf.whole, lambda column: merge(column, ignore_nulls=ignore_nulls))


def _is_empty(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return (counted(leaf, state) if leaf.options["ignore_nulls"] else _rows(leaf, state)) == 0


def _by_itself(merge: Callable[[pl.Expr], pl.Expr], *, ordered: bool = False) -> Value:
    """An aggregate of which the aggregate of partial answers is the answer."""
    return lambda leaf, state: state.column(f"{leaf.function} of {leaf.texts[0]}", leaf.whole, merge, ordered=ordered)


SINGLE: Final[Mapping[str, Value]] = {
    "all": _any_or_all,
    "any": _any_or_all,
    "bitwise_and": _by_itself(pl.Expr.bitwise_and),
    "bitwise_or": _by_itself(pl.Expr.bitwise_or),
    "bitwise_xor": _by_itself(pl.Expr.bitwise_xor),
    "count": lambda leaf, state: counted(leaf, state).cast(leaf.dtype),
    "first": _end,
    "first_non_null": _by_itself(lambda column: column.first(ignore_nulls=True), ordered=True),
    "has_nulls": lambda leaf, state: nulls(leaf, state) > 0,
    "is_empty": _is_empty,
    "last": _end,
    "last_non_null": _by_itself(lambda column: column.last(ignore_nulls=True), ordered=True),
    "len": lambda leaf, state: _rows(leaf, state).cast(leaf.dtype),
    "max": _by_itself(pl.Expr.max),
    "max_by": _beside,
    "mean": _mean,
    "min": _by_itself(pl.Expr.min),
    "min_by": _beside,
    "nan_max": _by_itself(pl.Expr.nan_max),
    "nan_min": _by_itself(pl.Expr.nan_min),
    "null_count": lambda leaf, state: nulls(leaf, state).cast(leaf.dtype),
    "product": _product,
    "sum": _sum,
}
