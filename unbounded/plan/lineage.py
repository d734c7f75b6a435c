"""What becomes of a column on its way to the sink: is it still event time, is it still a key?

A rename keeps what a column is, any other expression loses it, except `dt.truncate` of event time,
which makes a window of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch

import polars as pl

from unbounded.connectors import Mode
from unbounded.durations import longest_milliseconds
from unbounded.expressions import columns_of, passes, truncated
from unbounded.plan import (
    Aggregate,
    Concat,
    InOrder,
    Join,
    Keep,
    Lookup,
    Node,
    Positioned,
    Step,
    Unique,
    Verb,
    Watermark,
    is_bounded,
    walk,
)
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.plan.sessions import BOUNDARIES, END, Sessions
from unbounded.plan.windows import LABEL, LAST, Window, last_instant_of

__all__ = [
    "Clock",
    "clocks",
    "closing",
    "is_whole",
    "passing",
    "start_of",
    "table_key",
    "times_within",
    "window_of",
]


@dataclass(frozen=True)
class Clock:
    """What a column says of event time.

    No row comes any more whose value is v once the watermark, less `behind` milliseconds, has reached
    v itself, or v plus the Polars duration `lasts` where v is the start of a window.
    """

    lasts: str | None = None
    behind: int = 0

    @property
    def is_instant(self) -> bool:
        """Whether the column says when something was, and not when it began."""
        return self.lasts in (None, LAST)

    @property
    def after_aggregate(self) -> Clock:
        """The same column as a key of an aggregate's output: a row comes out when its group has closed."""
        if self.lasts == LAST:
            return self
        return Clock(None, self.behind + (longest_milliseconds(self.lasts) if self.lasts else 0))


def passing(step: Verb) -> dict[str, str]:
    """The columns that a row-wise verb leaves as they are: name behind it -> name before it."""
    before, behind = step.input.schema, step.schema
    computed = {expr.meta.output_name(): passes(expr) for expr in step.exprs} if step.verb in _COMPUTING else {}
    match step.verb:
        case "select":
            kept: dict[str, str | None] = dict(computed)
        case "rename":
            mapping: Mapping[str, str] = step.options["mapping"]
            kept = {mapping.get(name, name): name for name in before}
        case "with_columns":
            kept = {**{name: name for name in before}, **computed}
        case "fill_null" if _reads_columns(step.options.get("value")):
            kept = {}  # Polars fills every column, with values of which nothing is known here
        case "fill_null":
            blank = pl.DataFrame(schema=before).clear(1)
            filled = step.apply(blank.lazy()).collect()
            kept = {name: name for name in before if filled[name].null_count()}
        case "fill_nan":
            kept = {name: name for name, dtype in before.items() if not dtype.is_float()}
        case "map_batches":  # a function may put anything under a name
            kept = {}
        case _:
            kept = {name: name for name in before}
    return {name: old for name, old in kept.items() if old is not None and behind.get(name) == before.get(old)}


_COMPUTING = ("select", "with_columns")


def _reads_columns(value: object) -> bool:
    return isinstance(value, pl.Expr) and bool(columns_of(value))


@singledispatch
def clocks(node: Node) -> dict[str, Clock]:
    """The columns of a node's output that tell event time, under their names there."""
    return {}


@clocks.register
def _(node: Watermark) -> dict[str, Clock]:
    return {**clocks(node.input), node.column: Clock()}


@clocks.register
def _(node: Step | Ordered) -> dict[str, Clock]:
    below = _in_order(node) if isinstance(node, Ordered) else clocks(node.input)
    if not below:
        return {}
    kept = {name: below[old] for name, old in passing(node).items() if old in below}
    computed = node.exprs if node.verb in _COMPUTING else ()
    windows = {expr.meta.output_name(): window_of(expr, below) for expr in computed}
    return kept | {name: clock for name, clock in windows.items() if clock is not None}


def _in_order(node: Ordered | Rolling) -> dict[str, Clock]:
    """Event time in the rows that come out in its order, later than they came."""
    below, time = clocks(node.input), node.time
    if any(clock.lasts is None for name, clock in below.items() if name != time):
        below = {time: below[time]}  # where there is another time, the watermark may have passed that meanwhile
    return {name: Clock(clock.lasts, clock.behind + node.along.ahead) for name, clock in below.items()}


@clocks.register
def _(node: Rolling) -> dict[str, Clock]:
    below = _in_order(node)
    keys = {key.meta.output_name(): below.get(passes(key) or "") for key in node.keys}
    return {name: clock for name, clock in keys.items() if clock is not None} | {LABEL: below[node.time]}


@clocks.register
def _(node: Join) -> dict[str, Clock]:
    return clocks(node.left)


@clocks.register
def _(node: Lookup) -> dict[str, Clock]:
    below, changed = clocks(node.left), _updated(node)
    return {name: clock for name, clock in below.items() if name not in changed}


@clocks.register
def _(node: Unique | Positioned | InOrder) -> dict[str, Clock]:
    return clocks(node.input)


@clocks.register
def _(node: Concat) -> dict[str, Clock]:
    # What came in the first batch, before there was a watermark, is never awaited behind it.
    first, *others = [clocks(part) for part in node.parts if not is_bounded(part)] or map(clocks, node.parts)
    shared = {name: [clock, *(other.get(name) for other in others)] for name, clock in first.items()}
    return {
        name: Clock(clock.lasts, max(one.behind for one in all_clocks if one))
        for name, all_clocks in shared.items()
        if (clock := all_clocks[0]) and all(one is not None and one.lasts == clock.lasts for one in all_clocks)
    }


@clocks.register
def _(node: Window) -> dict[str, Clock]:
    below = clocks(node.input)
    clock = below.get(node.column)
    if clock is None or not clock.is_instant:
        return below
    starts, ends = Clock(node.period, clock.behind), Clock(None, clock.behind)
    found = {**below, LABEL: starts if node.label == "left" else ends}
    return found | {"_lower_boundary": starts, "_upper_boundary": ends} if node.boundaries else found


@clocks.register
def _(node: Sessions) -> dict[str, Clock]:
    # A session comes out when it ends, however long ago it began: its end alone tells event time.
    closes = closing(node) if node.boundaries else {}
    return dict.fromkeys(BOUNDARIES[1:], closes[END].after_aggregate) if END in closes else {}


@clocks.register
def _(node: Aggregate) -> dict[str, Clock]:
    return {name: clock.after_aggregate for name, clock in closing(node).items()}


def _updated(node: Lookup) -> set[str]:
    """The columns of the stream that the bounded table overwrites."""
    if node.verb != "update":
        return set()
    on = node.options["on"] or node.options["right_on"]
    keys = {on} if isinstance(on, str) else set(on)
    return set(node.left.schema) & (set(node.right.schema) - keys)


def closing(node: Aggregate) -> dict[str, Clock]:
    """The keys by which a group of an aggregate closes, a session by its `END`; empty where groups never do."""
    below = clocks(node.input)
    if isinstance(node, Sessions):
        return {END: below[node.column]} if node.column in below else {}
    found: dict[str, Clock] = {}
    for name, key in zip(node.key_names, node.keys, strict=True):
        source = passes(key)
        clock = below.get(source) if source is not None else window_of(key, below)
        if clock is not None:
            found[name] = clock
    return found


def window_of(expr: pl.Expr, below: Mapping[str, Clock]) -> Clock | None:
    """What an expression over event time says of it: the start of a window, or the last instant of one."""
    if (end := last_instant_of(expr)) is not None:
        clock = below.get(end)
        return None if clock is None or clock.lasts is not None else Clock(LAST, clock.behind)
    found = truncated(expr)
    if found is None or found[0] not in below or not below[found[0]].is_instant:
        return None
    return Clock(found[1], below[found[0]].behind)


def times_within(node: Node, window: str) -> frozenset[str]:
    """The columns with a time of which this column, in the same row, is the start of its window."""
    match node:
        case Watermark():
            return times_within(node.input, window)
        case Step():
            names = passing(node)
            computed = [expr for expr in node.exprs if expr.meta.output_name() == window] if window not in names else []
            times = times_within(node.input, names[window]) if window in names else {start_of(one) for one in computed}
            return frozenset(name for name, old in names.items() if old in times)
    return frozenset()


def start_of(expr: pl.Expr) -> str | None:
    """The column of which an expression is the start of the window."""
    found = truncated(expr)
    return found[0] if found is not None else None


def table_key(node: Node) -> dict[str, str] | None:
    """The key of a table that the node's rows keep up to date: name here -> name at the topmost aggregate.

    None where rows are final and have no key. A key column that was dropped is missing from the answer.
    """
    match node:
        case Aggregate():
            return {name: name for name in node.key_names}
        case Step():
            below = table_key(node.input)
            if below is None:
                return None
            return {name: below[old] for name, old in passing(node).items() if old in below}
        case Join():
            return table_key(node.left)
        case Lookup():
            below, changed = table_key(node.left), _updated(node)
            return None if below is None else {name: old for name, old in below.items() if name not in changed}
        case Watermark() | Window():
            return table_key(node.input)
        case _:
            return None


def is_whole(node: Node, mode: Mode) -> bool:
    """Whether every batch sees all rows of a node's output anew, so that any Polars verb can follow."""
    return mode == "complete" and any(isinstance(one, Aggregate | Keep) for one in walk(node))
