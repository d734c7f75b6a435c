"""What is a watermark on, and how far has it come, where several inputs tell? Instants are epoch milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import timedelta

import polars as pl

from unbounded.connectors import WatermarkPolicy
from unbounded.durations import milliseconds
from unbounded.errors import PlanError
from unbounded.lineage import clocks
from unbounded.plan import Node, Scan, Watermark, walk

__all__ = ["advanced", "combined", "settled", "watermarked"]

_log = logging.getLogger("unbounded")


def watermarked(node: Node, column: str, delay: str | timedelta) -> Node:
    """The node with a watermark on `column`; the node itself where that is event time, of this delay, already.

    PlanError if the column is missing or no event time, or if another watermark was declared below.
    """
    asked = f"with_watermark({column!r})"
    length = milliseconds(delay, f"the delay of the watermark on {column!r}")
    dtype = node.schema.get(column)
    if dtype is None:
        raise PlanError(f"{asked}: there is no such column. There are: {', '.join(node.schema)}")
    if not (isinstance(dtype, pl.Datetime) or dtype == pl.Date):
        parse = f".with_columns(pl.col({column!r}).str.to_datetime())"
        instead = parse if dtype == pl.String else "a cast(pl.Datetime)"
        raise PlanError(
            f"{asked}: the column is {dtype}, and event time must be Datetime or Date. Write {instead} before it"
        )
    name = "+".join(sorted({one.name for one in walk(node) if isinstance(one, Scan)}))
    marks = [one for one in walk(node) if isinstance(one, Watermark)]
    if not marks:
        return Watermark(node, column, length, name)
    if column in clocks(node) and all(one.delay == length for one in marks):
        return node
    other = next((one for one in marks if (one.column, one.delay) != (column, length)), None)
    if other is None and any(one.name == name for one in marks):
        raise PlanError(
            f"{asked}: source {name!r} has this watermark, and {column!r} was computed anew behind it, so that it is "
            "another time now. Declare it once, behind the computation, or give what is computed another name"
        )
    one = other or marks[0]
    raise PlanError(
        f"{asked} with a delay of {length} ms: source {one.name!r} already has a watermark on {one.column!r} with a "
        f"delay of {one.delay} ms. Keep one of the two"
    )


def advanced(marks: Mapping[str, int], seen: Mapping[str, int], delays: Mapping[str, int]) -> dict[str, int]:
    """The watermark of each input after a batch that saw these newest times; none goes back."""
    reached = {name: newest - delays[name] for name, newest in seen.items()}
    return {**marks, **{name: max(mark, marks.get(name, mark)) for name, mark in reached.items()}}


def combined(
    marks: Mapping[str, int], names: Collection[str], policy: WatermarkPolicy, before: int | None
) -> int | None:
    """The one watermark of a query, which never goes back: the least of all once each has one, or the greatest."""
    known = [marks[name] for name in names if name in marks]
    if not known or (policy == "min" and len(known) < len(names)):
        return before
    found = min(known) if policy == "min" else max(known)
    return found if before is None else max(found, before)


def settled(asked: WatermarkPolicy | None, began: WatermarkPolicy, *, where: str, several: bool) -> WatermarkPolicy:
    """The policy that a checkpoint began with: rows were dropped, and groups closed, by it. Says so if it matters."""
    if several and asked not in (None, began):
        _log.warning(
            "watermark_policy=%r is not used: %s began with %r, and keeps it. To change it, start with a new "
            "checkpoint and a new output path",
            asked,
            where,
            began,
        )
    return began
