"""How does a user write an aggregate of his own, so that the same expression runs on bounded and unbounded frames?

Over one partial row the merge is that row, so over a bounded frame the aggregate is its finish over its partial: a
plain Polars expression. The merge rides along in the name of an alias around each part, which Polars does not mind
and the planner finds again.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from unbounded.errors import PlanError
from unbounded.expressions import canonical, python_function
from unbounded.expressions.trees import Tree, expression, kind, rewrite, tree_of
from unbounded.partials.columns import StateColumns

__all__ = ["UserDefined", "aggregate", "user_defined", "value_of_part"]

_MARK = "__aggregate__"


def aggregate(
    *,
    partial: Mapping[str, pl.Expr],
    merge: Mapping[str, pl.Expr],
    finish: pl.Expr,
    init: Mapping[str, Any] | None = None,
) -> pl.Expr:
    """An aggregate of your own, for `agg` and `select` of bounded and unbounded frames alike.

    `partial` are named aggregates over some rows: the state. `merge` gives each of them again from several states, as
    aggregates over columns of these names, older states first. `finish` makes the answer from one state, row by row.
    Where a partial is null (of no rows, often), `init` puts a value in its place.

    However rows are cut into parts, finish over merge over partial must be finish over partial of all of them, and
    the merge of one state must be that state. A stream tries both on a few made-up rows, and raises PlanError in `agg`
    or `select` if they do not hold. Parts with 32 bits are kept in 64.

    The geometric mean, and the logarithm of a sum of exponentials that may be too large for a float:

    >>> import polars as pl
    >>> import unbounded as ub
    >>> x = pl.col("x")
    >>> geometric_mean = ub.aggregate(
    ...     partial={"logs": x.log().sum(), "n": x.count()},
    ...     merge={"logs": pl.col("logs").sum(), "n": pl.col("n").sum()},
    ...     finish=(pl.col("logs") / pl.col("n")).exp(),
    ... )
    >>> most, rest = pl.col("most"), pl.col("rest")
    >>> log_sum_exp = ub.aggregate(
    ...     partial={"most": x.max(), "rest": (x - x.max()).exp().sum()},
    ...     merge={"most": most.max(), "rest": (rest * (most - most.max()).exp()).sum()},
    ...     finish=most + rest.log(),
    ... )
    >>> frame = pl.LazyFrame({"x": [2.0, 8.0, 1000.0]})
    >>> frame.select(geometric_mean.round(2).alias("mean"), log_sum_exp.alias("sum")).collect().rows()
    [(25.2, 1000.0)]
    """
    _check_names(partial, merge, finish, init or {})
    parts = {name: one.fill_null((init or {})[name]) if name in (init or {}) else one for name, one in partial.items()}
    written = {
        "partial": {name: _text(one) for name, one in parts.items()},
        "merge": {name: _text(merge[name]) for name in parts},
        "finish": _text(finish),
    }
    shown = {
        name: tree_of(one.alias(_MARK + json.dumps({"part": name, **written})).alias(name))
        for name, one in parts.items()
    }

    def over_parts(tree: Tree) -> Tree:
        return shown[tree["Column"]] if kind(tree) == "Column" else rewrite(tree, over_parts)

    return expression(over_parts(tree_of(finish)))


def _check_names(
    partial: Mapping[str, pl.Expr], merge: Mapping[str, pl.Expr], finish: pl.Expr, init: Mapping[str, Any]
) -> None:
    names = ", ".join(map(repr, partial))
    if not partial or set(merge) != set(partial) or not set(init) <= set(partial):
        made, kept, begun = (", ".join(map(repr, given)) or "nothing" for given in (partial, merge, init))
        raise PlanError(
            f"aggregate(): partial makes {made}, merge {kept} and init {begun}. Give partial and merge the same names, "
            "and init some of them"
        )
    written = {f"partial[{name!r}]": one for name, one in partial.items()}
    written |= {f"merge[{name!r}]": one for name, one in merge.items()} | {"finish": finish}
    for where, one in written.items():
        if python_function(one):
            raise PlanError(f"aggregate({where}={one}): a Python function cannot be taken apart. Write it in Polars")
        if one.meta.has_multiple_outputs():
            raise PlanError(f"aggregate({where}={one}): this makes several columns. Write one name for each")
        if where != "finish" and not one.meta.is_scalar():
            raise PlanError(
                f"aggregate({where}={one}): this has a value per row. Aggregate it: {one}.sum(), .first(), ..."
            )
        unknown = set(one.meta.root_names()) - set(partial)
        if unknown and not where.startswith("partial"):
            raise PlanError(
                f"aggregate({where}={one}): this reads {', '.join(map(repr, sorted(unknown)))}, and the state has only "
                f"{names}. What it needs of the rows belongs into partial"
            )


def _text(expr: pl.Expr) -> str:
    return base64.b64encode(expr.meta.serialize()).decode()


# ------------------------------------------------------------------------------------------ planning
@dataclass(frozen=True, eq=False)
class UserDefined:
    """One part of a user's aggregate, found in an expression, and the whole aggregate."""

    part: str
    partial: Mapping[str, pl.Expr]
    merge: Mapping[str, pl.Expr]
    finish: pl.Expr


def user_defined(tree: Tree) -> UserDefined | None:
    """The part of a user's aggregate that a node marks."""
    match tree:
        case {"Alias": [_, str(name)]} if name.startswith(_MARK):
            found = json.loads(name.removeprefix(_MARK))
            partial, merge = ({name: _read(text) for name, text in found[one].items()} for one in ("partial", "merge"))
            return UserDefined(found["part"], partial, merge, _read(found["finish"]))
    return None


def _read(text: str) -> pl.Expr:
    return pl.Expr.deserialize(base64.b64decode(text))


def value_of_part(found: UserDefined, state: StateColumns) -> pl.Expr:
    """The part over one row of state columns, which are added to `state`.

    Raises PlanError if the merge breaks what it must keep, as far as a few made-up rows can tell.
    """
    text = "; ".join(
        f"{name} = {canonical(one)} merged by {canonical(found.merge[name])}" for name, one in found.partial.items()
    )
    return state.together(text, lambda: (_checked(found, state), found.merge))[found.part]


def _checked(found: UserDefined, state: StateColumns) -> dict[str, pl.Expr]:
    """The partials, in the dtypes in which the merge leaves them."""
    dtypes = [_WIDE.get(dtype, dtype) for dtype in state.dtypes(list(found.partial.values()))]
    for _ in range(3):
        kept = pl.LazyFrame(schema=dict(zip(found.partial, dtypes, strict=True)))
        before, dtypes = dtypes, kept.select(**found.merge).collect_schema().dtypes()
        if dtypes == before:
            break
    else:
        raise PlanError(f"aggregate(merge=...): it makes {dtypes} of {before}, and others again of these. Cast them")
    partial = {name: one.cast(dtype) for (name, one), dtype in zip(found.partial.items(), dtypes, strict=True)}
    _check_laws(partial, found, state.schema)
    return partial


_WIDE: Final[Mapping[pl.DataType, pl.DataType]] = {pl.UInt32(): pl.Int64(), pl.Float32(): pl.Float64()}


def _check_laws(partial: Mapping[str, pl.Expr], found: UserDefined, schema: Mapping[str, pl.DataType]) -> None:
    """Try on six made-up rows what must hold for any; rows that Polars refuses to compute with tell nothing."""
    numbers = pl.Series([3, 1, 4, 1, 5, 9])
    read = sorted({name for one in partial.values() for name in one.meta.root_names()})
    try:
        rows = pl.DataFrame({name: numbers.cast(schema[name], strict=False) for name in read})
        whole, *parts = (piece.select(**partial) for piece in (rows, rows[:2], rows[2:2], rows[2:3], rows[3:]))
        early = pl.concat(parts[:3]).select(**found.merge)
        pairs = {
            "the merge of one state is that state": (parts[0], parts[0].select(**found.merge)),
            "the merge of the states of all parts is the state of all rows": (
                whole.select(found.finish),
                pl.concat(parts).select(**found.merge).select(found.finish),
            ),
            "it does not matter which states are merged first": (
                whole.select(found.finish),
                pl.concat([early, parts[3]]).select(**found.merge).select(found.finish),
            ),
        }
    except pl.exceptions.PolarsError:
        return
    broken = [
        f"{law}: {right.row(0)}, not {left.row(0)}" for law, (left, right) in pairs.items() if _differ(left, right)
    ]
    if broken:
        merges = ", ".join(f"{name}={one}" for name, one in found.merge.items())
        raise PlanError(
            f"aggregate(merge={{{merges}}}) must keep these laws, and breaks them for {read} = {numbers.to_list()}: "
            f"{'; '.join(broken)}. A mean, for instance, is merged from a sum and a count"
        )


def _differ(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    """Whether any column is different, floats by more than rounding; lists and the like are not compared."""
    same = [
        one.is_close(other, rel_tol=1e-6, abs_tol=1e-9, nans_equal=True).fill_null(one.is_null() & other.is_null())
        if one.dtype.is_float()
        else one.eq_missing(other)
        for one, other in zip(left, right, strict=True)
        if not one.dtype.is_nested()
    ]
    return not all(one.all() for one in same)
