"""How many rows before its own, or how much time around it, does one call of an expression look at?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import polars as pl

from unbounded.durations import fixed_nanoseconds, is_calendar, longest_milliseconds
from unbounded.expressions.trees import Tree, children, expression, kind

__all__ = [
    "BACK",
    "FUTURE",
    "NotBehindError",
    "duration",
    "function_of",
    "looks_at_rows",
    "rows_before",
    "stretch_of",
]

FUTURE: Final = "needs rows that have not come yet"

BACK: Final = "shift(1), diff(), cum_sum(), forward_fill()"
"""Examples of what looks back."""

_CLOCK_CHANGE: Final = 7_200_000  # ms by which days may differ from 24 h, in any zone
_OTHER: Final = object()


class NotBehindError(Exception):
    """A call needs other rows than those before its own: why, and what to write instead."""

    def __init__(self, because: str, instead: str = f"what looks back: {BACK}") -> None:
        self.because, self.instead = because, instead


def function_of(tree: Tree) -> str:
    """The name of a function; "" of another node."""
    return _function(tree)[0]


def looks_at_rows(tree: Tree) -> bool:
    """Whether a node is a call that looks at rows before or behind its own, in the order in which they lie."""
    name, options = _function(tree)
    return name in _LOOKS and options not in ("Zero", "One")  # a null becomes a number, whatever is around it


def rows_before(tree: Tree) -> int | None:
    """At how many rows before its own such a call looks; None if at all of them, of which what it gave last tells all.

    Raises NotBehindError.
    """
    name, options = _function(tree)
    return _LOOKS[name](options, *map(_literal, children(tree)[1:]))


def _function(tree: Tree) -> tuple[str, Any]:
    match tree:
        case {"Function": {"function": str(name)}}:
            return name, None
        case {"Function": {"function": dict(body)}} if len(body) == 1:
            return next(iter(body.items()))
    return "", None


def _literal(tree: Tree) -> object:
    """The value of an argument; `_OTHER` of an expression over columns."""
    return pl.select(expression(tree)).item() if kind(tree) in ("Literal", "Cast") else _OTHER


def _number(options: Any, n: object, *fill: object) -> int:
    """Of `shift(n)`, `diff(n)` and `pct_change(n)`."""
    if options == "Drop":
        raise NotBehindError('with null_behavior="drop" leaves out rows', 'null_behavior="ignore"')
    if not isinstance(n, int) or _OTHER in fill:
        raise NotBehindError("by an expression may look at any row", "a number")
    if n < 0:
        raise NotBehindError(f"by {n} {FUTURE}")
    return n


def _all_before(options: Any) -> None:
    if options["reverse"]:
        raise NotBehindError(f"with reverse=True {FUTURE}")


def _filled(options: Any) -> int | None:
    match options:
        case {"Forward": limit}:
            return None if limit is None else int(limit)
        case {"Backward": _}:
            raise NotBehindError(f"backward {FUTURE}", "forward_fill()")
    raise NotBehindError("looks at all rows of its key", "forward_fill()")


def _in_window(options: Any) -> int:
    if options["options"]["center"]:
        raise NotBehindError(f"with center=True {FUTURE}", "center=False")
    return int(options["options"]["window_size"]) - 1


def _never(*_: object) -> None:
    raise NotBehindError(FUTURE)


def _not_yet(*_: object) -> None:
    raise NotBehindError("is not built yet", 'rolling_mean_by("time", window_size="1h"), a mean of the last while')


_LOOKS: Final[Mapping[str, Callable[..., int | None]]] = {
    **dict.fromkeys(("Shift", "ShiftAndFill", "Diff", "PctChange"), _number),
    **dict.fromkeys(("CumSum", "CumProd", "CumMin", "CumMax", "CumCount"), _all_before),
    "FillNullWithStrategy": _filled,
    "RollingExpr": _in_window,
    **dict.fromkeys(("Reverse", "Interpolate", "InterpolateBy"), _never),
    **dict.fromkeys(("EwmMean", "EwmStd", "EwmVar", "EwmSum", "EwmMeanBy", "EwmSumBy"), _not_yet),
}


# ------------------------------------------------------------------------------------------- time
def duration(parts: Mapping[str, Any]) -> str:
    """A length of time out of a tree, in Polars' grammar."""
    length = "".join(f"{parts[name]}{unit}" for name, unit in _UNITS.items() if parts[name]) or "0ns"
    return f"-{length}" if parts["negative"] else length


_UNITS: Final = {"months": "mo", "weeks": "w", "days": "d", "nsecs": "ns"}


def stretch_of(body: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many ms before its row the window of a `rolling` begins, and how many behind it ends, at least.

    None if that is no fixed length.
    """
    period, offset = duration(body["period"]), duration(body["offset"])
    if offset == f"-{period}":
        return longest_milliseconds(period), 0
    length, first = fixed_nanoseconds(period), fixed_nanoseconds(offset)
    if length is None or first is None:
        return None
    slack = _CLOCK_CHANGE if is_calendar(period) or is_calendar(offset) else 0
    return -(first // 1_000_000) + slack, max(0, -(-(length + first) // 1_000_000) + slack)
