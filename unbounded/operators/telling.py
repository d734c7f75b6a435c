"""Which operator tells how many rows a source gave, its newest event time, and which rows came too late?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from unbounded.operators import Batch, TellsLate
from unbounded.operators.choosing import Joining
from unbounded.plan import Aggregate, Node, Scan, Step, Watermark
from unbounded.plan.lineage import clocks, passing
from unbounded.plan.windows import Window

__all__ = ["carries", "counts", "late_of", "tellers"]


def counts(node: Aggregate) -> Scan | None:
    """The source whose rows the aggregate takes, each exactly once, so that its partial rows tell their number."""
    below = node.input
    while not isinstance(below, Scan):
        whole = isinstance(below, Watermark) or (isinstance(below, Window) and below.is_tumbling)
        one_to_one = isinstance(below, Step) and not below.drops_rows and below.verb != "unpivot"
        if not (whole or one_to_one):
            return None
        below = below.inputs[0]
    return below


def carries(node: Aggregate) -> tuple[Watermark, str] | None:
    """The watermark whose newest time the partial rows can carry, and the column's name at the aggregate.

    Only if every row that reached the watermark reaches the aggregate, with its time.
    """
    path: list[Node] = []
    below = node.input
    while not isinstance(below, Watermark):
        if not isinstance(below, Step | Window) or (isinstance(below, Step) and below.drops_rows):
            return None
        path.append(below)
        below = below.input
    column = below.column
    for one in reversed(path):
        if isinstance(one, Step):
            names = [name for name, old in passing(one).items() if old == column]
            if not names:
                return None
            column = names[0]
    # Of windows with gaps, the rows between them are dropped.
    gaps = any(isinstance(one, Window) and one.has_gaps for one in path)
    return None if gaps or column not in clocks(node.input) else (below, column)


def tellers(operator: object) -> Sequence[TellsLate]:
    """Who can say which rows came too late for an operator, by its inputs: of a join each side for its own."""
    if isinstance(operator, Joining):
        return operator.sides
    return [operator] if isinstance(operator, TellsLate) else []


def late_of(taken: Iterable[tuple[object, Sequence[pl.LazyFrame]]], batch: Batch) -> dict[str, pl.LazyFrame]:
    """Of the rows that operators take those that came too late, by who tells them; of those that can say."""
    if batch.late is None:
        return {}
    asked = {
        one.id: one.late_rows(rows, batch)
        for operator, given in taken
        for one, rows in zip(tellers(operator), given, strict=False)
    }
    return {id: rows for id, rows in asked.items() if rows is not None}
