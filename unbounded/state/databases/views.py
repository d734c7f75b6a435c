"""What do people see of a table of state in a database? A view under the user's names, where SQL can say the answer.

A column of the answer that SQL cannot say simply (a median, say) is not in the view; the parts of it are, as
`ub.read_state_metadata` names them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from unbounded.expressions import columns_of, python_function
from unbounded.expressions.trees import Tree, expression, tree_of, unaliased
from unbounded.state.databases.encoding import Held, quoted, sql_names
from unbounded.state.layered.cold import Layout

__all__ = ["view"]

_LEAST = 1e-280  # a total below it is shown as 0 when it is divided by a count, for then the quotient may be


def view(layout: Layout, table: str, columns: Mapping[str, str], held: Callable[[pl.DataType], Held]) -> str:
    """The SELECT of a view over `table`, in which a column of the layout is called as `columns` says; "" for nothing.

    It reads each row by itself, so a condition on the key finds its row as in the table.
    """
    says = _Says(layout.schema, {name: f"t.{quoted(sql)}" for name, sql in columns.items()})
    found: dict[str, str] = {}
    told: set[str] = set()
    for expr in layout.shown:
        said = None if python_function(expr) else says.value(tree_of(expr))
        if said is not None:
            found[expr.meta.output_name()] = held(said.dtype).shown.format(said.sql)
            told |= columns_of(expr)
    if len(found) < len(layout.shown):
        for name, text in zip(layout.values, layout.parts, strict=False):
            if name not in told and (said := says.value({"Column": name})) is not None:
                found.setdefault(_title(text), held(said.dtype).shown.format(said.sql))
    named = zip(found.values(), sql_names(list(found)), strict=True)
    return f"SELECT {', '.join(f'{sql} AS {quoted(name)}' for sql, name in named)} FROM {table} t" if found else ""


def _title(text: str) -> str:
    """What a part is, without its type: `float sum of v`."""
    return re.sub(r'col\("([^"]*)"\)', r"\1", text.rpartition(": ")[0] or text)


@dataclass(frozen=True)
class _Said:
    sql: str
    dtype: pl.DataType


class _Says:
    """Trees of Polars as SQL that gives the same value: no arithmetic that could fail there."""

    def __init__(self, schema: pl.Schema, columns: Mapping[str, str]) -> None:
        self._rows, self._columns = pl.LazyFrame(schema=schema), columns

    def value(self, tree: Tree) -> _Said | None:
        """A column, a mean or a variance, and either with another width."""
        match tree := unaliased(tree):
            case {"Column": name} if name in self._columns:
                return _Said(self._columns[name], self._dtype(tree))
            case {"Cast": {"expr": inner}}:
                said = self.value(inner)
                return None if said is None else self._cast(said, self._dtype(tree))
            case {
                "Ternary": {
                    "predicate": {"BinaryExpr": {"left": {"Column": count}, "op": "Gt", "right": least}},
                    "truthy": {"BinaryExpr": {"left": {"Column": total}, "op": "TrueDivide", "right": divisor}},
                    "falsy": {"Literal": {"Scalar": {"Null": _}}},
                }
            } if {count, total} <= self._columns.keys():
                return self._quotient(count, _whole(least), total, divisor)
        return None

    def _quotient(self, count: str, least: int | None, total: str, divisor: Tree) -> _Said | None:
        """`total / (count - less)` where `count > least`, so that nothing is divided by zero."""
        less: int | None = None
        match divisor:
            case {"Column": name} if name == count:
                less = 0
            case {"BinaryExpr": {"left": {"Column": name}, "op": "Minus", "right": right}} if name == count:
                less = _whole(right)
        if least is None or less is None or not 0 <= less <= least:
            return None
        if self._dtype({"Column": total}) != pl.Float64 or self._dtype({"Column": count}) != pl.Int64:
            return None
        number = self._columns[count]
        by, of = f"({number} - {less})" if less else number, self._columns[total]
        # PostgreSQL fails where a quotient becomes 0, and a view must not.
        quotient = f"CASE WHEN abs({of}) < {_LEAST} THEN 0 ELSE {of} / {by} END"
        return _Said(f"CASE WHEN {number} > {least} THEN {quotient} END", pl.Float64())

    def _cast(self, said: _Said, dtype: pl.DataType) -> _Said | None:
        """A strict cast between whole numbers changes none; one between floats rounds, and here nothing does."""
        both = (said.dtype.is_integer() and dtype.is_integer()) or (said.dtype.is_float() and dtype.is_float())
        return said if both or said.dtype == dtype else None

    def _dtype(self, tree: Tree) -> pl.DataType:
        (dtype,) = self._rows.select(expression(tree)).collect_schema().dtypes()
        return dtype


def _whole(tree: Tree) -> int | None:
    """A whole number that stands in an expression."""
    match tree:
        case {"Literal": {"Dyn": {"Int": bytes(number)}}}:
            return int.from_bytes(number, signed=True)
    return None
