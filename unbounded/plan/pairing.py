"""What do the arguments of `join` and `join_where` mean, if both tables keep growing?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import polars as pl

from unbounded.errors import PlanError, UnsupportedOperationError, nearest
from unbounded.expressions import columns_of, conjuncts, expand, passes, python_function, why_not_rowwise
from unbounded.expressions.intervals import Within, within
from unbounded.expressions.now import tells_time
from unbounded.expressions.trees import Tree, children, expression, tree_of, unaliased
from unbounded.plan import Node
from unbounded.plan.pairs import How, Key, StreamJoin

__all__ = ["paired_on", "paired_where"]


def paired_on(
    left: Node,
    right: Node,
    how: str,
    left_on: tuple[str, ...],
    right_on: tuple[str, ...],
    options: Mapping[str, Any],
) -> StreamJoin:
    """`pl.LazyFrame.join` of two streams on columns, with its `options`. Polars' own errors pass through."""
    kind = _kind(how, "join")
    asked = {"left_on": left_on, "right_on": right_on, **options}
    answer = _empty(left).join(_empty(right), how=kind, **asked).collect_schema()
    ours, theirs = left.schema, right.schema
    renamed = _disjoint(ours, theirs, options["suffix"])
    keys = tuple(
        _key(pl.col(one), pl.col(renamed[other]), ours[one], theirs[other], nulls_equal=options["nulls_equal"])
        for one, other in zip(left_on, right_on, strict=True)
    )
    merged = kind != "full" if options["coalesce"] is None else options["coalesce"]
    match kind:
        case "semi" | "anti":
            columns = [(name,) for name in ours]
        case "right":
            columns = [(name,) for name in ours if not (merged and name in left_on)]
            columns += [(renamed[name],) for name in theirs]
        case "full" if merged:
            partner = dict(zip(left_on, right_on, strict=True))
            columns = [(name, renamed[partner[name]]) if name in partner else (name,) for name in ours]  # type: ignore[misc]  # tuples of one and of two
            columns += [(renamed[name],) for name in theirs if name not in right_on]
        case _:
            columns = [(name,) for name in ours]
            columns += [(renamed[name],) for name in theirs if not (merged and name in right_on)]
    outputs = dict(zip(answer, columns, strict=True))
    return StreamJoin(left, right, kind, keys, {"left": (), "right": ()}, (), (), frozenset(), renamed, outputs, asked)


def paired_where(
    left: Node, right: Node, predicates: Sequence[pl.Expr | Iterable[pl.Expr]], how: str, suffix: str
) -> StreamJoin:
    """`pl.LazyFrame.join_where` of two tables; names in predicates are those of the answer of an inner join.

    Equalities of the two sides become keys, conditions on one side are set apart.
    """
    kind = _kind(how, "join_where")
    renamed = {name: f"{name}{suffix}" if name in left.schema else name for name in right.schema}
    both = _both(left, right, renamed, suffix)
    flat = [one for item in predicates for one in ([item] if isinstance(item, pl.Expr) else item)]
    parts = [part for one in expand(both, flat, {}, unnamed=True) for part in conjuncts(one)]
    _refuse(parts, both)
    keys: list[Key] = []
    withins: list[Within] = []
    others: list[pl.Expr] = []
    only: dict[str, list[pl.Expr]] = {"left": [], "right": []}
    ours, theirs = frozenset(left.schema), frozenset(renamed.values())
    for part in parts:
        read = columns_of(part)
        key = _equality(part, ours, theirs, both)
        if key is not None:
            keys.append(key)
            if not key.nulls_equal and not (passes(key.left) and passes(key.right)):
                withins += within(part, both)
        elif read and read <= ours:
            only["left"].append(part)
        elif read and read <= theirs:
            only["right"].append(part)
        else:
            others.append(part)
            withins += [one for one in within(part, both) if (one.earlier in ours) != (one.later in ours)]
    names = list(left.schema) if kind in ("semi", "anti") else list(both)
    return StreamJoin(
        left,
        right,
        kind,
        tuple(keys),
        {"left": tuple(only["left"]), "right": tuple(only["right"])},
        tuple(others),
        tuple(withins),
        frozenset(name for one in others for name in _filled(one)),
        renamed,
        {name: (name,) for name in names},
    )


def _kind(how: str, verb: str) -> How:
    for kind in get_args(How):
        if how == kind:
            found: How = kind
            return found
    kinds = ", ".join(map(repr, get_args(How)))
    raise PlanError(
        f"{verb}(how={how!r}) of two streams is not known{nearest(how, get_args(How)) or '.'} Write one of {kinds}"
    )


def _empty(node: Node) -> pl.LazyFrame:
    return pl.LazyFrame(schema=node.schema)


def _disjoint(ours: Mapping[str, Any], theirs: Mapping[str, Any], suffix: str) -> dict[str, str]:
    """Names for the columns of the right that neither side has yet; no expression of the user reads them."""
    found: dict[str, str] = {}
    for name in theirs:
        new = name
        while new in ours or new in found.values() or (new != name and new in theirs):
            new = f"{new}{suffix or '_right'}"
        found[name] = new
    return found


def _both(left: Node, right: Node, renamed: Mapping[str, str], suffix: str) -> pl.Schema:
    """The columns of a pair."""
    names = [*left.schema, *renamed.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError(
            f"join_where(suffix={suffix!r}): a pair would have two columns {twice!r}. Choose another suffix, or rename "
            "one of them before"
        )
    return pl.Schema({**left.schema, **{renamed[name]: dtype for name, dtype in right.schema.items()}})


def _refuse(parts: Sequence[pl.Expr], both: pl.Schema) -> None:
    """Raise for predicates that are none of two rows alone; Polars' own errors pass through."""
    reasons = [reason for part in parts if (reason := why_not_rowwise(part, both)) is not None]
    if reasons:
        raise UnsupportedOperationError(
            "join_where() with such a predicate",
            because="; and ".join(reasons),
            instead="a comparison of columns of the two rows; what needs other rows comes from group_by(...).agg(...)",
        )
    if any(map(tells_time, parts)):
        raise UnsupportedOperationError(
            "join_where() by the current time",
            because="rows that were remembered would have to be looked at again as time goes on",
            instead="a column with the time, made by with_columns(...) before the join, which a row keeps",
        )
    for part in parts:
        judged = pl.LazyFrame(schema=both).select(part.alias("predicate"))
        # Some mistakes, such as a time with a zone beside one without, Polars finds only when it computes.
        dtype = (judged if python_function(part) else judged.collect()).collect_schema()["predicate"]
        if dtype != pl.Boolean:
            raise PlanError(f"join_where({part}): the predicate is {dtype}. Write one that is true or false")


def _equality(part: pl.Expr, ours: frozenset[str], theirs: frozenset[str], both: pl.Schema) -> Key | None:
    """The key of an equality of two expressions, each over one side; None for any other predicate."""
    if python_function(part):
        return None
    match unaliased(tree_of(part)):
        case {"BinaryExpr": {"op": "Eq" | "EqValidity" as op, "left": one, "right": other}}:
            first, second = expression(one), expression(other)
            if columns_of(first) <= theirs and columns_of(second) <= ours:
                first, second = second, first
            reads_one_each = columns_of(first) <= ours and columns_of(second) <= theirs
            if not (reads_one_each and columns_of(first) and columns_of(second)):
                return None
            dtypes = pl.LazyFrame(schema=both).select(a=first, b=second).collect_schema().dtypes()
            return _key(first, second, *dtypes, nulls_equal=op == "EqValidity")
    return None


def _filled(part: pl.Expr) -> frozenset[str]:
    """The columns of a comparison that is null where one of them is, so that it does not hold."""
    if python_function(part):
        return frozenset()
    match unaliased(tree_of(part)):
        case {"BinaryExpr": {"op": "Eq" | "NotEq" | "Lt" | "LtEq" | "Gt" | "GtEq"}} if _hands_on_nulls(tree_of(part)):
            return columns_of(part)
    return frozenset()


def _hands_on_nulls(tree: Tree) -> bool:
    match unaliased(tree):
        case {"BinaryExpr": {"op": str(op)}} if op in ("And", "Or", "LogicalAnd", "LogicalOr") or "Validity" in op:
            return False
        case {"BinaryExpr": _} | {"Cast": _} | {"Column": _} | {"Literal": _}:
            return all(map(_hands_on_nulls, children(unaliased(tree))))
    return False


def _key(left: pl.Expr, right: pl.Expr, ours: pl.DataType, theirs: pl.DataType, *, nulls_equal: bool) -> Key:
    """A key of one dtype, to which Polars casts where it compares two."""
    if ours == theirs:
        return Key(left, right, nulls_equal)
    sides = [pl.LazyFrame(schema={"key": dtype}) for dtype in (ours, theirs)]
    dtype = pl.concat(sides, how="vertical_relaxed").collect_schema()["key"]
    return Key(left.cast(dtype), right.cast(dtype), nulls_equal)
