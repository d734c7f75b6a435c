"""How is an aggregate cut, so that the answer over all rows follows from partial answers over batches?

    rows of a batch  --partial-->  state columns  --merge, with those remembered-->  state columns
    --finish-->  the user's aggregates

An expression such as `(pl.col("a").sum() / pl.len()).round(2)` is cut at its topmost aggregates: they
become columns of state, and what stands above them becomes the finish. For every way of cutting rows
into batches, `finish(merge(partials))` is the aggregate of all rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import call, canonical_tree, expand, reason, why_not_rowwise
from unbounded.expressions.trees import (
    Tree,
    children,
    expression,
    kind,
    nodes,
    rewrite,
    tree_of,
    unaliased,
    with_children,
)
from unbounded.partials.columns import Aggregated, Leaf, StateColumn, StateColumns, Values, widened
from unbounded.partials.computed import Computed
from unbounded.partials.few import FEW
from unbounded.partials.found import aggregated
from unbounded.partials.moments import MOMENTS
from unbounded.partials.single import SINGLE, Value
from unbounded.partials.sketches import SKETCHES
from unbounded.partials.user_defined import user_defined, value_of_part
from unbounded.partials.values import VALUES

__all__ = ["Cut", "cut"]


@dataclass(frozen=True, eq=False)
class Cut:
    """Aggregates, cut. State columns are named `__0`, `__1`, ...

    `computed` are columns to add to the rows first. `partial` goes over the rows then, in
    `group_by(...).agg(...)` or `select(...)`, and makes every state column but those of `values`, which
    count new values in an Int64. `merge` goes over any number of partial rows of one key, older ones
    first if `ordered`, and makes the same columns with the same dtypes. `finish` goes over one row per
    key, with the lists that `values` ask for and the columns that `opened` make of the state, and makes
    the user's columns with Polars' names and dtypes; for a count that Polars' dtype cannot hold it
    raises what `columns.overflow` knows. Those named in `lists` hold several values per key in a list,
    as in `agg`; in `select` they are rows. `canonical` says per state column what it holds; equal
    aggregates give equal texts over restarts.
    """

    computed: tuple[pl.Expr, ...]
    partial: tuple[pl.Expr, ...]
    merge: tuple[pl.Expr, ...]
    opened: tuple[pl.Expr, ...]
    finish: tuple[pl.Expr, ...]
    lists: tuple[str, ...]
    values: tuple[Values, ...]
    state: pl.Schema
    ordered: bool
    canonical: tuple[str, ...]


def cut(
    aggregates: Sequence[pl.Expr],
    schema: Mapping[str, pl.DataType],
    *,
    keyed: bool = True,
    instead: Callable[[pl.Expr], pl.Expr] = lambda expr: expr,
) -> Cut:
    """Cut aggregates over rows of `schema`: of `agg` if `keyed`, where a bare column becomes a list, else of `select`.

    `instead` gives what is kept in place of each aggregate, which has no Python function in it any more.

    Raises PlanError for aggregates that have no such form: every one, with the reason and what to write.
    """
    exprs = expand(schema, aggregates, {})
    computed, readable, found, refused = Computed(schema), [], [], []
    for expr in exprs:
        try:
            readable.append(instead(computed.over_columns(expr)))
        except UnsupportedOperationError as error:
            refused.append(error)
    schema = computed.schema
    state = StateColumns(schema)
    for expr in readable:
        try:
            found.append(_finish(expr, state, keyed=keyed))
        except UnsupportedOperationError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        reasons = "\n".join(f"  {error.message}" for error in refused)
        raise PlanError(f"{len(refused)} aggregates cannot be kept up to date:\n{reasons}")
    partial = [one.partial.alias(one.name) for one in state if one.partial is not None]
    merge = [one.merge.alias(one.name) for one in state]
    # Over a null and over no rows, once, because Polars refuses some dtypes only when it computes.
    pl.DataFrame(schema=schema).clear(1).select(one.alias(f"{place}") for place, one in enumerate(state.whole))
    counted = [pl.lit(0, pl.Int64).alias(one.name) for one in state.kept]
    held = pl.DataFrame(schema=schema).select(*partial, *counted).select(merge)
    names = tuple(expr.meta.output_name() for expr in exprs)
    made = (
        pl.LazyFrame(schema={**held.schema, **state.beside}).select(expr for expr, _ in found).collect_schema().dtypes()
    )
    finish = []
    for (expr, is_list), dtype, one in zip(found, made, state.dtypes(readable), strict=True):
        wanted = pl.List(one) if is_list else one
        finish.append(expr if dtype == wanted else expr.cast(wanted))
    return Cut(
        computed=tuple(computed.columns),
        partial=tuple(partial),
        merge=tuple(merge),
        opened=tuple(state.openers),
        finish=tuple(finish),
        lists=tuple(name for name, (_, is_list) in zip(names, found, strict=True) if is_list),
        values=state.kept,
        state=held.schema,
        ordered=state.ordered,
        canonical=tuple(f"{one.text}: {held.schema[one.name]}{_used(one, state)}" for one in state),
    )


def _used(column: StateColumn, state: StateColumns) -> str:
    """What is kept beside a number of values, for they lie in other tables then."""
    return "".join(f", {use}" for one in state.kept if one.name == column.name for use in sorted(one.uses))


# ----------------------------------------------------------------------------------------- finding
_VALUES: Mapping[str, Value] = {**SINGLE, **MOMENTS, **FEW, **VALUES, **SKETCHES}


def _finish(expr: pl.Expr, state: StateColumns, *, keyed: bool) -> tuple[pl.Expr, bool]:
    """The aggregate over state columns, which are added to `state`; and whether it is a list per group."""
    tree = _bare(tree_of(expr))
    if keyed and _is_rows(tree, state):
        tree = {"Agg": {"Implode": {"input": tree, "maintain_order": True}}}
        return expression(_over_state(tree, expr, state)[0]).alias(expr.meta.output_name()), True
    over_rows = (node for node in nodes(tree) if (one := aggregated(node)) and one.function == "over_rows")
    if not keyed and (found := next(over_rows, None)):
        raise _not_cuttable(expr, reason(expression(found)))
    found, is_list = _over_state(tree, expr, state)
    finish = expression(found).alias(expr.meta.output_name())
    if aggregated(tree) is None and (why := why_not_rowwise(finish, state.held())):
        raise _not_cuttable(expr, why)
    return finish, is_list


def _bare(tree: Tree) -> Tree:
    """What a node computes, whatever it is called; a part of a user's aggregate is known by its name."""
    while kind(tree) in ("Alias", "RenameAlias", "KeepName") and user_defined(tree) is None:
        (tree,) = children(tree)
    return tree


def _is_rows(tree: Tree, state: StateColumns) -> bool:
    """Whether an expression has a value for each row, some of them perhaps left out or repeated."""
    if aggregated(tree) is not None or not expression(tree).meta.root_names():
        return False
    return why_not_rowwise(expression(_flat(tree, state)), state.schema) is None


def _over_state(tree: Tree, expr: pl.Expr, state: StateColumns) -> tuple[Tree, bool]:
    """A tree with its topmost aggregates replaced by expressions over state columns; whether it is a list per group."""
    if (own := user_defined(tree)) is not None:
        return tree_of(value_of_part(own, state).alias(own.part)), False
    found = aggregated(tree)
    if found is not None and not _lists_in(found.inputs):
        leaf = _leaf(tree, found, expr, state)
        if leaf.function != "quantile" or leaf.of[0] != pl.Date:  # Polars panics at that of a null
            state.whole.append(leaf.whole.implode() if leaf.is_list else leaf.whole)
        value = _VALUES[leaf.function](leaf, state)
        return tree_of(value.alias(leaf.whole.meta.output_name())), leaf.is_list
    if kind(tree) == "Column":
        raise _refused(
            expr,
            because=f"column {tree['Column']!r} stands there without an aggregate, so all rows of a group would be "
            "collected into a list",
            instead="aggregate it: first(), last(), sum(), mean(), min(), max(), n_unique(), ...",
        )
    if kind(tree) in ("RenameAlias", "KeepName"):
        name = expression(tree).meta.output_name()
        part, is_list = _over_state(_bare(tree), expr, state)
        return {"Alias": [part, name]}, is_list
    if found is None and kind(tree) not in _ROWWISE and not _lists_in([tree]):
        node = expression(tree)
        # True may still be wrong for the parts below; `_finish` checks the whole.
        if kind(tree) != "Function" or not node.meta.is_row_separable():
            raise _not_cuttable(expr, reason(node))
    parts = [_over_state(part, expr, state) for part in children(tree)]
    if kind(tree) == "Cast":
        parts = [(widened(part), is_list) for part, is_list in parts]
    if any(is_list for _, is_list in parts):
        return _within_lists(tree, parts, expr)
    return with_children(tree, [part for part, _ in parts]), False


_ROWWISE = ("Alias", "BinaryExpr", "Cast", "Ternary", "Literal")


def _lists_in(trees: Sequence[Tree]) -> bool:
    """Whether an aggregate that gives several values per group stands in them."""
    below = (node for tree in trees for node in nodes(tree))
    return any(aggregated(node) is not None and not _is_scalar(expression(node)) for node in below)


def _is_scalar(expr: pl.Expr) -> bool:
    """Whether an expression has one value per group."""
    try:
        return expr.meta.is_scalar()
    except pl.exceptions.ColumnNotFoundError:  # Polars' answer for an approx_quantile, which is one
        return True


def _within_lists(tree: Tree, parts: Sequence[tuple[Tree, bool]], expr: pl.Expr) -> tuple[Tree, bool]:
    """A node over several values per group: what Polars computes over the values of each list alone."""
    if any(not is_list and expression(part).meta.root_names() for part, is_list in parts) or (
        sum(is_list for _, is_list in parts) > 1
    ):
        raise _refused(
            expr,
            because="it pairs several values per group with another aggregate, and they would be matched by position",
            instead="one column for each, e.g. pl.col('a').top_k(3).implode()",
        )
    (values,) = (part for part, is_list in parts if is_list)
    each = with_children(tree, ["Element" if is_list else part for part, is_list in parts])
    within = {"Eval": {"expr": values, "evaluation": each, "variant": "ListAgg"}}
    return within, not _is_scalar(expression(each))


def _leaf(tree: Tree, found: Aggregated, expr: pl.Expr, state: StateColumns) -> Leaf:
    """An aggregate over values of single rows, some of them perhaps left out or repeated."""
    whole, parts = expression(tree), tuple(map(expression, found.inputs))
    rows = {_rows(part, expr) for part in found.inputs} or {""}
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
    for part in found.inputs:
        if kind(part) != "Column" and (why := why_not_rowwise(expression(_flat(part, state)), state.schema)):
            raise _not_cuttable(expr, why)
    dtype, *of = state.dtypes([whole, *parts])
    texts = tuple(canonical_tree(unaliased(part)) for part in found.inputs)
    is_list = not _is_scalar(whole)
    return Leaf(found.function, whole, dtype, is_list, parts, tuple(of), texts, str(*rows), found.options)


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
_INSTEAD = {
    "arg_max": ("numbers the rows of a group, which have no end", "max(), or pl.col('b').max_by('a')"),
    "arg_min": ("numbers the rows of a group, which have no end", "min(), or pl.col('b').min_by('a')"),
    "hist": ("lays its bins between the least and the greatest of all values", "bins of your own: hist([0, 10, 20])"),
    "item": ("fails as soon as a second row comes", "first()"),
    "sort": ("looks at all rows", "min(), max() or top_k(3), or pl.col('a').min_by('b') or max_by('b')"),
    "sort_by": ("looks at all rows", "pl.col('a').min_by('b') or max_by('b'), or top_k_by('b', 3)"),
    "spearman_rank_correlation": ("ranks all rows anew with each later one", "pl.corr('a', 'b'), Pearson's"),
}


def _refused(expr: pl.Expr, *, because: str, instead: str) -> UnsupportedOperationError:
    text = re.sub(
        r", sort_option=SortMultipleOptions \{[^}]*\}|dyn (?:int|float): |\.alias\(\"__aggregate__.*?\}\"\)",
        "",
        str(expr),
    )
    return UnsupportedOperationError(text, because=because, instead=instead)


def _not_cuttable(expr: pl.Expr, why: str) -> UnsupportedOperationError:
    """The error for something that looks at rows in a way that has no partial answer."""
    instead = "aggregate values of single rows, or compute it over what the query wrote: query.read()"
    found = re.match(r"`(\w+)\(\)`", why)
    if found and found[1] in _INSTEAD:
        because, instead = _INSTEAD[found[1]]
        why = f"{found[0]} {because}"
    return _refused(expr, because=why, instead=instead)
