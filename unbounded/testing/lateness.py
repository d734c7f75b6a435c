"""What must the answer of a story be? The plan over all rows, minus the (row, window) pairs that came too late.

A naive second reading of the watermark's rules, one batch after another over whole tables: it shares
with the engine the meaning of nodes on bounded tables, and neither state, partial aggregates nor loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from unbounded.connectors import Mode
from unbounded.lineage import closing
from unbounded.operators import FINAL, at_least_milliseconds, at_most_milliseconds
from unbounded.plan import Aggregate, Node, Watermark, evaluate, lower_filters, walk
from unbounded.testing.story import Taken

__all__ = ["Truth", "truth"]

_EXPIRY = "__expiry__"


@dataclass(frozen=True)
class Truth:
    """What must be true after some batches."""

    answer: pl.LazyFrame
    late: Mapping[int, int]
    """Late pairs by number of batch; batches without any are left out."""
    marks: Mapping[int, int | None]
    """The watermark by number of batch, by which it evicts and the next one judges lateness, in epoch ms."""


def truth(plan: Node, mode: Mode, batches: Sequence[Taken]) -> Truth:
    """Read every batch as its intent says, and decide by the rules what counts."""
    plan = lower_filters(plan)
    sources = len(batches[0].rows) if batches else 0
    judges = [node for node in walk(plan) if isinstance(node, Aggregate) and _is_lowest(node) and closing(node)]
    watches = [node for node in walk(plan) if isinstance(node, Watermark)]
    in_time: dict[int, list[pl.DataFrame]] = {id(node): [] for node in judges}
    late: dict[int, int] = {}
    marks: dict[int, int | None] = {}
    seen: dict[str, int] = {}
    mark: int | None = None
    for batch in batches:
        limit, mark = mark, FINAL if batch.intent.final else _least(seen, watches, mark)
        marks[batch.intent.batch] = mark
        tables = {f"feed{i}": rows.lazy() for i, rows in enumerate(batch.rows)}
        for node in judges:
            pairs = evaluate(node.input, tables).with_columns(_expiry(node)).collect(engine="in-memory")
            counted = pairs.filter(_counts(mode, limit))
            in_time[id(node)].append(counted.drop(_EXPIRY))
            if gone := pairs.filter(_is_late(mode, limit)).height:
                late[batch.intent.batch] = late.get(batch.intent.batch, 0) + gone
        for watch in watches:
            time = at_most_milliseconds(pl.col(watch.column).max(), watch.schema[watch.column])
            newest = evaluate(watch.input, tables).select(time).collect(engine="in-memory").item()
            if newest is not None:
                seen[watch.name] = max(newest - watch.delay, seen.get(watch.name, newest - watch.delay))
    everything = {f"feed{i}": pl.concat([batch.rows[i] for batch in batches]).lazy() for i in range(sources)}
    # In one chunk: over several, Polars 2.1 gives 0.0 for std(ddof=0) of a group of nulls, which is null else.
    known: dict[Node, pl.LazyFrame] = {
        node: node.apply(pl.concat(in_time[id(node)], rechunk=True).lazy()) for node in judges
    }
    return Truth(evaluate(plan, everything, known=known), late, marks)


def _is_lowest(node: Aggregate) -> bool:
    """What stands above another aggregate gets closed groups only, each in time for its own windows."""
    return not any(isinstance(below, Aggregate) for below in walk(node.input))


def _least(seen: Mapping[str, int], watches: Sequence[Watermark], before: int | None) -> int | None:
    names = {watch.name for watch in watches}
    if not names or not names <= set(seen):
        return before
    least = min(seen[name] for name in names)
    return least if before is None else max(least, before)


def _expiry(node: Aggregate) -> pl.Expr:
    """When the group of a pair closes, in epoch ms."""
    ends = []
    for name, key in zip(node.key_names, node.keys, strict=True):
        if (clock := closing(node).get(name)) is not None:
            end = key if clock.lasts is None else key.dt.offset_by(clock.lasts)
            ends.append(at_least_milliseconds(end, node.schema[name]) + clock.behind)
    return pl.min_horizontal(ends).alias(_EXPIRY)


def _is_late(mode: Mode, limit: int | None) -> pl.Expr:
    if mode == "complete" or limit is None:  # complete mode keeps every group, so a late row still counts
        return pl.lit(value=False)
    return (pl.col(_EXPIRY) <= limit).fill_null(value=False)


def _counts(mode: Mode, limit: int | None) -> pl.Expr:
    # A group without a time never closes, so append mode would never emit it.
    has_time = pl.col(_EXPIRY).is_not_null() if mode == "append" else pl.lit(value=True)
    return has_time & ~_is_late(mode, limit)
