"""How are aggregates kept that need the values themselves: distinct ones, counts, medians, quantiles, all of them?

The values of a group lie in tables beside the groups, so that a batch writes the new ones only; here they come as a
list per group, when an answer is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from unbounded.expressions.trees import expression, tree_of
from unbounded.partials.columns import COUNT, VALUE, Leaf, StateColumns
from unbounded.partials.single import Value

__all__ = ["VALUES"]

_VALUE, _COUNT = pl.element().struct.field(VALUE), pl.element().struct.field(COUNT)


def _n_unique(leaf: Leaf, state: StateColumns) -> pl.Expr:
    return state.values(leaf.texts[0], leaf.inputs[0], None).cast(leaf.dtype)


def _rows(leaf: Leaf, state: StateColumns) -> pl.Expr:
    state.ordered |= leaf.options["ordered"]
    return state.values(leaf.texts[0], leaf.inputs[0], "values", every=True)


def _over_rows(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """What Polars computes over all values of a group, in order of arrival."""
    each = {"expr": tree_of(_rows(leaf, state)), "evaluation": leaf.options["each"], "variant": "ListAgg"}
    return expression({"Eval": each})


def _unique(leaf: Leaf, state: StateColumns) -> pl.Expr:
    state.ordered |= leaf.options["ordered"]
    return state.values(leaf.texts[0], leaf.inputs[0], "values")


def _counts(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """Distinct values as structs of VALUE and COUNT, in order of appearance."""
    return state.values(leaf.texts[0], leaf.inputs[0], "counts")


def _unique_counts(leaf: Leaf, state: StateColumns) -> pl.Expr:
    state.ordered = True
    return _counts(leaf, state).list.eval(_COUNT.cast(leaf.dtype))


def _value_counts(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """Structs of the value and its count, or its share; of equal counts the first to appear comes first."""
    assert isinstance(leaf.dtype, pl.Struct)
    value, count = leaf.dtype.fields
    share = _COUNT / _COUNT.sum() if leaf.options["normalize"] else _COUNT
    shown = pl.struct(_VALUE.alias(value.name), share.cast(count.dtype).alias(count.name))
    if leaf.options["sort"]:
        shown = shown.sort_by(_COUNT, descending=True, maintain_order=True)
    return _counts(leaf, state).list.eval(shown)


def _mode(leaf: Leaf, state: StateColumns) -> pl.Expr:
    state.ordered |= leaf.options["ordered"]
    return _counts(leaf, state).list.eval(_VALUE.filter(_COUNT.max() == _COUNT))


def _quantile(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """Polars' definitions, over values that stand in order, each as often as it came: the one in some place."""
    counts, method = _counts(leaf, state), leaf.options["method"]
    if isinstance(leaf.dtype, pl.List):
        each = [_one_quantile(counts, one, method, pl.Float64()).cast(leaf.dtype.inner) for one in leaf.options["at"]]
        return pl.concat_list(each)
    return _one_quantile(counts, leaf.options["at"][0], method, leaf.dtype).cast(leaf.dtype)


def _one_quantile(counts: pl.Expr, at: float, method: str, dtype: pl.DataType) -> pl.Expr:
    there = _VALUE.is_not_null()
    in_order = counts.list.agg(pl.element().filter(there).sort_by(_VALUE.filter(there)))
    value = (_VALUE.cast(dtype).to_physical() if dtype.is_temporal() else _VALUE).cast(pl.Float64)
    before, many = _COUNT.cum_sum() - _COUNT, _COUNT.sum()
    place = (many - 1) * at

    def standing(place: pl.Expr) -> pl.Expr:
        return value.filter(before <= place).last()

    match method:
        case "Nearest":
            return in_order.list.agg(standing(place.round(0, mode="half_away_from_zero")))
        case "Lower":
            return in_order.list.agg(standing(place.floor()))
        case "Higher":
            return in_order.list.agg(standing(place.ceil()))
        case "Equiprobable":
            return in_order.list.agg(standing((many * at).ceil() - 1))
    ends = (standing(place.floor()), standing(place.ceil()), place - place.floor())
    low, high, step = (in_order.list.agg(one) for one in ends)
    if method == "Midpoint":
        return pl.when(step == 0).then(low).otherwise((low + high) / 2)
    return pl.when(low == high).then(low).otherwise(low + step * (high - low))


VALUES: Final[Mapping[str, Value]] = {
    "mode": _mode,
    "n_unique": _n_unique,
    "over_rows": _over_rows,
    "quantile": _quantile,
    "rows": _rows,
    "unique": _unique,
    "unique_counts": _unique_counts,
    "value_counts": _value_counts,
}
