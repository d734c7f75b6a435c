"""How far around its own row, in the order of event time, does an expression look?

It is taken apart from the inside: a call that looks along time reads a column of its own, which needs single rows only,
and gives one. What is left of the expression over those columns needs single rows, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import polars as pl

from unbounded.durations import longest_milliseconds
from unbounded.errors import UnsupportedOperationError
from unbounded.expressions import call, canonical, columns_of, python_function, why_not_rowwise
from unbounded.expressions.reach import (
    BACK,
    FUTURE,
    NotBehindError,
    duration,
    function_of,
    looks_at_rows,
    rows_before,
    stretch_of,
)
from unbounded.expressions.trees import Tree, children, expression, kind, nodes, rewrite, tree_of, with_children

__all__ = ["Along", "Call", "Stage", "looks_along_time", "order_of", "taken_apart"]


@dataclass(frozen=True, eq=False)
class Call:
    """`expr`, over the columns `reads` and event time, gives the column `name` in rows of one key in order.

    What a `carried` call gives depends on all rows before, and all that is needed of these is what it gave last.
    """

    name: str
    reads: tuple[tuple[str, pl.Expr], ...]
    expr: pl.Expr
    carried: bool


@dataclass(frozen=True, eq=False)
class Stage:
    """Calls in the rows of the same `keys`, none of which reads what another gives.

    They look at so many `rows` before their own; or, where there is a `reach`, at those of so many milliseconds before,
    and with `ahead` also at rows behind their own.
    """

    keys: tuple[pl.Expr, ...]
    calls: tuple[Call, ...]
    rows: int
    reach: int | None
    ahead: bool


@dataclass(frozen=True, eq=False)
class Along:
    """Expressions over single rows, once the stages have added their columns, one after the other.

    All is known of a row when event time has come `ahead` milliseconds past it.
    """

    stages: tuple[Stage, ...]
    columns: tuple[pl.Expr, ...]
    ahead: int


def looks_along_time(expr: pl.Expr) -> bool:
    """Whether an expression says by which column rows are in order: over(order_by=), rolling_*_by() or rolling()."""
    return not python_function(expr) and any(order_of(node) is not None for node in nodes(tree_of(expr)))


def order_of(tree: Tree) -> Tree | None:
    """By what a node of an expression puts rows in order; None if it does not."""
    match tree:
        case {"Over": {"order_by": [by, _]}} | {"Rolling": {"index_column": by}}:
            return by
        case {"Function": {"input": [_, by], "function": {"RollingExprBy": _}}}:
            return by
    return None


def taken_apart(asked: str, exprs: Iterable[pl.Expr], schema: Mapping[str, pl.DataType], time: str) -> Along:
    """What it takes to compute `exprs` in rows that come in the order of `time`.

    UnsupportedOperationError with every reason why that cannot be done, for what was `asked`.
    """
    reading = _Reading(schema, time)
    columns = tuple(map(reading.read, exprs))
    if reading.refused:
        raise UnsupportedOperationError(
            f"{asked} with such an expression",
            because="; and ".join(reading.refused),
            instead="; or ".join(dict.fromkeys(reading.refused.values())),
        )
    return Along(tuple(reading.stages()), columns, reading.ahead)


@dataclass(frozen=True)
class _Scope:
    """The rows in which a call is made: those of the same `keys`, said to be in order or not."""

    keys: tuple[pl.Expr, ...] = ()
    in_order: bool = False


@dataclass(frozen=True)
class _Look:
    """How far a call looks, in which rows, and behind how many others it has its `turn`."""

    keys: tuple[pl.Expr, ...]
    rows: int = 0
    reach: int | None = None
    ahead: bool = False
    carried: bool = False
    turn: int = 1

    @property
    def stage(self) -> tuple[object, ...]:
        """Calls with the same one are made together."""
        return self.turn, self.reach is None, self.ahead, *map(canonical, self.keys)


class _Reading:
    """Takes expressions apart. Mutable: it collects calls, and what is refused with what to write instead."""

    def __init__(self, schema: Mapping[str, pl.DataType], time: str) -> None:
        self._schema, self._time = dict(schema), time
        self._calls: list[tuple[_Look, Call]] = []
        self._turns: dict[str, int] = {}  # of the columns that calls give
        self._number = 0
        self.refused: dict[str, str] = {}
        self.ahead = 0

    def read(self, expr: pl.Expr) -> pl.Expr:
        """The expression over single rows, with the columns of the calls that look at others."""
        if not looks_along_time(expr):
            self._check(expr)
            return expr
        found = expression(self._outside(tree_of(expr)))
        self._check(found)
        return found.alias(expr.meta.output_name())

    def stages(self) -> Iterable[Stage]:
        """The calls, together as far as none waits for another."""
        found: dict[tuple[object, ...], list[tuple[_Look, Call]]] = {}
        for look, one in sorted(self._calls, key=lambda noted: noted[0].turn):
            found.setdefault(look.stage, []).append((look, one))
        for looks, calls in (zip(*together, strict=True) for together in found.values()):
            reach = None if looks[0].reach is None else max(look.reach or 0 for look in looks)
            yield Stage(looks[0].keys, tuple(calls), max(look.rows for look in looks), reach, looks[0].ahead)

    # The shape of an expression -------------------------------------------------------------------
    def _outside(self, tree: Tree) -> Tree:
        """A node that stands in no `over`."""
        match tree:
            case {"Over": body}:
                return self._over(tree, body)
            case _ if order_of(tree) is not None:
                return self._window(tree, _Scope())
            case _ if looks_at_rows(tree):
                return self._without_order(tree)
        return rewrite(tree, self._outside)

    def _over(self, tree: Tree, body: Mapping[str, Tree]) -> Tree:
        keys = tuple(one for one in map(expression, body["partition_by"]) if columns_of(one))
        order = body["order_by"]
        if order is not None and order[1]["descending"]:
            return self._refuse(
                tree, f"over(descending=True) {FUTURE}", "over(...) without descending=, which looks back"
            )
        if body["mapping"] != "GroupsToRows":
            return self._refuse(tree, "over(mapping_strategy=...) makes other rows", "over(...) without it")
        for key in keys:
            self._check(key)
        inside = self._inside(body["function"], _Scope(keys, order is not None))
        self._check(expression(inside))
        return inside

    def _inside(self, tree: Tree, scope: _Scope) -> Tree:
        """A node within an `over`."""
        if kind(tree) == "Over":
            return self._refuse(tree, "over(...) within over(...) has two orders", "with_columns(...) for each")
        if order_of(tree) is not None:
            return self._window(tree, scope)
        if not looks_at_rows(tree):
            return rewrite(tree, partial(self._inside, scope=scope))
        if not scope.in_order:
            return self._without_order(tree)
        if not columns_of(expression(children(tree)[0])):
            why = f"{call(expression(tree))} of a literal, which has no rows, is the same for all"
            return self._refuse(tree, why, f"a column, such as pl.col({self._time!r}).cum_count() to number rows")
        try:
            rows = rows_before(tree)
        except NotBehindError as error:
            return self._refuse(tree, f"{call(expression(tree))} {error.because}", error.instead)
        return self._before(tree, self._inside(children(tree)[0], scope), scope, rows)

    # Calls ----------------------------------------------------------------------------------------
    def _before(self, tree: Tree, value: Tree, scope: _Scope, rows: int | None) -> Tree:
        """What a call gives that looks at so many rows before its own; None if it carries what it gave on."""
        name, expr = function_of(tree), expression(value)
        others = children(tree)[1:]
        if name == "CumCount" or (name == "CumSum" and self._dtype(expr) == pl.Boolean):
            # In 64 bits, for it goes on from what was counted before; more than 32 bits hold are an error by name.
            counted = expr.is_not_null() if name == "CumCount" else expr
            sum_ = self._before(tree_of(expr.cum_sum()), tree_of(counted.cast(pl.Int64)), scope, None)
            return tree_of(expression(sum_).cast(pl.UInt32))
        if rows is None:  # what it gave, which it will read in place of all before, may be wider
            expr = expr.cast(self._dtype(expression(with_children(tree, [value, *others]))))
        reads = self._reading(expr)
        made = with_children(tree, [{"Column": reads[0]}, *others])
        return self._note(made, [reads], _Look(scope.keys, rows=rows or 1, carried=rows is None))

    def _window(self, tree: Tree, scope: _Scope) -> Tree:
        """What a call gives that looks at the rows in a stretch of time around its own."""
        match tree:
            case {"Rolling": body}:
                if any(kind(one) == "Over" or order_of(one) is not None for one in nodes(body["function"])):
                    why = "rolling(...) of what looks at other rows has two orders"
                    return self._refuse(tree, why, "with_columns(...) for each")
                if (stretch := stretch_of(body)) is None:
                    why = "a window of months with an offset ends at no fixed length from its row"
                    return self._refuse(tree, why, "a period and an offset in days or less, or no offset")
                reach, ahead = stretch
                reads = {name: self._reading(pl.col(name)) for name in sorted(columns_of(expression(body["function"])))}
                renamed = _renamed(body["function"], {name: column for name, (column, _) in reads.items()})
                self.ahead = max(self.ahead, ahead)
                look = _Look(scope.keys, reach=reach, ahead=ahead > 0)
                return self._note({"Rolling": {**body, "function": renamed}}, list(reads.values()), look)
            case {"Function": {"input": [value, by], "function": {"RollingExprBy": {"options": options}}}}:
                read = self._reading(expression(self._inside(value, scope)))
                look = _Look(scope.keys, reach=longest_milliseconds(duration(options["window_size"])))
                return self._note(with_children(tree, [{"Column": read[0]}, by]), [read], look)
        raise AssertionError(tree)

    def _reading(self, expr: pl.Expr) -> tuple[str, pl.Expr]:
        """A column for what a call reads."""
        self._check(expr)
        return self._column("in", expr), expr

    def _note(self, made: Tree, reads: list[tuple[str, pl.Expr]], look: _Look) -> Tree:
        """The column of what a call gives."""
        if self.refused:
            return made
        before = [self._turns.get(name, 0) for _, expr in reads for name in columns_of(expr)]
        turn = 1 + max(before, default=0)
        name = self._column("out", expression(made))
        self._turns[name] = turn
        self._calls.append(
            (replace(look, turn=turn), Call(name, tuple(reads), expression(made).alias(name), look.carried))
        )
        return {"Column": name}

    def _column(self, kind: str, expr: pl.Expr) -> str:
        self._number += 1
        name = f"__{kind}{self._number}__"
        self._schema[name] = self._dtype(expr)
        return name

    def _dtype(self, expr: pl.Expr) -> pl.DataType:
        (dtype,) = pl.LazyFrame(schema=self._schema).select(expr.alias("__expr__")).collect_schema().dtypes()
        return dtype

    # What cannot be kept --------------------------------------------------------------------------
    def _refuse(self, tree: Tree, because: str, instead: str) -> Tree:
        self.refused.setdefault(because, instead)
        return tree

    def _check(self, expr: pl.Expr) -> None:
        """Refuse an expression that looks at other rows than its own; what looks along time has been taken out."""
        if self.refused or (why := why_not_rowwise(expr, self._schema)) is None:
            return
        if python_function(expr):
            self._refuse(
                expr,
                f"{call(expr)} hides a Python function, and how far it looks",
                "Polars' own expressions there, and the function in a with_columns(...) of its own",
            )
        else:
            later = ", and would change again with each later one" if why.endswith("all rows") else ""
            window = f'rolling_sum_by({self._time!r}, window_size="1h") and its like'
            self._refuse(expr, why + later, f"what looks back: {BACK}, or {window}")

    def _without_order(self, tree: Tree) -> Tree:
        return self._refuse(
            tree,
            f"{call(expression(tree))} looks at the rows before, and it is not said in which order they are",
            f"over(key, order_by={self._time!r}) behind it, or over(order_by={self._time!r}) without a key",
        )


def _renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    """A node over other columns; under their own names, which may become those of fields."""
    match tree:
        case {"Column": str(name)}:
            return {"Alias": [{"Column": names[name]}, name]}
    return rewrite(tree, partial(_renamed, names=names))
