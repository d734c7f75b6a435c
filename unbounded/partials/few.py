"""How are the few values kept that k of them or a list of bins bound: greatest, least, first, last, histograms?

The state is a list of at most k values, so a group costs what k costs, however many rows it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

import polars as pl

from unbounded.errors import UnsupportedOperationError
from unbounded.partials.columns import Leaf, StateColumns
from unbounded.partials.single import Value

__all__ = ["FEW"]


def _extremes(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """`top_k` or `bottom_k`, in order, nulls last; Polars promises no order."""
    least, k = leaf.function == "bottom_k", leaf.options["k"]

    def chosen(values: pl.Expr) -> pl.Expr:
        few = values.bottom_k(k) if least else values.top_k(k)
        return few.sort(descending=not least, nulls_last=True).implode()

    text = f"{leaf.function} {k} of {leaf.texts[0]}"
    return state.column(text, chosen(leaf.inputs[0]), lambda column: chosen(column.explode()))


def _extremes_by(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """`top_k_by` or `bottom_k_by`, in order. Of rows that are equal in what orders them, any may be chosen."""
    k, reverse = leaf.options["k"], leaf.options["reverse"]
    value, *by = leaf.inputs
    names = [f"{place}" for place in range(len(by))]

    def chosen(rows: pl.Expr) -> pl.Expr:
        few = rows.top_k_by([rows.struct.field(name) for name in names], k, reverse=reverse)
        order = [few.struct.field(name) for name in names]
        return few.sort_by(order, descending=[not one for one in reverse], nulls_last=True).implode()

    rows = pl.struct(value.alias("value"), *(one.alias(name) for name, one in zip(names, by, strict=True)))
    text = f"top_k_by {k} {reverse} of {', '.join(leaf.texts)}"
    column = state.column(text, chosen(rows), lambda column: chosen(column.explode()))
    return column.list.eval(pl.element().struct.field("value"))


def _slice(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """`head`, `tail` or `slice`: as many of the first or last rows as it may look at."""
    offset, length = leaf.options["offset"], leaf.options["length"]
    many = offset + length if offset >= 0 else -offset

    def chosen(rows: pl.Expr) -> pl.Expr:
        return (rows.head(many) if offset >= 0 else rows.tail(many)).implode()

    text = f"{'head' if offset >= 0 else 'tail'} {many} of {leaf.texts[0]}"
    column = state.column(text, chosen(leaf.inputs[0]), lambda column: chosen(column.explode()), ordered=True)
    return column if length == many else column.list.slice(offset, length)


def _hist(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """One count per bin; a bin holds its upper edge, and the first its lower one too."""
    edges = leaf.options["bins"]
    if len(edges) < 2:
        raise UnsupportedOperationError(
            f"{leaf.whole}", because="a bin lies between two edges", instead="hist([0, 10, 20]), which is two bins"
        )
    value, text = leaf.inputs[0].cast(pl.Float64), leaf.texts[0]
    counts = []
    for low, high in pairwise(edges):
        above = value >= low if low == edges[0] else value > low
        within = (above & (value <= high)).sum().cast(pl.Int64)
        counts.append(state.column(f"count of {text} in {low} to {high} of {edges[0]}", within, pl.Expr.sum))
    if not isinstance(leaf.dtype, pl.Struct):
        return pl.concat_list([count.cast(leaf.dtype) for count in counts])
    bins = pl.DataFrame(schema={"x": leaf.of[0]}).select(pl.col("x").hist(edges, **_shown(leaf.dtype))).unnest("x")
    named = [
        pl.struct(*(pl.lit(value, bins.schema[name]).alias(name) for name, value in row.items()), count.alias("count"))
        for row, count in zip(bins.drop("count").rows(named=True), counts, strict=True)
    ]
    return pl.concat_list(named)


def _shown(dtype: pl.Struct) -> dict[str, bool]:
    names = {field.name for field in dtype.fields}
    return {"include_breakpoint": "breakpoint" in names, "include_category": "category" in names}


FEW: Final[Mapping[str, Value]] = {
    "bottom_k": _extremes,
    "hist": _hist,
    "slice": _slice,
    "top_k": _extremes,
    "top_k_by": _extremes_by,
}
