"""How is one aggregate kept in columns of state: its partial answer, the merge of partial answers, its value?

State dtypes are wider than Polars' results: counts are Int64, sums of floats are Float64. The value is
cast strictly to the dtype that Polars gives, so that a count beyond it is an error and never wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from unbounded.errors import UnsupportedOperationError

__all__ = ["Distinct", "Leaf", "StateColumn", "StateColumns", "value_of"]


@dataclass(frozen=True, eq=False)
class Distinct:
    """The number of distinct values of `value` per key, counted in a store of its own into the column `name`.

    `value` may filter, so evaluate it where an aggregate stands: `group_by(key).agg(value.unique())`.
    """

    name: str
    value: pl.Expr


@dataclass(frozen=True, eq=False)
class StateColumn:
    """One column of state; `text` says what it holds, equal over restarts; without a partial it is a `Distinct`."""

    name: str
    text: str
    partial: pl.Expr | None
    merge: pl.Expr


class StateColumns:
    """The state columns needed so far, over rows of `schema`; mutable, because aggregates share them."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self.schema = schema
        self.distinct: list[Distinct] = []
        self._columns: dict[str, StateColumn] = {}
        self._rows = pl.LazyFrame(schema=schema)

    def __iter__(self) -> Iterator[StateColumn]:
        return iter(self._columns.values())

    def column(self, text: str, partial: pl.Expr | None, merge: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
        """The column that holds `text`, made on first use."""
        if text not in self._columns:
            name = f"__{len(self._columns)}"
            self._columns[text] = StateColumn(name, text, partial, merge(pl.col(name)))
        return pl.col(self._columns[text].name)

    def dtypes(self, exprs: Sequence[pl.Expr]) -> list[pl.DataType]:
        """What Polars makes of expressions over the rows."""
        named = [expr.alias(str(position)) for position, expr in enumerate(exprs)]
        return self._rows.select(named).collect_schema().dtypes()

    def held(self) -> pl.Schema:
        """The schema of the state."""
        counted = pl.lit(0, pl.Int64)
        dtypes = self.dtypes([counted if one.partial is None else one.partial for one in self])
        return pl.Schema(zip((one.name for one in self), dtypes, strict=True))


@dataclass(frozen=True, eq=False)
class Leaf:
    """One aggregate: `function` of `inputs`, whose dtypes are `of` and whose canonical forms are `texts`.

    `rows` says which rows the inputs have: "" is all of them. `option` is the ddof of var and std, and
    ignore_nulls of any and all. `whole` is the aggregate itself, of dtype `dtype`.
    """

    function: str
    whole: pl.Expr
    dtype: pl.DataType
    inputs: tuple[pl.Expr, ...]
    of: tuple[pl.DataType, ...]
    texts: tuple[str, ...]
    rows: str
    option: int


def value_of(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """The aggregate over one row of state columns, which are added to `state`."""
    return _VALUES[leaf.function](leaf, state)


# ------------------------------------------------------------------------------------ shared columns
def _rows(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """How many rows there are, nulls included; above zero it says that `first` has a value."""
    partial, of = (leaf.inputs[0].len(), f" of {leaf.rows}") if leaf.rows else (pl.len(), "")
    return state.column(f"len{of}", partial.cast(pl.Int64), pl.Expr.sum)


def _counted(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.column(f"count of {leaf.texts[0]}", leaf.inputs[0].count().cast(pl.Int64), pl.Expr.sum)


def _nulls(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.column(f"null_count of {leaf.texts[0]}", leaf.inputs[0].null_count().cast(pl.Int64), pl.Expr.sum)


def _float_sum(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.column(f"float sum of {leaf.texts[0]}", leaf.inputs[0].cast(pl.Float64).sum(), pl.Expr.sum)


# -------------------------------------------------------------------------------------------- values
def _sum(leaf: Leaf, state: StateColumns) -> pl.Expr:
    if leaf.dtype.is_float():
        return _float_sum(leaf, state).cast(leaf.dtype)
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
    count = _counted(leaf, state)
    if leaf.dtype.is_temporal():
        return _mean_time(leaf, count, state)
    return pl.when(count > 0).then(_float_sum(leaf, state) / count).cast(leaf.dtype)


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


def _variance(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """From (n, sum, M2) in Float64, where M2 is the sum of squared distances from the mean.

    Merged after Chan, Golub and LeVeque (1979), for any number of parts: M2 of the whole is the sum of the
    parts' M2 and of n * (mean of the part - mean of the whole) ** 2.
    """
    n, total = _counted(leaf, state), _float_sum(leaf, state)
    distance = total / n - total.sum() / n.sum()
    between = pl.when(n > 0).then(n * distance**2).sum()
    values = leaf.inputs[0].cast(pl.Float64)
    partial = (values.var(ddof=0) * values.count()).fill_null(0.0)
    m2 = state.column(f"M2 of {leaf.texts[0]}", partial, lambda column: column.sum() + between)
    variance = pl.when(n > leaf.option).then(m2 / (n - leaf.option))
    return (variance.sqrt() if leaf.function == "std" else variance).cast(leaf.dtype)


def _end(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """`first` or `last`: null is a value, and also stands for no row at all, so the number of rows tells them apart."""
    rows = _rows(leaf, state)
    end = pl.Expr.first if leaf.function == "first" else pl.Expr.last
    return state.column(f"{leaf.function} of {leaf.texts[0]}", leaf.whole, lambda column: end(column.filter(rows > 0)))


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
    return state.column(f"{leaf.function} of {text}, {by_text}", leaf.whole, lambda column: beside(column, by))


def _n_unique(leaf: Leaf, state: StateColumns) -> pl.Expr:
    column = state.column(f"n_unique of {leaf.texts[0]}", None, pl.Expr.sum)
    name = column.meta.output_name()
    if all(one.name != name for one in state.distinct):
        state.distinct.append(Distinct(name, leaf.inputs[0]))
    return column.cast(leaf.dtype)


def _any_or_all(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """With ignore_nulls=False a null among the parts may still make the whole null."""
    merge, ignore_nulls = pl.Expr.any if leaf.function == "any" else pl.Expr.all, bool(leaf.option)
    text = f"{leaf.function}{'' if ignore_nulls else ' or null'} of {leaf.texts[0]}"
    return state.column(text, leaf.whole, lambda column: merge(column, ignore_nulls=ignore_nulls))


def _by_itself(merge: Callable[[pl.Expr], pl.Expr]) -> Callable[[Leaf, StateColumns], pl.Expr]:
    """An aggregate of which the aggregate of partial answers is the answer."""
    return lambda leaf, state: state.column(f"{leaf.function} of {leaf.texts[0]}", leaf.whole, merge)


_VALUES: Mapping[str, Callable[[Leaf, StateColumns], pl.Expr]] = {
    "all": _any_or_all,
    "any": _any_or_all,
    "bitwise_and": _by_itself(pl.Expr.bitwise_and),
    "bitwise_or": _by_itself(pl.Expr.bitwise_or),
    "bitwise_xor": _by_itself(pl.Expr.bitwise_xor),
    "count": lambda leaf, state: _counted(leaf, state).cast(leaf.dtype),
    "first": _end,
    "first_non_null": _by_itself(lambda column: column.first(ignore_nulls=True)),
    "has_nulls": lambda leaf, state: _nulls(leaf, state) > 0,
    "last": _end,
    "last_non_null": _by_itself(lambda column: column.last(ignore_nulls=True)),
    "len": lambda leaf, state: _rows(leaf, state).cast(leaf.dtype),
    "max": _by_itself(pl.Expr.max),
    "max_by": _beside,
    "mean": _mean,
    "min": _by_itself(pl.Expr.min),
    "min_by": _beside,
    "n_unique": _n_unique,
    "nan_max": _by_itself(pl.Expr.nan_max),
    "nan_min": _by_itself(pl.Expr.nan_min),
    "null_count": lambda leaf, state: _nulls(leaf, state).cast(leaf.dtype),
    "product": _product,
    "std": _variance,
    "sum": _sum,
    "var": _variance,
}
