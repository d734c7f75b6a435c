"""How are mean distances kept: variance, skewness, kurtosis, covariance, correlation, entropy?

Each needs sums of powers of distances from a mean, in Float64. Of several parts they are merged after Chan, Golub and
LeVeque (1979) and Pebay (2008), written for any number of parts: the mean of a part lies `distance` from the mean of
the whole, and the powers of (x - mean of the part + distance) are multiplied out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

from unbounded.partials.columns import Leaf, StateColumns
from unbounded.partials.single import Value, counted, float_sum

__all__ = ["MOMENTS"]


def _distance(n: pl.Expr, total: pl.Expr) -> pl.Expr:
    """How far the mean of each part lies from the mean of all; 0 for a part without values."""
    return pl.when(n > 0).then(total / n - total.sum() / n.sum()).otherwise(0.0)


def _m2(leaf: Leaf, state: StateColumns) -> pl.Expr:
    n, distance = counted(leaf, state), _distance(counted(leaf, state), float_sum(leaf, state))
    values = leaf.inputs[0].cast(pl.Float64)
    partial = (values.var(ddof=0) * values.count()).fill_null(0.0)
    return state.column(f"M2 of {leaf.texts[0]}", partial, lambda m2: m2.sum() + (n * distance**2).sum())


def _m3(leaf: Leaf, state: StateColumns) -> pl.Expr:
    n, distance = counted(leaf, state), _distance(counted(leaf, state), float_sum(leaf, state))
    m2, away = _m2(leaf, state), _away(leaf)
    return state.column(
        f"M3 of {leaf.texts[0]}",
        (away**3).sum(),
        lambda m3: m3.sum() + (3 * distance * m2 + n * distance**3).sum(),
    )


def _m4(leaf: Leaf, state: StateColumns) -> pl.Expr:
    n, distance = counted(leaf, state), _distance(counted(leaf, state), float_sum(leaf, state))
    m2, m3, away = _m2(leaf, state), _m3(leaf, state), _away(leaf)
    return state.column(
        f"M4 of {leaf.texts[0]}",
        (away**4).sum(),
        lambda m4: m4.sum() + (4 * distance * m3 + 6 * distance**2 * m2 + n * distance**4).sum(),
    )


def _away(leaf: Leaf) -> pl.Expr:
    values = leaf.inputs[0].cast(pl.Float64)
    return values - values.mean()


def _all_equal(text: str, values: pl.Expr, state: StateColumns) -> pl.Expr:
    """Whether there is one value only: told exactly, where the sum of squared distances is a little above zero."""
    values = values.cast(pl.Float64)
    least = state.column(f"min of {text}, in floats", values.min(), pl.Expr.min)
    return least == state.column(f"max of {text}, in floats", values.max(), pl.Expr.max)


def _variance(leaf: Leaf, state: StateColumns) -> pl.Expr:
    n, ddof = counted(leaf, state), leaf.options["ddof"]
    variance = pl.when(n > ddof).then(_m2(leaf, state) / (n - ddof))
    return (variance.sqrt() if leaf.function == "std" else variance).cast(leaf.dtype)


def _skew(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """As in scipy.stats.skew."""
    n, m2, m3 = counted(leaf, state), _m2(leaf, state), _m3(leaf, state)
    skew = (m3 / n) / (m2 / n) ** 1.5
    skew = pl.when(_all_equal(leaf.texts[0], leaf.inputs[0], state)).then(math.nan).otherwise(skew)
    if leaf.options["bias"]:
        return pl.when(n > 0).then(skew).cast(leaf.dtype)
    return pl.when(n > 2).then(skew * (n * (n - 1)).sqrt() / (n - 2)).cast(leaf.dtype)


def _kurtosis(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """As in scipy.stats.kurtosis."""
    n, m2, m4 = counted(leaf, state), _m2(leaf, state), _m4(leaf, state)
    kurtosis = (m4 / n) / (m2 / n) ** 2
    kurtosis = pl.when(_all_equal(leaf.texts[0], leaf.inputs[0], state)).then(math.nan).otherwise(kurtosis)
    less, least = 3 if leaf.options["fisher"] else 0, 0
    if not leaf.options["bias"]:
        least = 3
        kurtosis = ((n * n - 1) * kurtosis - 3 * (n - 1) ** 2) / ((n - 2) * (n - 3)) + 3
    return pl.when(n > least).then(kurtosis - less).cast(leaf.dtype)


def _entropy(leaf: Leaf, state: StateColumns) -> pl.Expr:
    """Of the values x themselves as (not yet normalized) probabilities: with S their sum, log |S| - sum(x log |x|) / S.

    Values of both signs have none, for a probability would be negative.
    """
    text, values, base = leaf.texts[0], leaf.inputs[0].cast(pl.Float64), math.log(leaf.options["base"])
    if not leaf.options["normalize"]:
        summed = state.column(f"sum of x log x of {text}", (values * values.log()).sum(), pl.Expr.sum)
        return (-summed / base).cast(leaf.dtype)
    n, total = counted(leaf, state), float_sum(leaf, state)
    summed = state.column(f"sum of x log |x| of {text}", (values * values.abs().log()).sum(), pl.Expr.sum)
    least = state.column(f"min of {text}, in floats", values.min(), pl.Expr.min)
    most = state.column(f"max of {text}, in floats", values.max(), pl.Expr.max)
    entropy = (total.abs().log() - summed / total) / base
    mixed = (least < 0) & (most > 0)
    return pl.when(n == 0).then(0.0).when(mixed).then(math.nan).otherwise(entropy).cast(leaf.dtype)


# --------------------------------------------------------------------------------------------- pairs
def _pairs(leaf: Leaf, state: StateColumns) -> tuple[pl.Expr, pl.Expr, tuple[pl.Expr, ...], tuple[pl.Expr, ...]]:
    """(number of rows where neither value is null, sum of products of distances, distances, values of such rows)."""
    left, right = (value.cast(pl.Float64, strict=False) for value in leaf.inputs)  # as Polars does
    values = pl.when(right.is_not_null()).then(left), pl.when(left.is_not_null()).then(right)
    both = f"{leaf.texts[0]} and {leaf.texts[1]}"
    n = state.column(f"count of pairs of {both}", values[0].count().cast(pl.Int64), pl.Expr.sum)
    sums = [
        state.column(f"{side} float sum of pairs of {both}", value.sum(), pl.Expr.sum)
        for side, value in zip(("left", "right"), values, strict=True)
    ]
    distances = tuple(_distance(n, total) for total in sums)
    products = state.column(
        f"products of pairs of {both}",
        ((values[0] - values[0].mean()) * (values[1] - values[1].mean())).sum(),
        lambda column: column.sum() + (n * distances[0] * distances[1]).sum(),
    )
    return n, products, distances, values


def _plus(between: pl.Expr) -> Callable[[pl.Expr], pl.Expr]:
    return lambda column: column.sum() + between


def _cov(leaf: Leaf, state: StateColumns) -> pl.Expr:
    n, products, _, _ = _pairs(leaf, state)
    ddof = leaf.options["ddof"]
    return pl.when(n > ddof).then(products / (n - ddof)).cast(leaf.dtype)


def _corr(leaf: Leaf, state: StateColumns) -> pl.Expr:
    n, products, distances, values = _pairs(leaf, state)
    spread, constant = [], []
    for side, value, distance in zip(("left", "right"), values, distances, strict=True):
        text = f"{side} of pairs of {leaf.texts[0]} and {leaf.texts[1]}"
        between = (n * distance**2).sum()
        m2 = ((value - value.mean()) ** 2).sum()
        spread.append(state.column(f"M2 of {text}", m2, _plus(between)))
        constant.append(_all_equal(text, value, state))
    correlation = pl.when(constant[0] | constant[1]).then(math.nan).otherwise(products / (spread[0] * spread[1]).sqrt())
    return pl.when(n > 0).then(correlation).cast(leaf.dtype)  # of no pair: null, as Polars' streaming engine says


MOMENTS: Final[Mapping[str, Value]] = {
    "corr": _corr,
    "cov": _cov,
    "entropy": _entropy,
    "kurtosis": _kurtosis,
    "skew": _skew,
    "std": _variance,
    "var": _variance,
}
