"""How is a plan shown to people?"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from unbounded.durations import shortest
from unbounded.expressions import passes
from unbounded.expressions.now import named_now
from unbounded.operators import Remembers
from unbounded.plan import (
    Aggregate,
    Concat,
    InOrder,
    Join,
    Lookup,
    Node,
    Positioned,
    Scan,
    Static,
    Step,
    Unique,
    Verb,
    Watermark,
)
from unbounded.plan.asof import AsofJoin
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.plan.pairs import StreamJoin
from unbounded.plan.sequence import Sequential, waits
from unbounded.plan.sessions import Sessions
from unbounded.plan.windows import LABEL, Window, last_instant_of

__all__ = ["explained"]

_WIDEST = 80
_LONGEST = 60


def explained(plan: Node, operators: Mapping[Node, Remembers | None], *, keeps_late: bool = False) -> str:
    """The nodes from sink to sources, each with its operator's id if it has one; then what each operator remembers."""
    drawn: list[tuple[str, str]] = []

    def draw(node: Node, depth: int) -> None:
        operator = operators[node]
        hidden = isinstance(node, Step) and LABEL in node.options.get("mapping", ())  # no step that the user wrote
        if not hidden:
            drawn.append(("  " * depth + _title(node), f"[{operator.id}]" if operator is not None else ""))
        for below in node.inputs:
            draw(below, depth + (not hidden))

    draw(plan, 0)
    width = min(max(len(text) for text, _ in drawn), _WIDEST)
    lines = [f"{text:{width}}  {remembers}".rstrip() for text, remembers in drawn]
    for operator in filter(None, map(operators.get, operators)):
        lines += [
            "",
            operator.id,
            *(f"  {what + ':':9}{text}" for what, text in _lines(operator, keeps_late=keeps_late).items()),
        ]
    for name, first in waits(plan).items():
        ended = " and ".join(map(repr, sorted(first)))
        lines += ["", f"order: {name!r} waits for the end of {ended}; what comes to that later is warned of, not read"]
    return "\n".join(lines)


def _lines(operator: Remembers, *, keeps_late: bool) -> dict[str, str]:
    """What an operator says, in one order, and that what it leaves out is counted."""
    said = dict(operator.explain())
    ends = {"late": "kept aside and counted" if keeps_late else "dropped and counted", "null": "dropped and counted"}
    left_out = {what: f"{text}; {end}" for what, end in ends.items() if (text := said.pop(what, None))}
    first: dict[str, str] = {what: said.pop(what) for what in ("key", "state") if what in said}
    return {**first, **said, "late": "no row is late here", **left_out}


def _title(node: Node) -> str:
    """A node in the user's words."""
    match node:
        case Scan():
            return f"scan {node.name!r}: {node.source.description}"
        case Static():
            return "bounded table, read at the start"
        case Step() | Ordered() if node.exprs:
            return f"{node.verb} {', '.join(_written(expr) for expr in node.exprs)}"
        case Positioned(verb="slice", options={"offset": 0, "length": int(length)}):
            return f"head {length}"
        case Verb():
            options = (f"{name}={_shown(value)}" for name, value in node.options.items() if value is not None)
            return f"{node.verb} {', '.join(options)}".rstrip()
        case Unique():
            return (
                f"unique{'' if node.within is None else ' within the watermark'} by {', '.join(map(repr, node.subset))}"
            )
        case InOrder():
            return f"merge_sorted by {', '.join(map(repr, node.keys))}"
        case Rolling():
            by = f", by {', '.join(repr(passes(key) or _written(key)) for key in node.keys)}" if node.keys else ""
            return f"rolling {node.time!r}, {node.period} long{by}"
        case Lookup():
            return f"{'cross ' if node.verb == 'join' else ''}{node.verb} with a bounded table"
        case Join():
            return f"{node.how} join on {', '.join(map(repr, node.left_on))}"
        case StreamJoin():
            return f"{node.how} join of two streams"
        case Sequential():
            return f"concat_sequential {node.how}: the first part to its end, then the second"
        case AsofJoin():
            return f"{node.strategy} join_asof of two streams"
        case Concat():
            return f"concat {node.how}"
        case Watermark():
            return f"watermark on {node.column!r}, {shortest(node.delay)} behind"
        case Window():
            return f"window of {node.column!r}, every {node.every}, {node.period} long"
        case Sessions():
            by = f", by {', '.join(map(repr, node.key_names[:-1]))}" if node.keys else ""
            return f"sessions of {node.column!r}, {node.gap.constant or _written(node.gap.length)} apart{by}"
        case Aggregate(keys=()):
            return "aggregate over all rows"
        case Aggregate():
            return f"group by {', '.join(repr(name) for name in node.key_names if name != LABEL) or 'window'}"
    return type(node).__name__.lower()


def _shown(option: object) -> str:
    if isinstance(option, list) and any(isinstance(one, pl.Expr) for one in option):
        return f"[{', '.join(map(_shown, option))}]"
    return _written(option) if isinstance(option, pl.Expr) else repr(option)


def _written(expr: pl.Expr) -> str:
    """An expression as Polars shows it, on one line."""
    if (end := last_instant_of(expr)) is not None:
        name = expr.meta.output_name()
        return f'window_time("{end}")' if name == "window_time" else f'window_time("{end}").alias("{name}")'
    text = " ".join(named_now(str(expr)).split()).replace("dyn int: ", "").replace("dyn float: ", "")
    if len(text) <= _LONGEST:
        return text
    named = (
        f'.alias("{expr.meta.output_name(raise_if_undetermined=False)}")'  # what is made must not be cut off with how
    )
    ending = f"...{named}" if text.endswith(named) else "..."
    return text[: max(0, _LONGEST - len(ending))] + ending
