"""What does a Polars expression do: which columns does it make, is it row-wise, is it what it was before a restart?

Whether an expression looks at one row at a time is left to Polars: its optimiser moves a filter below
`with_columns` only past expressions whose rows do not depend on each other, whatever stands inside
them, Python functions included. (`Expr.meta.is_row_separable` judges the top node only.)

trees.py, now.py, intervals.py, looking.py, reach.py: what stands in it, and what that says of time.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import chain

import polars as pl
from polars._typing import IntoExpr

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions.now import judged, named_now, tells_time, told
from unbounded.expressions.trees import Tree, children, expression, kind, rewrite, tree_of, unaliased, with_children

__all__ = [
    "GUESSES",
    "call",
    "canonical",
    "canonical_tree",
    "columns_of",
    "conjuncts",
    "expand",
    "passes",
    "python_function",
    "reason",
    "truncated",
    "why_not_rowwise",
]


# --------------------------------------------------------------------------------------- expansion
def expand(
    frame_schema: Mapping[str, pl.DataType],
    exprs: Iterable[IntoExpr | Iterable[IntoExpr]],
    named: Mapping[str, IntoExpr],
    *,
    without: Collection[str] = (),
    unnamed: bool = False,
) -> tuple[pl.Expr, ...]:
    """What the arguments of a Polars verb mean, as expressions of one column each, named as Polars names them.

    `without` are the keys of a `group_by`, which `pl.all()` and other selectors leave out. With
    `unnamed` (predicates) names are left as they come. Errors of Polars, such as an unknown column of
    a selector, pass through.
    """
    keys = [name for name in frame_schema if name in without]
    found = []
    for expr in map(_without_name_map, _parsed(exprs, named)):
        if tells_time(expr) and python_function(expr):
            raise UnsupportedOperationError(
                f"ub.current_timestamp() or ub.watermark() beside the Python function in {named_now(str(expr))}",
                because="what a batch says can only be put into an expression that can be read",
                instead="two steps: with_columns(...) with the function, then another one with the time",
            )
        if not expr.meta.has_multiple_outputs():
            found.append(expr)
            continue
        frame = pl.LazyFrame(schema=frame_schema)
        single = [expression(tree) for tree in _single(_readable(expr), frame, keys)]
        if not unnamed:
            names = _outputs(frame, keys, expr)
            if len(names) != len(single):
                raise PlanError(
                    f"{expr} makes the columns {names} in a way that cannot be followed. Write them one by one"
                )
            single = [_named(one, name) for one, name in zip(single, names, strict=True)]
        found.extend(single)
    return tuple(found)


def _parsed(exprs: Iterable[IntoExpr | Iterable[IntoExpr]], named: Mapping[str, IntoExpr]) -> list[pl.Expr]:
    """Strings, values, lists and names as expressions; `pl.struct` has the conventions of `select`."""
    # The last argument makes an empty call legal; names are put on later, as `struct` has parameters of its own.
    unnamed: list[pl.Expr] = pl.struct(*exprs, last=0).meta.pop()[:0:-1]
    return unnamed + [pl.struct(value, 0).meta.pop()[-1].alias(name) for name, value in named.items()]


def _named(expr: pl.Expr, name: str) -> pl.Expr:
    return expr if expr.meta.output_name() == name else expr.alias(name)


def _without_name_map(expr: pl.Expr) -> pl.Expr:
    """An expression of one column with its name in place of the Python function that makes it."""
    if expr.meta.has_multiple_outputs() or not str(expr).endswith(".name.map()"):
        return expr
    return _named(expr.meta.pop()[0], expr.meta.output_name())


def _readable(expr: pl.Expr) -> Tree:
    """The tree of an expression of several columns, without a `name.map` around it."""
    if not python_function(expr):
        return tree_of(expr)
    if _called(expr) == "name.map":
        return _readable(expr.meta.pop()[0])
    raise PlanError(
        f"{expr} gives several columns to a Python function, which cannot be taken apart. "
        "Write one expression per column"
    )


def _outputs(frame: pl.LazyFrame, keys: list[str], expr: pl.Expr) -> list[str]:
    """The names that an expression makes in `select`, or in `agg` if there are keys."""
    applied = frame.group_by(keys).agg(expr) if keys else frame.select(expr)
    return applied.collect_schema().names()[len(keys) :]


def _single(tree: Tree, frame: pl.LazyFrame, keys: list[str]) -> list[Tree]:
    """The tree with selectors replaced by columns, once for each column it makes."""
    if kind(tree) == "Selector":
        return [{"Column": name} for name in _outputs(frame, keys, expression(tree))]
    parts = [_single(part, frame, keys) for part in children(tree)]
    match tree:
        case {"Function": {"function": {"StructExpr": {"SelectFields": _}}}}:
            fields = _outputs(frame, keys, expression(tree))
            return [
                {"Function": {"input": [part], "function": {"StructExpr": {"FieldByName": field}}}}
                for part in parts[0]
                for field in fields[: len(fields) // len(parts[0])]
            ]
        case {"Function": body} if _absorbs(tree, max(map(len, parts), default=1), frame, keys):
            return [{"Function": {**body, "input": list(chain(*parts))}}]
    if not all(parts):  # a selector that finds no column
        return []
    width = max(map(len, parts), default=1)
    return [with_children(tree, [part[i % len(part)] for part in parts]) for i in range(width)]


def _absorbs(tree: Tree, width: int, frame: pl.LazyFrame, keys: list[str]) -> bool:
    """Whether a function takes the columns of a selector together (`sum_horizontal`), not one at a time (`abs`)."""
    if width == 1:
        return False
    try:
        return len(_outputs(frame, keys, expression(tree))) == 1
    except pl.exceptions.DuplicateError:  # several columns under the name of the first argument
        return False


# ---------------------------------------------------------------------------------------- questions
_PYTHON = {"python_udf", "rolling_map", "fold", "reduce", "cum_fold", "cum_reduce", "name.map"}
_WORDS = {
    "any_ignore_nulls": "any()",
    "all_ignore_nulls": "all()",
    "fill_null_with_strategy": "fill_null(strategy=...)",
    "over": "over(...)",
    "python_udf": "map_batches()",
    "slice": "head(), tail() or slice()",
    "str.concat_vertical": "str.join()",
    "str.strptime": "str.to_datetime()",
}
"""Where Polars displays a call under another name than the user wrote."""


def call(expr: pl.Expr) -> str:
    """The outermost call of an expression in the user's words, for messages: "`cum_sum()`"."""
    name = _called(expr)
    return f"`{_WORDS.get(name, f'{name}()')}`" if name else f"`{expr}`"


def _called(expr: pl.Expr) -> str:
    """Polars' name of the outermost call, "str.len_chars" of `col("a").str.len_chars()`; "" for an operator."""
    text, parts = str(expr), expr.meta.pop()
    first = str(parts[-1]) if parts else ""
    found = re.match(r"\.?([a-z][\w.]*)\(", text.removeprefix(first), re.IGNORECASE)
    return found[1].lower() if found else ""


def python_function(expr: pl.Expr) -> bool:
    """Whether a Python function (`map_elements`, `map_batches`, `fold`, ...) stands anywhere in an expression."""
    text = str(expr)
    if not any(f".{name}(" in text for name in _PYTHON):
        return False
    return _called(expr) in _PYTHON or any(map(python_function, expr.meta.pop()))


def columns_of(expr: pl.Expr) -> frozenset[str]:
    """The columns of the frame that an expression reads."""
    return frozenset(expr.meta.root_names())


def conjuncts(expr: pl.Expr) -> tuple[pl.Expr, ...]:
    """The predicates that `&` joins into one; a row passes all of them or not the whole."""
    if python_function(expr):
        return (expr,)
    match tree_of(expr):
        case {"BinaryExpr": {"op": "And", "left": left, "right": right}}:
            return (*conjuncts(expression(left)), *conjuncts(expression(right)))
    return (expr,)


def passes(expr: pl.Expr) -> str | None:
    """The column that an expression hands through, perhaps under another name; None if it computes anything."""
    column = expr.meta.undo_aliases()
    return column.meta.output_name() if column.meta.is_column() else None


def truncated(expr: pl.Expr) -> tuple[str, str] | None:
    """(column, every) of `pl.col(column).dt.truncate(every)` under any name; None for anything else."""
    if python_function(expr):
        return None
    match unaliased(tree_of(expr)):
        case {
            "Function": {
                "function": {"TemporalExpr": "Truncate"},
                "input": [{"Column": str(column)}, {"Literal": {"Scalar": {"String": str(every)}}}],
            }
        }:
            return column, every
    return None


# ----------------------------------------------------------------------------------------- row-wise
_ROW, _KEEP = "__row__", "__keep__"


def why_not_rowwise(expr: pl.Expr, schema: Mapping[str, pl.DataType]) -> str | None:
    """What in an expression looks beyond its own row, in the user's words; None if nothing does.

    Then each row of the result needs its own row alone, and there are as many; a literal counts.
    `map_elements` is row-wise by contract, `map_batches` if it says is_elementwise=True.
    """
    for one in map(_as_judged, map(judged, expand(schema, [expr], {}, unnamed=True))):
        if not columns_of(one) <= schema.keys():  # a misspelt one: Polars' own words, before a column of ours is there
            pl.LazyFrame(schema=schema).select(one).collect_schema()
        read = columns_of(one) if columns_of(one) <= schema.keys() else schema.keys()
        frame = pl.LazyFrame(schema={**{name: schema[name] for name in read}, _KEEP: pl.Boolean()})
        if not _is_separable(one, frame):
            return reason(_culprit(one, frame))
        if random := re.search(r"\.((?:list|arr)\.(?:sample|shuffle))\w*\(", str(one)):
            return f"`{random[1]}()` gives another answer each time it runs"
    return None


def _as_judged(expr: pl.Expr) -> pl.Expr:
    """What is judged, never computed: holidays are a Series that is no column, and to compare with null is to count."""
    if not re.search("business_day|null", str(expr)) or python_function(expr):
        return expr
    none = tree_of(pl.lit([], dtype=pl.List(pl.Date)))

    def changed(tree: Tree) -> Tree:
        match tree:
            case {"Function": {"input": [*parts, {"Literal": {"Series": _}}], "function": {"Business": name}}}:
                return {"Function": {"input": [*map(changed, parts), none], "function": {"Business": name}}}
            case {"BinaryExpr": _} | {"Function": {"function": {"Boolean": {"IsBetween": _}}}}:
                parts = [changed(part) for part in children(tree)]
                known = [expression(part).is_null() for part in parts if not _is_null(part)]
                nulls = len(known) < len(parts)
                return tree_of(pl.any_horizontal(True, *known)) if nulls else with_children(tree, parts)
        return rewrite(tree, changed)

    return expression(changed(tree_of(expr)))


def _is_null(tree: Tree) -> bool:
    """Whether a node is a null that was written, of any type."""
    match unaliased(tree):
        case {"Literal": {"Scalar": "Null" | {"Null": _}}}:
            return True
        case {"Cast": {"expr": part}}:
            return _is_null(part)
    return False


def _is_separable(expr: pl.Expr, frame: pl.LazyFrame) -> bool:
    """Whether Polars would filter first and compute the expression afterwards: then no filter stands on top."""
    pushed = pl.QueryOptFlags.none(predicate_pushdown=True)
    plan = frame.with_columns(expr.alias(_ROW)).filter(_KEEP).explain(optimizations=pushed)
    return plan.lstrip().startswith("WITH_COLUMNS")


def _culprit(expr: pl.Expr, frame: pl.LazyFrame) -> pl.Expr:
    """The innermost part that is not row-wise."""
    called = _called(expr)
    for part in () if called in ("over", "rolling") else reversed(expr.meta.pop()):
        try:
            if not (called and part.meta.is_literal()) and not _is_separable(part, frame):
                return _culprit(part, frame)
        except pl.exceptions.PolarsError:  # a part that means nothing alone, such as `element()`
            continue
    return expr


_ORDERED = (
    *("cum_", "cumulative_eval", "diff", "ewm_", "fill_null_with_strategy", "interpolate"),
    *("pct_change", "peak_", "rle", "rolling", "shift"),
)
_RESIZING = {
    *("bottom_k", "drop_nans", "drop_nulls", "explode", "filter", "gather"),
    *("gather_every", "slice", "top_k", "unique"),
}


GUESSES = "guesses the format from the first rows, unless it says format="


def reason(expr: pl.Expr) -> str:
    """What the outermost call of an expression, which is not row-wise, looks at."""
    called, shown = _called(expr), call(expr)
    if expr.meta.is_literal():
        return "a Series is matched to rows by position, which the rows of a stream do not have"
    if called == "python_udf":
        return f"{shown} may look at all rows, unless it says is_elementwise=True"
    if called == "over":
        return f"{shown} looks at all rows of its partition"
    if called == "str.strptime":
        return f"{shown} {GUESSES}"
    if called in ("sample", "shuffle"):
        return f"{shown} gives another answer each time it runs"
    if called.startswith(_ORDERED):
        return f"{shown} needs the rows before or behind each row"
    if called.rpartition(".")[2] in _RESIZING:
        return f"{shown} changes the number of rows"
    return f"{shown} looks at all rows"


# ---------------------------------------------------------------------------------------- canonical
_LONGEST = 200  # signs of a list of values; longer ones are told apart by their digest


def canonical(expr: pl.Expr) -> str:
    """A text that is equal for equal expressions over restarts, whatever the name of the result.

    Every option and every value of a literal is part of it. A Python function cannot be looked into: an
    expression that holds one is known by its calls and by what they read.
    """
    if python_function(expr):
        parts = ", ".join(canonical(part) for part in reversed(expr.meta.pop()))
        return f"{_called(expr) or 'operator'}({parts})"
    return canonical_tree(unaliased(tree_of(expr)))


def canonical_tree(tree: Tree) -> str:
    """`canonical` of a tree."""
    match tree:
        case _ if (call := told(tree)) is not None:
            return call
        case {"Column": str(name)}:
            return f"col({json.dumps(name)})"
        case {"Literal": value}:
            return f"lit({_value(value)})"
        case {"Alias": [part, name]}:
            return f"{canonical_tree(part)}.alias({json.dumps(name)})"
        case {"BinaryExpr": {"left": left, "op": op, "right": right}}:
            return f"({canonical_tree(left)} {_snake(op)} {canonical_tree(right)})"
        case {"Function": {"input": inputs, "function": function}}:
            name = _snake(function) if isinstance(function, str) else _value(function)
            return f"{name}({', '.join(map(canonical_tree, inputs))})"
        case _:
            return _value(rewrite(tree, lambda part: _Written(canonical_tree(part))))


class _Written(str):
    """A text that is canonical already."""


def _value(value: Tree) -> str:
    match value:
        case _Written():
            return value
        case _ if (call := told(value)) is not None:
            return call
        case dict() if len(value) == 1:
            ((name, body),) = value.items()
            return f"{_snake(name)}[{_value(body)}]"
        case dict():
            return ", ".join(f"{name}={_value(body)}" for name, body in sorted(value.items()))
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case bytes() if len(value) == 16:
            return str(int.from_bytes(value, "big", signed=True))
        case bytes():
            return _series(value)
        case _:
            return json.dumps(value)


def _series(arrow: bytes) -> str:
    """Dtype and values of an Arrow stream; its bytes also hold flags and names that do not matter."""
    values = pl.read_ipc_stream(io.BytesIO(arrow)).to_series()
    text = repr(values.to_list())
    if len(text) > _LONGEST:
        text = f"{len(values)} values {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    return f"{values.dtype!r} {text}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
