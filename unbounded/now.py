"""What time is it in a batch? The one its intent fixed, wherever an expression asks.

`current_timestamp()` is a literal in a shape that nobody writes by hand: aliased to a reserved name, then
cast to what it is. A bounded frame computes it as it stands. A stream puts the batch's time in its place, so
that a batch that is run again gives the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import polars as pl

from unbounded.trees import Tree, expression, tree_of

__all__ = ["at", "current_timestamp", "is_now", "named_now", "tells_time"]

T = TypeVar("T")

_MARK = "__current_timestamp__"
_DTYPE = pl.Datetime("us", "UTC")
_SHOWN = re.compile(
    rf'[-\d]+ [:.\d]+ UTC\.alias\("{_MARK}"\)\.strict_cast\([^()]*\([^()]*\)\)\.alias\("current_timestamp"\)'
)


def current_timestamp() -> pl.Expr:
    """The time at which a batch was planned, one for all its rows: `Datetime("us", "UTC")`, in whole milliseconds.

    It may stand anywhere in `select`, `with_columns`, `filter`, `group_by` and `agg` of a stream, and stays the same
    when a batch is run again after a crash; it never goes back. Inside an aggregate it is the time of each row's
    batch; around one, that of the batch that gives out the answer. In a bounded `pl.LazyFrame`, in `snapshot()` and
    in `show()` it is the time of this call.
    """
    # The cast stands between the mark and the user's own aliases, which do not count for what an expression is.
    return pl.lit(datetime.now(UTC), dtype=_DTYPE).alias(_MARK).cast(_DTYPE).alias("current_timestamp")


def is_now(tree: Tree) -> bool:
    """Whether a node of an expression is the time of the batch."""
    match tree:
        case {"Alias": [_, name]}:
            return bool(name == _MARK)
    return False


def named_now(text: str) -> str:
    """The text that Polars shows for an expression, with the time of the batch under its name."""
    return _SHOWN.sub("current_timestamp()", text)


def tells_time(asked: object) -> bool:
    """Whether an expression asks for the time of the batch, or any in a collection."""
    match asked:
        case pl.Expr():
            return _MARK in str(asked)
        case list() | tuple():
            return any(map(tells_time, asked))
        case Mapping():
            return any(map(tells_time, asked.values()))
    return False


def at(asked: T, time: datetime) -> T:
    """The same expression or collection in a batch that was planned at `time`."""
    literal = tree_of(pl.lit(time, dtype=_DTYPE).alias(_MARK))

    def in_tree(tree: Tree) -> Tree:
        match tree:
            case _ if is_now(tree):
                return literal
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
