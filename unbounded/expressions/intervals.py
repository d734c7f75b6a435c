"""How far apart may the times of two rows be, if a predicate over both is to hold?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from unbounded.durations import fixed_nanoseconds, is_calendar
from unbounded.expressions import python_function
from unbounded.expressions.trees import Tree, tree_of, unaliased

__all__ = ["Within", "within"]

_NANOSECONDS: Final = {"ns": 1, "us": 1_000, "ms": 1_000_000}
_UNITS: Final = {"Nanoseconds": "ns", "Microseconds": "us", "Milliseconds": "ms"}
_DAY: Final = 86_400_000_000_000


@dataclass(frozen=True)
class Within:
    """Both columns are there, and `later` is at most `nanoseconds` after `earlier`, or, if `strict`, less than that.

    A negative number says how long before `earlier` it must be at least.
    """

    later: str
    earlier: str
    nanoseconds: int
    strict: bool = False


def within(predicate: pl.Expr, schema: Mapping[str, pl.DataType]) -> tuple[Within, ...]:
    """What must hold of two times wherever a predicate does; nothing where it says nothing of them.

    Read are comparisons of sums of Datetime or Date columns, Duration literals and `dt.offset_by` of fixed lengths,
    `is_between`, and `abs()` of a difference. Where Polars rounds such a sum, the answer is a little wider.
    """
    if python_function(predicate):
        return ()
    match unaliased(tree_of(predicate)):
        case {"BinaryExpr": {"op": str(op), "left": left, "right": right}}:
            return _compared(left, op, right, schema)
        case {"Function": {"function": {"Boolean": {"IsBetween": {"closed": str(closed)}}}, "input": [x, low, high]}}:
            above = "GtEq" if closed in ("Both", "Left") else "Gt"
            below = "LtEq" if closed in ("Both", "Right") else "Lt"
            # Polars compares all three in one unit.
            sums = [_sum(one, schema) for one in (x, low, high)]
            beside = frozenset[str]().union(*({"ms"} if one is None else one.own_units | one.units for one in sums))
            return _compared(x, above, low, schema, beside) + _compared(x, below, high, schema, beside)
    return ()


_FLIPPED: Final = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq"}


def _compared(
    left: Tree, op: str, right: Tree, schema: Mapping[str, pl.DataType], beside: frozenset[str] = frozenset()
) -> tuple[Within, ...]:
    match op, unaliased(left), unaliased(right):
        case "Eq", _, _:
            return _compared(left, "LtEq", right, schema) + _compared(left, "GtEq", right, schema)
        case "Gt" | "GtEq", _, _:
            return _compared(right, _FLIPPED[op], left, schema, beside)
        case "Lt" | "LtEq", {"Function": {"function": "Abs", "input": [inner]}}, _:
            negative = {"Function": {"function": "Negate", "input": [right]}}
            return _compared(inner, op, right, schema) + _compared(negative, op, inner, schema)
        case "Lt" | "LtEq", _, _:
            less, more = _sum(left, schema), _sum(right, schema)
            found = None if less is None or more is None else (less - more).within(beside, strict=op == "Lt")
            return () if found is None else (found,)
    return ()


@dataclass(frozen=True)
class _Sum:
    """Columns, each so many times, and a length, of so many `parts`.

    `own_units` are those of the columns, `units` those of lengths; `dates` says that a column is a Date.
    """

    columns: Mapping[str, int]
    nanoseconds: int
    own_units: frozenset[str]
    units: frozenset[str]
    dates: bool = False
    parts: int = 1

    def __add__(self, other: _Sum) -> _Sum:
        names = {**self.columns, **other.columns}
        columns = {name: self.columns.get(name, 0) + other.columns.get(name, 0) for name in names}
        return _Sum(
            {name: times for name, times in columns.items() if times},
            self.nanoseconds + other.nanoseconds,
            self.own_units | other.own_units,
            self.units | other.units,
            self.dates or other.dates,
            self.parts + other.parts,
        )

    def __neg__(self) -> _Sum:
        negative = {name: -times for name, times in self.columns.items()}
        return replace(self, columns=negative, nanoseconds=-self.nanoseconds)

    def __sub__(self, other: _Sum) -> _Sum:
        return self + -other

    def within(self, beside: frozenset[str], *, strict: bool) -> Within | None:
        """What it means that this is at most zero, where Polars computes in these units, too."""
        if sorted(self.columns.values()) != [-1, 1] or (self.dates and self.nanoseconds % _DAY):
            return None
        ((earlier, _), (later, _)) = sorted(self.columns.items(), key=lambda one: one[1])
        # Polars computes in the coarsest unit, and of each part it cuts off what is finer.
        coarsest = max(_NANOSECONDS[unit] for unit in self.own_units | self.units | beside)
        own = {_NANOSECONDS[unit] for unit in self.own_units}
        if own == {coarsest} and self.nanoseconds % coarsest == 0:
            return Within(later, earlier, -self.nanoseconds, strict)
        return Within(later, earlier, -self.nanoseconds + self.parts * coarsest)


def _sum(tree: Tree, schema: Mapping[str, pl.DataType]) -> _Sum | None:
    match unaliased(tree):
        case {"Column": str(name)}:
            dtype = schema.get(name)
            if isinstance(dtype, pl.Datetime):
                return _Sum({name: 1}, 0, frozenset({dtype.time_unit}), frozenset())
            return _Sum({name: 1}, 0, frozenset({"ms"}), frozenset(), dates=True) if dtype == pl.Date else None
        case {"Literal": {"Scalar": {"Duration": [int(length), str(unit)]}}}:
            unit = _UNITS[unit]
            return _Sum({}, length * _NANOSECONDS[unit], frozenset(), frozenset({unit}))
        case {"BinaryExpr": {"op": "Plus" | "Minus" as op, "left": left, "right": right}}:
            first, second = _sum(left, schema), _sum(right, schema)
            if first is None or second is None:
                return None
            return first + second if op == "Plus" else first - second
        case {"Function": {"function": "Negate", "input": [part]}}:
            inner = _sum(part, schema)
            return None if inner is None else -inner
        case {
            "Function": {
                "function": {"TemporalExpr": "OffsetBy"},
                "input": [part, {"Literal": {"Scalar": {"String": str(length)}}}],
            }
        }:
            return _offset(_sum(part, schema), length, schema)
    return None


def _offset(inner: _Sum | None, length: str, schema: Mapping[str, pl.DataType]) -> _Sum | None:
    """A sum and a length, if that is the same everywhere: days are not where the clocks change."""
    nanoseconds = fixed_nanoseconds(length)
    if inner is None or nanoseconds is None:
        return None
    zones = {getattr(schema[name], "time_zone", None) for name in inner.columns}
    if is_calendar(length) and not zones <= {None, "UTC"}:
        return None
    return inner + _Sum({}, nanoseconds, frozenset(), frozenset())
