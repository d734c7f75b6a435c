"""Which inputs of aggregates are computed beforehand, because a Python function stands in them and cannot be read?

The tree of an expression with a Python function cannot be written out and rewritten. So the row-wise part that holds
the function becomes a column, and what stands above it is built again over that column, as far as it has no options.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

from unbounded.errors import UnsupportedOperationError
from unbounded.expressions import call, canonical, python_function, why_not_rowwise

__all__ = ["Computed"]

_METHODS: Final = {
    *("bitwise_and", "bitwise_or", "bitwise_xor", "bottom_k", "count", "drop_nans", "drop_nulls", "filter", "first"),
    *("has_nulls", "implode", "last", "len", "max", "max_by", "mean", "median", "min", "min_by", "n_unique", "nan_max"),
    *("nan_min", "null_count", "product", "sum", "top_k", "unique"),
}
"""What takes expressions alone, so that the same call over other expressions can be made from its name."""

_OPERATORS: Final[Mapping[str, Callable[[pl.Expr, pl.Expr], pl.Expr]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Computed:
    """The columns to compute beforehand, over rows of `schema`; mutable, for `over_columns` adds to it."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self._rows = pl.LazyFrame(schema=schema)
        self._schema = schema
        self.columns: list[pl.Expr] = []

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """The schema of the rows with these columns."""
        return self._rows.with_columns(self.columns).collect_schema() if self.columns else self._schema

    def over_columns(self, expr: pl.Expr) -> pl.Expr:
        """The expression with its Python functions in columns of their own.

        Raises UnsupportedOperationError where that cannot be done.
        """
        if not python_function(expr):
            return expr
        return self._built(expr, expr).alias(expr.meta.output_name())

    def _built(self, part: pl.Expr, expr: pl.Expr) -> pl.Expr:
        if not python_function(part):
            return part
        if (why := why_not_rowwise(part, self._schema)) is None:
            name = f"__{len(self.columns)} {canonical(part)}__"
            self.columns.append(part.alias(name))
            return pl.col(name)
        below = part.meta.pop()[::-1]
        if (again := _again(part, below)) is None:
            raise self._refused(part, below, expr, why)
        return again([self._built(one, expr) for one in below])

    def _refused(self, part: pl.Expr, below: list[pl.Expr], expr: pl.Expr, why: str) -> UnsupportedOperationError:
        instead = "compute a column with with_columns(...) first, then aggregate that column"
        if any(map(python_function, below)):
            why = f"a Python function stands below {call(part)}, whose options cannot be read then"
        elif any(why_not_rowwise(one, self._schema) for one in below):
            why = "what a Python function makes of an aggregate cannot be read"
            instead = "call it on the answer: .agg(...).with_columns(...)"
        return UnsupportedOperationError(f"{expr}", because=why, instead=instead)


def _again(part: pl.Expr, below: list[pl.Expr]) -> Callable[[list[pl.Expr]], pl.Expr] | None:
    """How to make the outermost call of an expression over other inputs; None if its text does not tell all of it."""
    texts, whole = [str(one) for one in below], str(part)
    if len(texts) == 2 and (
        found := re.fullmatch(rf"\[\({re.escape(texts[0])}\) (\S+) \({re.escape(texts[1])}\)\]", whole)
    ):
        operation = _OPERATORS.get(found[1])
        return None if operation is None else lambda inputs: operation(*inputs)
    name = re.match(r"\.(\w+)\(", whole.removeprefix(texts[0])) if texts else None
    if name is None:
        return None
    if name[1] == "alias":
        return lambda inputs: inputs[0]
    for ending in ("_ignore_nulls", "_non_null"):  # any(), all(); first(ignore_nulls=True), last(ignore_nulls=True)
        if name[1].endswith(ending):
            method = name[1].removesuffix(ending)
            return lambda inputs: getattr(inputs[0], method)(ignore_nulls=True)
    if name[1] not in _METHODS:
        return None
    return lambda inputs: getattr(inputs[0], name[1])(*inputs[1:])
