"""Which aggregate is a node of an expression, of which inputs, with which options?"""

from __future__ import annotations

from typing import Any

import polars as pl

from unbounded.errors import UnsupportedOperationError
from unbounded.expressions import call
from unbounded.expressions.trees import Tree, expression, with_children
from unbounded.partials.columns import Aggregated

__all__ = ["aggregated"]

_PLAIN = {
    "First": "first",
    "FirstNonNull": "first_non_null",
    "Last": "last",
    "LastNonNull": "last_non_null",
    "MaxBy": "max_by",
    "Mean": "mean",
    "MinBy": "min_by",
    "NUnique": "n_unique",
    "NullCount": "null_count",
    "Product": "product",
    "Sum": "sum",
}


def aggregated(tree: Tree) -> Aggregated | None:
    """What a node aggregates, if it can be cut.

    Raises UnsupportedOperationError if an option of it is computed from the rows.
    """
    match tree:
        case "Len":
            return Aggregated("len", (), {})
        case {"Agg": aggregate}:
            return _agg(aggregate)
        case {"Function": {"input": inputs, "function": function}}:
            return _function(tree, inputs, function)
        case {"Slice": {"input": part, "offset": offset, "length": length}}:
            return _slice(tree, part, _constant(tree, offset), _constant(tree, length))
    return None


def _agg(aggregate: Tree) -> Aggregated | None:
    match aggregate:
        case {"Count": {"input": part, "include_nulls": nulls}}:
            return Aggregated("len" if nulls else "count", (part,), {})
        case {"Min": {"input": part, "propagate_nans": nans}}:
            return Aggregated("nan_min" if nans else "min", (part,), {})
        case {"Max": {"input": part, "propagate_nans": nans}}:
            return Aggregated("nan_max" if nans else "max", (part,), {})
        case {"Var": [part, int(ddof)]}:
            return Aggregated("var", (part,), {"ddof": ddof})
        case {"Std": [part, int(ddof)]}:
            return Aggregated("std", (part,), {"ddof": ddof})
        case {"Median": part}:
            return Aggregated("quantile", (part,), {"at": [0.5], "method": "Linear"})
        case {"Implode": {"input": part, "maintain_order": ordered}}:
            return Aggregated("rows", (part,), {"ordered": ordered})
    ((name, part),) = aggregate.items()
    return Aggregated(_PLAIN[name], (part,), {}) if name in _PLAIN else None


def _function(tree: Tree, inputs: list[Tree], function: Tree) -> Aggregated | None:
    match function:
        case {"Boolean": {"Any": {"ignore_nulls": bool(ignored)}}}:
            return Aggregated("any", tuple(inputs), {"ignore_nulls": ignored})
        case {"Boolean": {"All": {"ignore_nulls": bool(ignored)}}}:
            return Aggregated("all", tuple(inputs), {"ignore_nulls": ignored})
        case {"Boolean": "HasNulls"}:
            return Aggregated("has_nulls", tuple(inputs), {})
        case {"Boolean": {"IsEmpty": {"ignore_nulls": bool(ignored)}}}:
            return Aggregated("is_empty", tuple(inputs), {"ignore_nulls": ignored})
        case {"Bitwise": "And" | "Or" | "Xor" as name}:
            return Aggregated(f"bitwise_{name.lower()}", tuple(inputs), {})
        case {"Skew": bool(bias)}:
            return Aggregated("skew", tuple(inputs), {"bias": bias})
        case {"Kurtosis": [bool(fisher), bool(bias)]}:
            return Aggregated("kurtosis", tuple(inputs), {"fisher": fisher, "bias": bias})
        case {"Entropy": {"base": base, "normalize": normalize}}:
            return Aggregated("entropy", tuple(inputs), {"base": float(base), "normalize": normalize})
        case {"Correlation": {"method": {"Covariance": int(ddof)}}}:
            return Aggregated("cov", tuple(inputs), {"ddof": ddof})
        case {"Correlation": {"method": "Pearson"}}:
            return Aggregated("corr", tuple(inputs), {})
        case {"TopK": {"descending": bool(least)}}:
            return Aggregated("bottom_k" if least else "top_k", (inputs[0],), {"k": _constant(tree, inputs[1])})
        case {"TopKBy": {"descending": [*least]}}:
            value, k, *by = inputs
            reverse = least * len(by) if len(least) == 1 else least
            return Aggregated("top_k_by", (value, *by), {"k": _constant(tree, k), "reverse": reverse})
        case {"Hist": {"bin_count": None}} if len(inputs) == 2:
            return Aggregated("hist", (inputs[0],), {"bins": _constants(tree, inputs[1])})
        case str(name) if name in _PLAIN:
            return Aggregated(_PLAIN[name], tuple(inputs), {})
    return _of_values(tree, inputs, function)


def _of_values(tree: Tree, inputs: list[Tree], function: Tree) -> Aggregated | None:
    """Aggregates that need the values themselves."""
    match function:
        case {"Unique": bool(ordered)}:
            return Aggregated("unique", tuple(inputs), {"ordered": ordered})
        case "UniqueCounts":
            return Aggregated("unique_counts", tuple(inputs), {})
        case {"ValueCounts": {"sort": sort, "normalize": normalize}}:
            return Aggregated("value_counts", tuple(inputs), {"sort": sort, "normalize": normalize})
        case {"Mode": {"maintain_order": ordered}}:
            return Aggregated("mode", tuple(inputs), {"ordered": ordered})
        case {"Quantile": {"method": method}}:
            (at,) = _constants(tree, inputs[1])
            return Aggregated("quantile", (inputs[0],), {"at": at if isinstance(at, list) else [at], "method": method})
        case "ApproxNUnique":
            return Aggregated("approx_n_unique", tuple(inputs), {})
        case {"ApproxQuantile": {"method": method, "error": error, "use_formal_bound": formal}}:
            (at,) = _constants(tree, inputs[1])
            options = {"method": method, "error": error, "formal": formal}
            return Aggregated("approx_quantile", (inputs[0],), {"at": at if isinstance(at, list) else [at], **options})
        case (
            {"Boolean": "IsDuplicated" | "IsUnique" | "IsFirstDistinct" | "IsLastDistinct"}
            | {"StringExpr": {"ConcatVertical": _}}
            | {"Rank": {"options": {"method": "Average" | "Min" | "Max" | "Dense" | "Ordinal"}}}
        ):
            return Aggregated("over_rows", tuple(inputs), {"ordered": True, "each": with_children(tree, ["Element"])})
    return None


def _slice(tree: Tree, part: Tree, offset: Any, length: Any) -> Aggregated | None:
    """The first or last rows, as `head`, `tail` and `slice` ask for; None if it would be all but some of them."""
    if offset is None or (length is None and offset >= 0):
        return None
    return Aggregated("slice", (part,), {"offset": offset, "length": length})


def _constant(tree: Tree, part: Tree) -> Any:
    return _constants(tree, part)[0]


def _constants(tree: Tree, part: Tree) -> list[Any]:
    """The value of an option, which stands in the expression as an expression of its own."""
    option = expression(part)
    if option.meta.root_names() or not option.meta.is_literal():
        raise UnsupportedOperationError(
            call(expression(tree)),
            because=f"its option {option} is computed from the rows, and would change with each later one",
            instead="a number, or a list of numbers",
        )
    values: list[Any] = pl.select(option).to_series().to_list()
    return values
