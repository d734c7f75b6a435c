"""How far around its own row, in the order of event time, does an expression look?

It is taken apart from the inside: a call that looks along time reads a column of its own, which needs single rows only,
and gives one. What is left of the expression over those columns needs single rows, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import polars as pl

from unbounded.durations import fixed_nanoseconds, is_calendar, longest_milliseconds
from unbounded.errors import UnsupportedOperationError
from unbounded.expressions import call, canonical, columns_of, python_function, why_not_rowwise
from unbounded.trees import Tree, children, expression, kind, nodes, rewrite, tree_of, with_children

__all__ = ["Along", "Call", "Stage", "looks_along_time", "order_of", "taken_apart"]

_CLOCK_CHANGE: Final = 7_200_000  # ms by which days may differ from 24 h, in any zone


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
            case _ if _function(tree)[0] in _LOOKS:
                return self._without_order(tree)
        return rewrite(tree, self._outside)

    def _over(self, tree: Tree, body: Mapping[str, Tree]) -> Tree:
        keys = tuple(one for one in map(expression, body["partition_by"]) if columns_of(one))
        order = body["order_by"]
        if order is not None and order[1]["descending"]:
            return self._refuse(
                tree, "over(descending=True)" + _FUTURE, "over(...) without descending=, which looks back"
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
        name, options = _function(tree)
        if kind(tree) == "Over":
            return self._refuse(tree, "over(...) within over(...) has two orders", "with_columns(...) for each")
        if order_of(tree) is not None:
            return self._window(tree, scope)
        if name not in _LOOKS or options in ("Zero", "One"):  # a null becomes a number, whatever is around it
            return rewrite(tree, partial(self._inside, scope=scope))
        if not scope.in_order:
            return self._without_order(tree)
        value, *others = children(tree)
        try:
            rows = _LOOKS[name](options, *map(_literal, others))
        except _NotBehindError as error:
            return self._refuse(tree, call(expression(tree)) + error.because, error.instead)
        return self._before(tree, self._inside(value, scope), scope, rows)

    # Calls ----------------------------------------------------------------------------------------
    def _before(self, tree: Tree, value: Tree, scope: _Scope, rows: int | None) -> Tree:
        """What a call gives that looks at so many rows before its own; None if it carries what it gave on."""
        name, expr = _function(tree)[0], expression(value)
        others = children(tree)[1:]
        if name == "PctChange":  # against the last value that there was so many rows before
            filled = self._before(tree_of(expr.forward_fill()), value, scope, None)
            shifted = with_children(tree_of(expr.shift(1)), [value, *others])
            dtype = self._dtype(expr.pct_change())
            before = expression(self._before(shifted, filled, scope, rows)).cast(dtype)
            return tree_of((expr.cast(dtype) - before) / before)
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
                period, offset = _duration(body["period"]), _duration(body["offset"])
                stretch = _stretch(period, offset)
                if stretch is None:
                    why = f"rolling(period={period!r}, offset={offset!r}) ends at no fixed length from its row"
                    return self._refuse(tree, why, "a period and an offset in days or less, or no offset")
                reach, ahead = stretch
                reads = {name: self._reading(pl.col(name)) for name in sorted(columns_of(expression(body["function"])))}
                renamed = _renamed(body["function"], {name: column for name, (column, _) in reads.items()})
                self.ahead = max(self.ahead, ahead)
                look = _Look(scope.keys, reach=reach, ahead=ahead > 0)
                return self._note({"Rolling": {**body, "function": renamed}}, list(reads.values()), look)
            case {"Function": {"input": [value, by], "function": {"RollingExprBy": {"options": options}}}}:
                read = self._reading(expression(self._inside(value, scope)))
                look = _Look(scope.keys, reach=longest_milliseconds(_duration(options["window_size"])))
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
        if turn > 1 and look.ahead:
            return self._refuse(
                made,
                "a window that ends behind its row looks at what its rows see behind them",
                "with_columns(...) of what looks back first, then another one of the window",
            )
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
        if not self.refused and (why := why_not_rowwise(expr, self._schema)) is not None:
            self._refuse(
                expr,
                f"{why}, and would change again with each later one",
                f'what looks back: {_BACK}, or rolling_sum_by({self._time!r}, window_size="1h") and its like',
            )

    def _without_order(self, tree: Tree) -> Tree:
        return self._refuse(
            tree,
            f"{call(expression(tree))} looks at the rows before, and it is not said in which order they are",
            f"over(key, order_by={self._time!r}) behind it, or over(order_by={self._time!r}) without a key",
        )


def _function(tree: Tree) -> tuple[str, Any]:
    """The name and the options of a function; ("", None) of another node."""
    match tree:
        case {"Function": {"function": str(name)}}:
            return name, None
        case {"Function": {"function": dict(body)}} if len(body) == 1:
            return next(iter(body.items()))
    return "", None


def _renamed(tree: Tree, names: Mapping[str, str]) -> Tree:
    """A node over other columns; under their own names, which may become those of fields."""
    match tree:
        case {"Column": str(name)}:
            return {"Alias": [{"Column": names[name]}, name]}
    return rewrite(tree, partial(_renamed, names=names))


# ---------------------------------------------------------------------------------------- how far?
class _NotBehindError(Exception):
    """A call needs other rows than those before its own."""

    def __init__(self, because: str, instead: str) -> None:
        self.because, self.instead = because, instead


_FUTURE: Final = " needs rows that have not come yet"
_BACK: Final = "shift(1), diff(), cum_sum(), forward_fill()"
_OTHER: Final = object()


def _number(options: Any, n: object, *fill: object) -> int:
    """Of `shift(n)`, `diff(n)` and `pct_change(n)`."""
    if options == "Drop":
        raise _NotBehindError(' with null_behavior="drop" leaves out rows', 'null_behavior="ignore"')
    if not isinstance(n, int) or _OTHER in fill:
        raise _NotBehindError(" by an expression may look at any row", "a number")
    if n < 0:
        raise _NotBehindError(f" by {n}{_FUTURE}", f"what looks back: {_BACK}")
    return n


def _all_before(options: Any, *_: object) -> None:
    if options["reverse"]:
        raise _NotBehindError(f" with reverse=True{_FUTURE}", f"what looks back: {_BACK}")


def _filled(options: Any, *_: object) -> int | None:
    match options:
        case {"Forward": limit}:
            return None if limit is None else int(limit)
        case {"Backward": _}:
            raise _NotBehindError(f" backward{_FUTURE}", "forward_fill()")
    raise _NotBehindError(" looks at all rows of its key", "forward_fill()")


def _in_window(options: Any, *_: object) -> int:
    if options["options"]["center"]:
        raise _NotBehindError(f" with center=True{_FUTURE}", "center=False")
    return int(options["options"]["window_size"]) - 1


def _never(because: str, instead: str) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise _NotBehindError(because, instead)

    return refuse


_LOOKS: Final[Mapping[str, Callable[..., int | None]]] = {
    **dict.fromkeys(("Shift", "ShiftAndFill", "Diff", "PctChange"), _number),
    **dict.fromkeys(("CumSum", "CumProd", "CumMin", "CumMax", "CumCount"), _all_before),
    "FillNullWithStrategy": _filled,
    "RollingExpr": _in_window,
    **dict.fromkeys(("Reverse", "Interpolate", "InterpolateBy"), _never(_FUTURE, f"what looks back: {_BACK}")),
    **dict.fromkeys(
        ("EwmMean", "EwmStd", "EwmVar", "EwmSum", "EwmMeanBy", "EwmSumBy"),
        _never(" is not built yet", 'a mean of the last while, rolling_mean_by("time", window_size="1h")'),
    ),
}
"""At how many rows before its own a call looks, by its options and arguments; None if what it gave last tells all."""


def _literal(tree: Tree) -> object:
    """The value of an argument that is none of the frame's; `_OTHER` for an expression over its columns."""
    return pl.select(expression(tree)).item() if kind(tree) in ("Literal", "Cast") else _OTHER


def _duration(parts: Mapping[str, Any]) -> str:
    """A length of time out of a tree, in Polars' grammar."""
    length = "".join(f"{parts[name]}{unit}" for name, unit in _UNITS.items() if parts[name]) or "0ns"
    return f"-{length}" if parts["negative"] else length


_UNITS: Final = {"months": "mo", "weeks": "w", "days": "d", "nsecs": "ns"}


def _stretch(period: str, offset: str) -> tuple[int, int] | None:
    """How many ms before its row a window begins, and how many behind it ends, at least; None if that is not fixed."""
    if offset == f"-{period}":
        return longest_milliseconds(period), 0
    length, first = fixed_nanoseconds(period), fixed_nanoseconds(offset)
    if length is None or first is None:
        return None
    slack = _CLOCK_CHANGE if is_calendar(period) or is_calendar(offset) else 0
    return -(first // 1_000_000) + slack, max(0, -(-(length + first) // 1_000_000) + slack)
