"""How is an aggregate cut, so that the answer over all rows follows from partial answers over batches?

    rows of a batch  --partial-->  state columns  --merge, with those remembered-->  state columns
    --finish-->  the user's aggregates

An expression such as `(pl.col("a").sum() / pl.len()).round(2)` is cut at its topmost aggregates: they
become columns of state, and what stands above them becomes the finish. For every way of cutting rows
into batches, `finish(merge(partials))` is the aggregate of all rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import call, canonical_tree, expand, python_function, reason, why_not_rowwise
from unbounded.partials import Distinct, Leaf, StateColumns, value_of
from unbounded.trees import Tree, children, expression, kind, rewrite, tree_of, unaliased

__all__ = ["Cut", "Distinct", "cut"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Aggregates, cut. State columns are named `__0`, `__1`, ...

    `partial` goes over raw rows, in `group_by(...).agg(...)` or `select(...)`, and makes every state
    column but those of `distinct`, which count new values in an Int64. `merge` goes over any number of
    partial rows of one key, older ones first if `ordered`, and makes the same columns with the same
    dtypes. `finish` goes over one row per key and makes the user's columns with Polars' names and dtypes;
    it raises InvalidOperationError for a count that Polars' dtype cannot hold. `canonical` says per state
    column what it holds; equal aggregates give equal texts over restarts.
    """

    partial: tuple[pl.Expr, ...]
    merge: tuple[pl.Expr, ...]
    finish: tuple[pl.Expr, ...]
    distinct: tuple[Distinct, ...]
    state: pl.Schema
    ordered: bool
    canonical: tuple[str, ...]


def cut(aggregates: Sequence[pl.Expr], schema: Mapping[str, pl.DataType]) -> Cut:
    """Cut aggregates over rows of `schema`.

    Raises PlanError for aggregates that have no such form: every one, with the reason and what to write.
    """
    exprs = expand(schema, aggregates, {})
    state = StateColumns(schema)
    finish, refused = [], []
    for expr in exprs:
        try:
            finish.append(_finish(expr, state))
        except UnsupportedOperationError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        reasons = "\n".join(f"  {error.message}" for error in refused)
        raise PlanError(f"{len(refused)} aggregates cannot be kept up to date:\n{reasons}")
    partial = [one.partial.alias(one.name) for one in state if one.partial is not None]
    merge = [one.merge.alias(one.name) for one in state]
    # Over no rows, once, because Polars refuses some dtypes only when it computes.
    counted = [pl.lit(0, pl.Int64).alias(one.name) for one in state.distinct]
    held = pl.DataFrame(schema=schema).select(*partial, *counted).select(merge)
    made = pl.LazyFrame(schema=held.schema).select(finish).collect_schema().dtypes()
    wanted = zip(finish, made, state.dtypes(exprs), strict=True)
    return Cut(
        partial=tuple(partial),
        merge=tuple(merge),
        finish=tuple(expr if dtype == want else expr.cast(want) for expr, dtype, want in wanted),
        distinct=tuple(state.distinct),
        state=held.schema,
        ordered=any(one.text.startswith(_ORDERED) for one in state),
        canonical=tuple(f"{one.text}: {held.schema[one.name]}" for one in state),
    )


# ----------------------------------------------------------------------------------------- finding
def _finish(expr: pl.Expr, state: StateColumns) -> pl.Expr:
    """The aggregate over state columns, which are added to `state`."""
    if python_function(expr):
        raise _refused(
            expr,
            because="what a Python function does inside an aggregate cannot be read",
            instead="compute a column with with_columns(...) first, then aggregate that column",
        )
    tree = unaliased(tree_of(expr))
    finish = expression(_over_state(tree, expr, state)).alias(expr.meta.output_name())
    if _function(tree) is None and (why := why_not_rowwise(finish, state.held())):
        raise _not_cuttable(expr, why)
    return finish


def _over_state(tree: Tree, expr: pl.Expr, state: StateColumns) -> Tree:
    """A tree with its topmost aggregates replaced by expressions over state columns."""
    if found := _function(tree):
        leaf = _leaf(tree, *found, expr, state)
        return tree_of(value_of(leaf, state).alias(leaf.whole.meta.output_name()))
    match kind(tree):
        case "Column":
            raise _refused(
                expr,
                because=f"column {tree['Column']!r} stands there without an aggregate, so all rows of a group would be "
                "collected into a list",
                instead="aggregate it: first(), last(), sum(), mean(), min(), max(), n_unique(), ...",
            )
        case "RenameAlias" | "KeepName":
            name = expression(tree).meta.output_name()
            return {"Alias": [_over_state(unaliased(tree), expr, state), name]}
        case "Alias" | "BinaryExpr" | "Cast" | "Ternary" | "Literal":
            return rewrite(tree, lambda part: _over_state(part, expr, state))
    node = expression(tree)
    # True may still be wrong for the parts below; `_finish` checks the whole.
    if kind(tree) != "Function" or not node.meta.is_row_separable():
        raise _not_cuttable(expr, reason(node))
    return rewrite(tree, lambda part: _over_state(part, expr, state))


def _function(tree: Tree) -> tuple[str, list[Tree], int] | None:
    """(function, inputs, option) if a node is an aggregate that can be cut."""
    match tree:
        case "Len":
            return "len", [], 0
        case {"Agg": {"Count": {"input": part, "include_nulls": nulls}}}:
            return "len" if nulls else "count", [part], 0
        case {"Agg": {"Min": {"input": part, "propagate_nans": nans}}}:
            return "nan_min" if nans else "min", [part], 0
        case {"Agg": {"Max": {"input": part, "propagate_nans": nans}}}:
            return "nan_max" if nans else "max", [part], 0
        case {"Agg": {"Var": [part, int(ddof)]}}:
            return "var", [part], ddof
        case {"Agg": {"Std": [part, int(ddof)]}}:
            return "std", [part], ddof
        case {"Agg": aggregate}:
            ((name, part),) = aggregate.items()
            return (_PLAIN[name], [part], 0) if name in _PLAIN else None
        case {"Function": {"input": inputs, "function": {"Boolean": {"Any": {"ignore_nulls": ignored}}}}}:
            return "any", inputs, int(ignored)
        case {"Function": {"input": inputs, "function": {"Boolean": {"All": {"ignore_nulls": ignored}}}}}:
            return "all", inputs, int(ignored)
        case {"Function": {"input": inputs, "function": {"Boolean": "HasNulls"}}}:
            return "has_nulls", inputs, 0
        case {"Function": {"input": inputs, "function": {"Bitwise": "And" | "Or" | "Xor" as name}}}:
            return f"bitwise_{name.lower()}", inputs, 0
        case {"Function": {"input": inputs, "function": str(name)}} if name in _PLAIN:
            return _PLAIN[name], inputs, 0
    return None


_ORDERED = ("first", "last", "max_by", "min_by")

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


def _leaf(tree: Tree, function: str, inputs: list[Tree], option: int, expr: pl.Expr, state: StateColumns) -> Leaf:
    """An aggregate over values of single rows, some of them perhaps left out or repeated."""
    whole, parts = expression(tree), tuple(map(expression, inputs))
    rows = {_rows(part, expr) for part in inputs} or {""}
    if None in rows or len(rows) > 1:
        raise _refused(
            expr,
            because=f"{call(whole)} reads a literal, or columns with different numbers of rows",
            instead="give it columns of the frame, with the same filter",
        )
    if len(parts) > 1 and rows != {""}:
        raise _refused(
            expr,
            because=f"Polars' streaming engine pairs the wrong rows when the inputs of {call(whole)} are filtered",
            instead="pl.col('a').min_by(pl.when(condition).then(pl.col('b')))",
        )
    for part in inputs:
        if kind(part) != "Column" and (why := why_not_rowwise(expression(_flat(part, state)), state.schema)):
            raise _not_cuttable(expr, why)
    dtype, *of = state.dtypes([whole, *parts])
    texts = tuple(canonical_tree(unaliased(part)) for part in inputs)
    return Leaf(function, whole, dtype, parts, tuple(of), texts, str(*rows), option)


def _rows(tree: Tree, expr: pl.Expr) -> str | None:
    """Which rows a value has: "" all rows of the frame, None a literal, else what was left out or repeated."""
    parts = [found for part in children(tree) if (found := _rows(part, expr)) is not None]
    if len(set(parts)) > 1:
        raise _refused(
            expr,
            because="it pairs columns that were filtered in different ways",
            instead="pair first and filter last: (pl.col('a') + pl.col('b')).filter(...)",
        )
    match tree:
        case {"Column": _}:
            return ""
        case {"Filter": {"input": _, "by": by}} if parts:
            return f"{parts[0]} filter {canonical_tree(by)}".strip()
        case {"Explode": _} | {"Function": {"function": "DropNulls" | "DropNans" | {"ArrayExpr": {"Explode": _}}}}:
            return canonical_tree(tree)
    return parts[0] if parts else None


def _flat(tree: Tree, state: StateColumns) -> Tree:
    """The same values at the same rows, with none left out or repeated: this must be row-wise."""
    match tree:
        case {"Filter": {"input": part, "by": by}}:
            nothing = {"Literal": {"Scalar": {"Null": "Null"}}}
            return {"Ternary": {"predicate": _flat(by, state), "truthy": _flat(part, state), "falsy": nothing}}
        case {"Function": {"input": [part], "function": "DropNulls" | "DropNans"}}:
            return _flat(part, state)
        case {"Explode": {"input": part}} | {"Function": {"input": [part], "function": {"ArrayExpr": {"Explode": _}}}}:
            values = expression(_flat(part, state))
            is_array = isinstance(state.dtypes([values])[0], pl.Array)
            return tree_of(values.arr.first() if is_array else values.list.first())
    return rewrite(tree, lambda part: _flat(part, state))


# ----------------------------------------------------------------------------------------- refusing
_NOT_KEPT = re.compile(
    r"`(median|quantile|mode|implode|unique|value_counts|unique_counts|approx_n_unique|skew|kurtosis|entropy|hist"
    r"|top_k|bottom_k|top_k_by|bottom_k_by|\w+_correlation|covariance|arg_min|arg_max|item)\(\)`"
)


def _refused(expr: pl.Expr, *, because: str, instead: str) -> UnsupportedOperationError:
    text = re.sub(r", sort_option=SortMultipleOptions \{[^}]*\}|dyn (?:int|float): ", "", str(expr))
    return UnsupportedOperationError(text, because=because, instead=instead)


def _not_cuttable(expr: pl.Expr, why: str) -> UnsupportedOperationError:
    """The error for something that looks at rows in a way that has no partial answer."""
    instead = "aggregate values of single rows, or compute it over what the query wrote: query.read()"
    if "`sort" in why:
        instead = "pl.col('a').min_by('b') or max_by('b'), for the first or last value in the order of b"
    if found := _NOT_KEPT.match(why):
        why = f"`{found[1]}()` needs all values of a group, and they are not kept in this version"
        instead = "sum(), mean(), min(), max(), var(), std() or n_unique(); or compute it over query.read()"
    return _refused(expr, because=why, instead=instead)
