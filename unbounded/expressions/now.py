"""What time is it in a batch, and how far has event time come? What its intent fixed, wherever an expression asks.

`current_timestamp()` and `watermark()` are literals in a shape that nobody writes by hand: aliased to a reserved
name, then cast to what they are. A bounded frame computes them as they stand. A stream puts what the batch says in
their place, so that a batch that is run again gives the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import polars as pl

from unbounded.expressions.trees import Tree, expression, tree_of

__all__ = [
    "Moment",
    "asks_watermark",
    "at",
    "current_timestamp",
    "judged",
    "named_now",
    "tells_time",
    "told",
    "watermark",
]

T = TypeVar("T")

_DTYPE: Final = pl.Datetime("us", "UTC")
_NOW: Final = "__current_timestamp__"
_WATERMARK: Final = "__watermark__"
_CALLS: Final = {_NOW: "current_timestamp()", _WATERMARK: "watermark()"}
_SHOWN: Final = {
    call: re.compile(
        rf'([-\d]+ [:.\d]+ UTC|null)\.alias\("{mark}"\)\.strict_cast\([^()]*\([^()]*\)\)\.alias\("{call[:-2]}"\)'
    )
    for mark, call in _CALLS.items()
}
_LAST: Final = 253_402_300_799_999  # ms; 9999-12-31T23:59:59.999Z, behind which Python has no dates


class Moment(Protocol):
    """What a batch says of time: when it was planned, and its watermark in epoch ms, None before the first one."""

    @property
    def time(self) -> datetime: ...

    @property
    def watermark(self) -> int | None: ...


def current_timestamp() -> pl.Expr:
    """The time at which a batch was planned, one for all its rows: `Datetime("us", "UTC")`, in whole milliseconds.

    It may stand anywhere in `select`, `with_columns`, `filter`, `group_by` and `agg` of a stream, and stays the same
    when a batch is run again after a crash; it never goes back. Inside an aggregate it is the time of each row's
    batch; around one, that of the batch that gives out the answer. In a bounded `pl.LazyFrame`, in `snapshot()` and
    in `show()` it is the time of this call.
    """
    # The cast stands between the mark and the user's own aliases, which do not count for what an expression is.
    return pl.lit(datetime.now(UTC), dtype=_DTYPE).alias(_NOW).cast(_DTYPE).alias("current_timestamp")


def watermark() -> pl.Expr:
    """The watermark of a batch, one for all its rows: `Datetime("us", "UTC")`, in whole milliseconds.

    What ends at or before it is final; it is the one that `query.last_progress.event_time["watermark"]` tells. Null in
    the batches before event time was first seen, and so in a bounded `pl.LazyFrame`, which is one such batch. Once the
    input was declared ended it is the last millisecond of the year 9999. It may stand wherever `current_timestamp()`
    may, and stays the same when a batch is run again.

        frame.with_columns(behind=ub.watermark() - pl.col("time"))  # positive: too late for a key of this time

    Beside times without a zone write `ub.watermark().dt.replace_time_zone(None)`.
    """
    return pl.lit(None, dtype=_DTYPE).alias(_WATERMARK).cast(_DTYPE).alias("watermark")


@dataclass(frozen=True)
class _Any:
    time: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    watermark: int | None = 0


def judged(expr: pl.Expr) -> pl.Expr:
    """The expression in some batch, to ask Polars what it does: a comparison with null would be one with all rows."""
    return at(expr, _Any())


def told(tree: Tree) -> str | None:
    """Which of the two calls a node of an expression is; None for any other node."""
    match tree:
        case {"Alias": [_, str(name)]}:
            return _CALLS.get(name)
    return None


def named_now(text: str) -> str:
    """The text that Polars shows for an expression, with what the batch says under its name."""
    for call, shown in _SHOWN.items():
        text = shown.sub(call, text)
    return text


def tells_time(asked: object) -> bool:
    """Whether an expression asks for what the batch says, or any in a collection."""
    return _holds(asked, tuple(_CALLS))


def asks_watermark(asked: object) -> bool:
    """Whether an expression asks for the watermark, or any in a collection."""
    return _holds(asked, (_WATERMARK,))


def _holds(asked: object, marks: tuple[str, ...]) -> bool:
    match asked:
        case pl.Expr():
            text = str(asked)
            return any(mark in text for mark in marks)
        case list() | tuple():
            return any(_holds(one, marks) for one in asked)
        case Mapping():
            return any(_holds(one, marks) for one in asked.values())
    return False


def at(asked: T, moment: Moment) -> T:
    """The same expression or collection in a batch of that moment."""
    if not tells_time(asked):
        return asked
    mark = None if moment.watermark is None else min(moment.watermark, _LAST) * 1_000
    literals = {
        "current_timestamp()": tree_of(pl.lit(moment.time, dtype=_DTYPE).alias(_NOW)),
        "watermark()": tree_of(pl.lit(mark, dtype=pl.Int64).cast(_DTYPE).alias(_WATERMARK)),
    }

    def in_tree(tree: Tree) -> Tree:
        match tree:
            case _ if (call := told(tree)) is not None:
                return literals[call]
            case dict():
                return {name: in_tree(part) for name, part in tree.items()}
            case list():
                return [in_tree(part) for part in tree]
        return tree

    def dated(value: Any) -> Any:
        match value:
            case pl.Expr() if tells_time(value):
                return expression(in_tree(tree_of(value)))
            case list() | tuple():
                return type(value)(map(dated, value))
            case Mapping():
                return {name: dated(one) for name, one in value.items()}
        return value

    found: T = dated(asked)
    return found
