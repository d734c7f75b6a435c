"""Which output modes can a plan keep? Every reason why not, all at once, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from unbounded.connectors import Covers, Located, Mode, PutsAside, Sink
from unbounded.durations import shortest
from unbounded.errors import PlanError
from unbounded.expressions import passes, truncated
from unbounded.expressions.now import asks_watermark, tells_time
from unbounded.plan import (
    Aggregate,
    Concat,
    InOrder,
    Keep,
    Node,
    Positioned,
    Scan,
    Step,
    Unique,
    Watermark,
    Whole,
    walk,
)
from unbounded.plan.asof import AsofJoin, ended
from unbounded.plan.lineage import clocks, closing, is_whole, passing, table_key
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.plan.pairs import SIDES, Side, StreamJoin, bounded_by
from unbounded.plan.sequence import deadlocked
from unbounded.plan.sessions import BOUNDARIES, Sessions
from unbounded.plan.windows import LABEL, Window, last_instant_of

__all__ = ["check", "may_repeat_keys", "reasons_against", "sink_mode"]

_REPEATING = ("explode", "unpivot")  # verbs that make several rows of one


def check(plan: Node, mode: Mode, sink: Sink, checkpoint: str, late: str | None = None) -> None:
    """Raise one PlanError with every reason why `plan` cannot be kept in `mode` by `sink`, with `late` rows there."""
    if mode not in ("append", "update", "complete"):
        raise PlanError(f"output_mode is {mode!r}. Write 'append', 'update' or 'complete'")
    reasons = [*reasons_against(plan, mode), *_sink_reasons(plan, mode, sink), *_loops(plan, sink, checkpoint, late)]
    if reasons:
        raise PlanError("; and ".join(reasons) if len(reasons) < 3 else "\n  - " + "\n  - ".join(reasons))


def sink_mode(plan: Node, mode: Mode, sink: Sink) -> Mode:
    """A table of one row without a key is replaced whole: what is update to the plan is complete to its sink."""
    whole = mode == "update" and table_key(plan) == {} and sink.keeps_table
    return "complete" if whole and "complete" in sink.modes else mode


def reasons_against(plan: Node, mode: Mode) -> list[str]:
    """Why the plan alone cannot be kept in a mode; empty if it can."""
    nodes = list(walk(plan))
    changing = [node for node in nodes if isinstance(node, Aggregate | Keep)]
    reasons = [*_sources(nodes), *_deadlocks(plan), *_watermarks(nodes), *_instants(nodes)]
    if any(asks_watermark(vars(node)) for node in nodes) and not any(isinstance(node, Watermark) for node in nodes):
        reasons.append(
            "ub.watermark() is how far event time has come, and no column of the query has a watermark, so it would be "
            'null for ever. Declare one before it, e.g. .pipe(ub.with_watermark, "time", "10m")'
        )
    if mode == "complete" and not changing:
        reasons.append(
            "complete mode writes the whole answer in every batch, and without an aggregate that is every row "
            'that ever came. Write with output_mode="append"'
        )
    if mode == "append":
        reasons += [f"{reason}{ended(node)}" for node in changing if (reason := _stays_open(node)) is not None]
    if mode == "update":
        reasons += [reason for node in nodes if (reason := _of_versions(node)) is not None]
    reasons += [_needs_whole(node) for node in nodes if isinstance(node, Whole) and not is_whole(node.input, mode)]
    reasons += [
        f"{node.verb}() by the current time would have to look again, with time, at rows that it has let go. "
        "Make a column of the time with with_columns(...) first, which every row keeps from its batch"
        for node in nodes
        if isinstance(node, Keep) and tells_time(vars(node)) and not is_whole(node.input, mode)
    ]
    reasons += [reason for node in nodes if isinstance(node, Concat) and (reason := _of_parts(node, mode)) is not None]
    reasons += [
        reason for node in nodes if isinstance(node, StreamJoin | AsofJoin) and (reason := _of_join(node, mode))
    ]
    return reasons


def _of_parts(node: Concat, mode: Mode) -> str | None:
    """Why a concat cannot be kept in a mode: rows of different kinds stand in it, or rows without a key."""
    changing = [_has_aggregate(part) for part in node.parts]
    if mode == "append" or not any(changing) or (mode == "complete" and all(changing)):
        return None
    why = "keeps one row per key, and a concat with an aggregate in it has no key of its own"
    if mode == "complete":
        why = "writes the whole answer in every batch, and a part of the concat without an aggregate never ends"
    return f"{mode} mode {why}. Write each part with a query of its own"


def _of_join(node: StreamJoin | AsofJoin, mode: Mode) -> str | None:
    """Why a join of two streams cannot be kept in a mode."""
    whole = [is_whole(one, mode) for one in node.inputs]
    if all(whole):
        return None
    if any(whole):
        return (
            "complete mode shows the whole of an aggregate in every batch, and a join of it with rows that come one by "
            'one would meet each version of a group. Write with output_mode="append", which passes on closed groups'
        )
    if isinstance(node, AsofJoin):  # its rows are final, whatever the mode
        return None
    alone: list[Side] = [side for side in SIDES if node.shows_alone(side)]
    if not alone:
        return None
    rows = "rows without a partner" if len(alone) == 2 else f"rows of the {alone[0]} without a partner"
    if mode != "append":
        return (
            f"{mode} mode shows what may still change, and {rows} of a {node.how} join come out when nothing can "
            'change any more. Write with output_mode="append", or join with how="inner"'
        )
    endless: list[Side] = [side for side in alone if not node.kept(side).reaches]
    if not endless:
        return None
    return (
        f"a{'n' if node.how == 'anti' else ''} {node.how} join emits {rows} once no partner can come, and for the "
        f"{' and the '.join(endless)} that is never known. {bounded_by(node, endless)}; or join on equal times or "
        "windows"
    )


def _has_aggregate(node: Node) -> bool:
    return any(isinstance(one, Aggregate | Keep) for one in walk(node))


def _of_versions(node: Node) -> str | None:
    """Why a node cannot be kept in update mode."""
    if isinstance(node, Keep):
        return (
            f"update mode replaces rows by their key, and the rows of {node.verb}() have none: one leaves when a "
            'better one comes. Write with output_mode="complete", which shows them all in every batch'
        )
    if not any(_has_aggregate(below) for below in node.inputs):
        return None
    match node:
        case Aggregate():
            return (
                "update mode shows groups that still change, and an aggregate of another aggregate's output would "
                'count each version of a group. Write with output_mode="append", which passes on closed groups only, '
                'or with "complete"'
            )
        case StreamJoin() | AsofJoin():
            return (
                "update mode shows groups that still change, and a join with another stream would take each version of "
                'a group for a row of its own. Write with output_mode="append", which passes on closed groups only'
            )
        case Unique() | Positioned() | InOrder() | Ordered() | Rolling():
            return (
                f"update mode shows groups that still change, and {_called(node)}() would take each version of a group "
                'for a row of its own. Write with output_mode="append", which passes on closed groups only, or with '
                '"complete"'
            )
    return None


def _called(node: Unique | Positioned | InOrder | Ordered | Rolling) -> str:
    match node:
        case Unique():
            return "unique" if node.within is None else "unique_within_watermark"
        case InOrder():
            return "merge_sorted"
        case Ordered():
            return node.verb
        case Rolling():
            return "rolling"
        case Positioned():
            return "head" if node.verb == "slice" and node.options["offset"] == 0 else node.verb


def _needs_whole(node: Whole) -> str:
    options = node.options
    asked = f"slice({options['offset']})" if node.verb == "slice" else f"{node.verb}()"
    return (
        f"{asked} needs all rows of the answer at once, and a row of the answer would have to move when a later one "
        'comes. Write it above an aggregate with output_mode="complete", or use it on what the query wrote: '
        f"query.read().{asked}"
    )


def _stays_open(node: Aggregate | Keep) -> str | None:
    if isinstance(node, Keep):
        return (
            f"append mode emits a row once, when it can no longer change, and a row of {node.verb}() leaves when a "
            'better one comes. Write with output_mode="complete"'
        )
    if isinstance(node, Sessions):
        return None if closing(node) else _never_ends(node)
    if not node.keys:
        return (
            "append mode emits a row once, when it can no longer change, and a global aggregate changes with every "
            'row. Write with output_mode="update" or "complete"'
        )
    if closing(node):
        return None
    if isinstance(node.input, Window):
        time = node.input.column
        return (
            f"append mode emits a group once, when it can no longer change, and windows of {time!r} never close, since "
            f'no watermark reaches them. Declare one first, .pipe(ub.with_watermark, {time!r}, "10m"), or write with '
            'output_mode="update"'
        )
    keys = ", ".join(repr(name) for name in node.key_names)
    dated = (name for name, dtype in node.input.schema.items() if isinstance(dtype, pl.Datetime))
    known = clocks(node.input)
    time = next(iter(known), next(dated, "time"))
    declared = "" if known else f'.pipe(ub.with_watermark, {time!r}, "10m")'
    plain = [passes(key) for key in node.keys]
    by = "..." if None in plain or time in plain else repr(plain if len(plain) > 1 else plain[0])
    return (
        f"append mode emits a group once, when it can no longer change, and groups by {keys} never close. Group by a "
        f'window of event time, too: {declared}.group_by_dynamic({time!r}, every="5m", group_by={by}), or write with '
        'output_mode="update"'
    )


def _never_ends(node: Sessions) -> str:
    time = node.column
    return (
        f"append mode emits a session once, when it can no longer change, and sessions of {time!r} never end, since no "
        f'watermark reaches them. Declare one first, .pipe(ub.with_watermark, {time!r}, "10m"), or write with '
        'output_mode="update"'
    )


def _sources(nodes: list[Node]) -> Iterator[str]:
    scans = [node for node in nodes if isinstance(node, Scan)]
    for i, scan in enumerate(scans):
        if any(scan.name == other.name and scan.source is not other.source for other in scans[:i]):
            yield (
                f"two sources are named {scan.name!r}, and the checkpoint knows sources by name. "
                "Give one of them a name of its own with name="
            )


def _deadlocks(plan: Node) -> Iterator[str]:
    if (name := deadlocked(plan)) is not None:
        yield (
            f"source {name!r} is to wait for itself to end, since two concat_sequential() have their parts in another "
            "order. Put the parts in one order"
        )


def _watermarks(nodes: list[Node]) -> Iterator[str]:
    marks: dict[str, Watermark] = {}
    for node in nodes:
        if not isinstance(node, Watermark):
            continue
        first = marks.setdefault(node.name, node)
        same = first.column == node.column or _origin(first) == _origin(node)
        if not same or first.delay != node.delay:
            yield (
                f"source {node.name!r} has two watermarks, ({first.column!r}, {shortest(first.delay)!r}) and "
                f"({node.column!r}, {shortest(node.delay)!r}), and would have to choose. Keep one of them"
            )


def _instants(nodes: list[Node]) -> Iterator[str]:
    """Where `window_time` is asked of the start of a window."""
    for node in nodes:
        asked = node.exprs if isinstance(node, Step) else node.keys if isinstance(node, Aggregate) else ()
        for column in filter(None, map(last_instant_of, asked)):
            if _is_start(column, node.inputs[0]):
                yield (
                    f"ub.window_time({column!r}) is the last instant before the end of a window, and {column!r} is the "
                    "start of one. Make them with include_boundaries=True and write ub.window_time(), or windows with "
                    'label="right"'
                )


def _is_start(column: str, node: Node) -> bool:
    """Whether a column is the start of the windows or sessions of an aggregate below."""
    while not isinstance(node, Aggregate):
        if isinstance(node, Step):
            column = passing(node).get(column, "")
        elif not isinstance(node, Unique | Positioned | InOrder | Watermark):
            return False
        node = node.inputs[0]
    if isinstance(node, Sessions):
        return column in (LABEL, BOUNDARIES[0])
    if isinstance(node.input, Window) and column in node.input.labels:
        return column == "_lower_boundary" or (column == LABEL and node.input.label == "left")
    keys = dict(zip(node.key_names, node.keys, strict=True))
    return column in keys and truncated(keys[column]) is not None


def _origin(mark: Watermark) -> tuple[object, str]:
    """Where the time of a watermark comes from, under which name there: two sides of a join may rename one column."""
    node, column = mark.input, mark.column
    while isinstance(node, Step) and column in (names := passing(node)):
        node, column = node.input, names[column]
    return node.source if isinstance(node, Scan) else node, column


def _sink_reasons(plan: Node, mode: Mode, sink: Sink) -> Iterator[str]:
    if mode not in sink.modes:
        able = " or ".join(f'"{one}"' for one in sorted(sink.modes))
        yield f"{sink.description} cannot keep {mode} mode. Write with output_mode={able}, or to another sink"
    if mode != "update" or not sink.keeps_table:
        return
    top = _topmost(plan)
    key = table_key(plan)
    if top is None or key is None:
        return
    lost = [name for name in top.key_names if name not in key.values()]
    if lost:
        time = top.input.column if isinstance(top.input, Window) else top.column if isinstance(top, Sessions) else ""
        names = ", ".join(repr(time if name == LABEL else name) for name in lost)
        yield (
            f"update mode replaces rows by their key, and the key column {names} of the aggregate is dropped or "
            "computed anew above it. Keep it to the end (a rename is fine), or write with foreach_batch"
        )
    node = plan
    while node is not top:
        if isinstance(node, Step) and node.verb in _REPEATING:
            yield (
                f"update mode keeps one row per key, and {node.verb}() above the aggregate, which head() and tail() of "
                'groups are, too, makes several. Write the lists as they are, or with output_mode="complete"'
            )
        node = node.inputs[0]


def _loops(plan: Node, sink: Sink, checkpoint: str, late: str | None) -> Iterator[str]:
    """A query that reads what it writes would never end."""
    written = {"the checkpoint": checkpoint}
    if isinstance(sink, Located):
        written["the output"] = sink.location
    if isinstance(sink, Located) and _one_in_the_other(sink.location, checkpoint):
        yield (
            f"the checkpoint {checkpoint} and the output {sink.location} lie in one another, and readers of the output "
            "would read the checkpoint. Choose two places side by side"
        )
    aside = {
        f"{option} of source {node.name!r},": place
        for node in walk(plan)
        if isinstance(node, Scan) and isinstance(node.source, PutsAside)
        for option, place in node.source.places_aside.items()
    }
    if late is not None:
        aside["the folder of late rows"] = late
    for option, place in aside.items():
        for what, other in written.items():
            if _one_in_the_other(place.rstrip("/"), other.rstrip("/")):
                yield (
                    f"{option} {place} and {what} {other} lie in one another, and whoever reads one of them would find "
                    "files of the other. Choose two places side by side"
                )
    for node in walk(plan):
        if isinstance(node, Scan) and isinstance(node.source, Covers):
            for what, place in {**written, **aside}.items():
                if node.source.covers(place):
                    yield (
                        f"{what} {place} lies in what source {node.name!r} reads ({node.source.description}), so the "
                        "query would read what it writes, without end. Choose a place outside of it"
                    )


def _one_in_the_other(one: str, other: str) -> bool:
    first, second = sorted((f"{one}/", f"{other}/"), key=len)
    return second.startswith(first)


def _topmost(node: Node) -> Aggregate | None:
    while not isinstance(node, Aggregate):
        if not node.inputs:
            return None
        node = node.inputs[0]
    return node


def may_repeat_keys(node: Node) -> bool:
    """Whether a join above the topmost aggregate can make several rows of one key; other steps were refused."""
    while not isinstance(node, Aggregate) and node.inputs:
        if len(node.inputs) == 2:
            return True
        node = node.inputs[0]
    return False
