"""What is one aggregate of a query, and which columns of state hold its partial answer?

State dtypes are wider than Polars' results: counts are Int64, sums of floats are Float64. The value is
cast strictly to the dtype that Polars gives, so that a count beyond it is an error and never wraps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import polars as pl

from unbounded.errors import CountOverflowError
from unbounded.expressions import passes
from unbounded.expressions.trees import Tree, expression, kind, rewrite, tree_of, unaliased

__all__ = [
    "COUNT",
    "VALUE",
    "Aggregated",
    "Leaf",
    "StateColumn",
    "StateColumns",
    "Use",
    "Values",
    "overflow",
    "widened",
]

VALUE: Final = "value"
COUNT: Final = "count"

Use: TypeAlias = Literal["values", "counts"]
"""What a finish reads of values kept per key: a list of them, or a list of structs of VALUE and COUNT."""


@dataclass(frozen=True, eq=False)
class Values:
    """Values per key, kept in tables of their own; the state column `name` says how many there are, in an Int64.

    They are the values of all rows, in order of arrival, if `every`; else the distinct ones, in order of appearance.
    `value` may filter, so evaluate it where an aggregate stands: `group_by(key).agg(value.unique())`. For each of
    `uses` the finish reads a column of lists, `listed(use)`; without any, the number is all that is asked for.
    """

    name: str
    value: pl.Expr
    dtype: pl.DataType
    every: bool
    uses: frozenset[Use]

    def __str__(self) -> str:
        name = passes(self.value)
        return f"{'row' if self.every else 'distinct value'} of {self.value if name is None else repr(name)}"

    def listed(self, use: Use) -> str:
        """The name of a column of lists."""
        return f"{self.name}_{use}"

    @property
    def lists(self) -> pl.Schema:
        """The columns of lists."""
        of = {"values": self.dtype, "counts": pl.Struct({VALUE: self.dtype, COUNT: pl.Int64})}
        return pl.Schema({self.listed(use): pl.List(of[use]) for use in sorted(self.uses)})


@dataclass(frozen=True, eq=False)
class StateColumn:
    """One column of state; `text` says what it holds, equal over restarts; without a partial it counts `Values`."""

    name: str
    text: str
    partial: pl.Expr | None
    merge: pl.Expr


class StateColumns:
    """The state columns needed so far, over rows of `schema`; mutable, because aggregates share them.

    `whole` are the aggregates themselves, as Polars computes them over all rows; `ordered` says whether the order of
    rows matters to any of them.
    """

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self.schema = schema
        self.whole: list[pl.Expr] = []
        self.ordered = False
        self._columns: dict[str, StateColumn] = {}
        self._values: dict[str, Values] = {}
        self._opened: dict[str, tuple[pl.Expr, pl.DataType]] = {}
        self._together: dict[str, Mapping[str, pl.Expr]] = {}
        self._rows = pl.LazyFrame(schema=schema)

    def __iter__(self) -> Iterator[StateColumn]:
        return iter(self._columns.values())

    def column(
        self, text: str, partial: pl.Expr | None, merge: Callable[[pl.Expr], pl.Expr], *, ordered: bool = False
    ) -> pl.Expr:
        """The column that holds `text`, made on first use; `ordered` if the order of rows decides what it holds."""
        self.ordered |= ordered
        if text not in self._columns:
            name = f"__{len(self._columns)}"
            self._columns[text] = StateColumn(name, text, partial, merge(pl.col(name)))
        return pl.col(self._columns[text].name)

    def together(
        self, text: str, parts: Callable[[], tuple[Mapping[str, pl.Expr], Mapping[str, pl.Expr]]]
    ) -> Mapping[str, pl.Expr]:
        """Columns by name whose merges read one another under these names; `parts` gives partials and merges."""
        if text not in self._together:
            self.ordered = True  # who wrote them may count on it
            partial, merge = parts()
            names = {name: f"__{len(self._columns) + place}" for place, name in enumerate(partial)}
            for name, own in names.items():
                what = f"{name} of {text}"
                self._columns[what] = StateColumn(own, what, partial[name], _renamed(merge[name], names))
            self._together[text] = {name: pl.col(own) for name, own in names.items()}
        return self._together[text]

    def opened(self, text: str, column: pl.Expr, read: Callable[[pl.Series], pl.Series], dtype: pl.DataType) -> pl.Expr:
        """What a Python function reads out of a state column, for a finish, which cannot hold the function itself."""
        name = f"{column.meta.output_name()} {text}"
        self._opened[name] = column.map_batches(read, return_dtype=dtype, is_elementwise=True), dtype
        return pl.col(name)

    def values(self, text: str, value: pl.Expr, use: Use | None, *, every: bool = False) -> pl.Expr:
        """The list of values of a group that a finish reads, or without a use their number."""
        what = f"{'rows' if every else 'n_unique'} of {text}"
        number = self.column(what, None, pl.Expr.sum)
        name = number.meta.output_name()
        known = self._values.get(name)
        uses = (known.uses if known else frozenset()) | ({use} if use else set())
        (dtype,) = self.dtypes([value])
        self._values[name] = kept = Values(name, value, dtype, every, uses)
        return pl.col(kept.listed(use)) if use else number

    @property
    def kept(self) -> tuple[Values, ...]:
        """The values that are kept per key."""
        return tuple(self._values.values())

    def dtypes(self, exprs: Sequence[pl.Expr]) -> list[pl.DataType]:
        """What Polars makes of expressions over the rows."""
        named = [expr.alias(str(position)) for position, expr in enumerate(exprs)]
        return self._rows.select(named).collect_schema().dtypes()

    @property
    def openers(self) -> list[pl.Expr]:
        """What makes the columns of `opened` out of the state."""
        return [expr.alias(name) for name, (expr, _) in self._opened.items()]

    @property
    def beside(self) -> dict[str, pl.DataType]:
        """The columns that a finish reads beside those of the state: lists of values, and what was opened."""
        lists = {name: dtype for one in self.kept for name, dtype in one.lists.items()}
        return lists | {name: dtype for name, (_, dtype) in self._opened.items()}

    def held(self) -> pl.Schema:
        """The schema of the state, and of the columns beside it."""
        counted = pl.lit(0, pl.Int64)
        dtypes = self.dtypes([counted if one.partial is None else one.partial for one in self])
        return pl.Schema({**dict(zip((one.name for one in self), dtypes, strict=True)), **self.beside})


def widened(value: Tree) -> Tree:
    """A count in the 64 bits of the state, with its name, where a cast follows upon that to Polars' UInt32."""
    match unaliased(value):
        case {"Cast": {"expr": count, "dtype": {"Literal": "UInt32"}}}:
            return {"Alias": [count, expression(value).meta.output_name()]}
    return value


def overflow(error: pl.exceptions.InvalidOperationError) -> CountOverflowError | None:
    """The error by its name, if Polars raised it because a count of the state did not fit into UInt32."""
    found = re.search(r"`i64` to `u32` failed in column '(?:__\d+\D*)?' for .*?\[(\d+)", str(error))
    return CountOverflowError(int(found[1])) if found and int(found[1]) >= 2**32 else None


def _renamed(expr: pl.Expr, names: Mapping[str, str]) -> pl.Expr:
    """The expression over columns of other names."""

    def renamed(tree: Tree) -> Tree:
        return {"Column": names[tree["Column"]]} if kind(tree) == "Column" else rewrite(tree, renamed)

    return expression(renamed(tree_of(expr)))


@dataclass(frozen=True)
class Aggregated:
    """What a node of an expression aggregates: `function` of `inputs`, which are trees, with its `options`."""

    function: str
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Leaf:
    """One aggregate: `function` of `inputs`, whose dtypes are `of` and whose canonical forms are `texts`.

    `rows` says which rows the inputs have: "" is all of them. `options` are those of the aggregate, such as ddof.
    `whole` is the aggregate itself; Polars makes `dtype` of it, or a list of that if it `is_list`: several values per
    group, in a list in `agg`, and as rows in `select`.
    """

    function: str
    whole: pl.Expr
    dtype: pl.DataType
    is_list: bool
    inputs: tuple[pl.Expr, ...]
    of: tuple[pl.DataType, ...]
    texts: tuple[str, ...]
    rows: str
    options: Mapping[str, Any]
