"""What must the answer of a story be? The plan over all rows, minus the (row, window) pairs that came too late.

A naive second reading of the watermark's rules, one batch after another over whole tables: it shares
with the engine the meaning of nodes on bounded tables, and neither state, partial aggregates nor loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from unbounded.connectors import Mode, WatermarkPolicy
from unbounded.operators import FINAL, at_most_milliseconds, closing_instant
from unbounded.plan import (
    Aggregate,
    Concat,
    InOrder,
    Node,
    Positioned,
    Scan,
    Static,
    Unique,
    Watermark,
    evaluate,
    is_bounded,
    lower_filters,
    walk,
)
from unbounded.plan.asof import AsofJoin
from unbounded.plan.lineage import clocks, closing, is_whole
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.plan.pairs import Side, StreamJoin
from unbounded.plan.sequence import waits
from unbounded.plan.sessions import BOUNDARIES, END, Sessions
from unbounded.plan.windows import LABEL
from unbounded.testing.partners import added, met
from unbounded.testing.story import Taken

__all__ = ["Truth", "comes_in_time", "truth"]

_ROW, _EXPIRY, _NEW, _TIME = "__row__", "__expiry__", "__new__", "__time__"


@dataclass(frozen=True)
class Truth:
    """What must be true after some batches."""

    answer: pl.LazyFrame
    late: Mapping[int, int]
    """Late pairs by number of batch; batches without any are left out."""
    marks: Mapping[int, int | None]
    """The watermark by number of batch, by which it evicts and the next one judges lateness, in epoch ms."""
    given: Mapping[int, pl.DataFrame]
    """In append mode, the rows that become final in a batch, by its number."""


def truth(plan: Node, mode: Mode, batches: Sequence[Taken], policy: WatermarkPolicy = "min") -> Truth:
    """Read every batch as its intent says, and decide by the rules what counts."""
    plan = lower_filters(plan)
    reading, telling = _Reading(plan, mode, policy), _Reading(plan, mode, policy, tells=True)
    late, marks, given = {}, {}, {}
    for batch in batches:
        if mode == "append":
            telling.take(batch)
            given[batch.intent.batch] = telling.given.collect(engine="in-memory")
        if gone := reading.take(batch):
            late[batch.intent.batch] = gone
        marks[batch.intent.batch] = reading.mark
    everything = {name: pl.concat(batch.rows[name] for batch in batches).lazy() for name in batches[0].rows}
    return Truth(evaluate(reading.plan, everything, known=reading.known(everything)), late, marks, given)


class _Reading:
    """What the batches so far come to, node by node up to the first ones that make rows wait.

    What stands above those gets its rows in time, and in an order of their own. One that `tells` goes up to the sink:
    it knows in which batch a row comes out, and takes the word of each node's own clock for what is late behind it.
    """

    def __init__(self, plan: Node, mode: Mode, policy: WatermarkPolicy, *, tells: bool = False) -> None:
        self.plan, self._mode, self._policy = plan, mode, policy
        self.given: pl.LazyFrame = plan.schema.to_frame().lazy()
        self.mark: int | None = None
        self._ended: dict[Node, list[pl.DataFrame]] = {}  # rows of sessions that take no more, by batch
        self._seen: dict[str, int] = {}
        self._known: dict[Node, pl.DataFrame] = {}  # values of each unique_within_watermark
        watches = [node for node in walk(plan) if isinstance(node, Watermark)]
        # What is whole from the start would hold the watermark back for ever.
        self._watches = [watch for watch in watches if not is_bounded(watch)] or watches
        self._waits, self._over = waits(plan), set[str]()  # sources that have ended
        # What forgets cannot be read from all rows at once, and where rows of an operator meet others these may be
        # late: everything below is told batch by batch.
        telling = [
            node
            for node in walk(plan)
            if (tells or _forgets(node) or _mixes(node)) and not any(is_whole(below, mode) for below in node.inputs)
        ]
        self._told = {below for node in telling for below in walk(node)}
        self._taken: dict[Node, list[pl.DataFrame]] = {
            node: []
            for node in walk(plan)
            if isinstance(node, Concat | Positioned | Aggregate | Unique | InOrder | Ordered | Rolling)
            and (node in self._told or not any(_judges(one) for below in node.inputs for one in walk(below)))
        }
        # Of a join each side is read on its own.
        self._sides: dict[StreamJoin | AsofJoin, dict[Side, list[pl.DataFrame]]] = {
            node: {
                side: []
                for side, below in _sides(node)
                if node in self._told or not any(_judges(one) for one in walk(below))
            }
            for node in walk(plan)
            if isinstance(node, StreamJoin | AsofJoin)
        }

    def take(self, batch: Taken) -> int:
        """Read a batch; how many pairs came too late."""
        limit, self.mark = self.mark, FINAL if batch.intent.final else self._least()
        tables = {name: rows.lazy() for name, rows in batch.rows.items()}
        here: dict[Node, pl.LazyFrame] = {}
        late = 0
        for node in walk(self.plan):
            taken = self._taken.get(node, [])
            match node:
                case _ if node not in self._taken and node not in self._sides:
                    continue
                case StreamJoin() | AsofJoin():
                    late += self._judge_sides(node, limit, tables, here)
                case Concat():  # branches meet batch by batch, which those who look at the order of rows can tell
                    taken.append(evaluate(node, tables, here).collect(engine="in-memory"))
                case Unique(within=int(within)):
                    late += self._judge(node, limit, evaluate(node.input, tables, here))
                    here[node] = self._first_ones(node, within).lazy()
                case Positioned() | Unique():  # they let rows pass at once, as those of earlier batches say
                    before = self._answer(node).collect().height if taken else 0
                    late += self._judge(node, limit, evaluate(node.input, tables, here))
                    here[node] = self._answer(node).slice(before)
                case Aggregate() | InOrder() | Ordered() | Rolling():
                    late += self._judge(node, limit, evaluate(node.input, tables, here))
                    if node in self._told:
                        here[node] = self._closed(node, limit)
        for watch in self._watches:
            self._see(watch, evaluate(watch.input, tables, here))
        self.given = evaluate(self.plan, tables, here)
        self._over.update(*(self._waits.get(name, ()) for name in batch.intent.offsets))
        return late

    def _judge_sides(
        self,
        join: StreamJoin | AsofJoin,
        limit: int | None,
        tables: Mapping[str, pl.LazyFrame],
        here: dict[Node, pl.LazyFrame],
    ) -> int:
        """Keep the rows of each side that count; how many came too late."""
        late, sides = 0, self._sides[join]
        before = self._met(join, limit) if join in self._told else None
        for side, below in _sides(join):
            if side not in sides:
                continue
            given = evaluate(below, tables, here).collect(engine="in-memory")
            is_late = _is_late(_closing_times_of_side(join, side, given), limit)
            sides[side].append(given.filter(~is_late))
            late += int(is_late.sum())
        if before is not None:
            here[join] = added(before, self._met(join, self.mark)).lazy()
        return late

    def _met(self, join: StreamJoin | AsofJoin, mark: int | None) -> pl.DataFrame:
        """What has come out of a join of the rows so far when the watermark stands there."""
        sides = [
            pl.concat([below.schema.to_frame(), *self._sides[join][side]], rechunk=True).lazy()
            for side, below in _sides(join)
        ]
        return met(join, sides[0], sides[1], mark)

    def _judge(self, node: Node, limit: int | None, given: pl.LazyFrame) -> int:
        """Keep the rows that count; how many came too late."""
        rows = given.collect(engine="in-memory")
        closes = _closing_times(node, self._mode, rows)
        is_late = _is_late(closes, limit)
        counts = ~is_late
        if isinstance(node, Aggregate) and self._mode == "append":
            counts &= closes.is_not_null()  # a group without a time never closes
        self._taken[node].append(rows.filter(counts))
        if isinstance(node, Sessions):
            self._close(node)
        return int(is_late.sum())

    def _close(self, node: Sessions) -> None:
        """Put the rows of sessions that have ended aside: one that would have joined them later begins another."""
        closes = closing(node)
        if self.mark is None or not closes or self._mode == "complete":
            return
        rows = pl.concat(self._taken[node], rechunk=True).with_row_index(_ROW)
        told = replace(node, aggregates=(pl.col(_ROW).implode(),), boundaries=True)
        sessions = told.apply(rows.lazy()).rename({BOUNDARIES[1]: END}).collect(engine="in-memory")
        over = sessions.filter(closing_instant(closes, sessions.schema) <= self.mark).select(pl.col(_ROW).explode())
        self._ended.setdefault(node, []).append(rows.join(over, on=_ROW, how="semi").drop(_ROW))
        self._taken[node] = [rows.join(over, on=_ROW, how="anti").drop(_ROW)]

    def _closed(self, node: Aggregate | InOrder | Ordered | Rolling, before: int | None) -> pl.LazyFrame:
        """The rows that come out of a node in the batch that was just judged."""
        if self.mark is None:
            return node.schema.to_frame().lazy()
        if isinstance(node, Sessions):
            return node.apply(self._ended[node][-1].lazy())
        told: Node = node
        time = ""
        match node:
            case Ordered(verb="select" | "with_columns"):  # its time may be dropped, or computed anew
                told, time = replace(node, exprs=(*node.exprs, pl.col(node.time).alias(_TIME))), _TIME
            case Ordered():
                time = node.time
            case Rolling():
                time = LABEL
        answer = self._answer(node, told)
        found = closing(node) if isinstance(node, Aggregate) else clocks(told)
        found = {time: found[time]} if time else found
        instant = closing_instant(found, told.schema)
        due = instant <= self.mark if before is None else (instant > before) & (instant <= self.mark)
        return answer.filter(due).select(*node.schema)

    def _first_ones(self, node: Unique, within: int) -> pl.DataFrame:
        """Of the rows that were just judged those whose value is not known; which values are known from now on."""
        rows = self._taken[node].pop()
        expiry = closing_instant(clocks(node.input), node.schema) + within
        new = rows.with_columns(expiry.alias(_EXPIRY), pl.lit(value=True).alias(_NEW))
        if any(isinstance(one, Aggregate | StreamJoin | AsofJoin) for one in walk(node.input)):
            new = new.sort(_EXPIRY, *clocks(node.input), nulls_last=True, maintain_order=True)
        known = self._known.get(node, new.clear()).with_columns(pl.lit(value=False).alias(_NEW))
        both = pl.concat([known, new]).unique(node.subset, keep="first", maintain_order=True)
        stays = pl.col(_EXPIRY).is_not_null()
        self._known[node] = both.filter(stays if self.mark is None else stays & (pl.col(_EXPIRY) > self.mark))
        self._taken[node].append(both.filter(_NEW).select(*node.schema))
        return self._taken[node][-1]

    def _see(self, watch: Watermark, rows: pl.LazyFrame) -> None:
        time = at_most_milliseconds(pl.col(watch.column).max(), watch.schema[watch.column])
        newest = rows.select(time).collect(engine="in-memory").item()
        if newest is not None:
            reached = newest - watch.delay
            self._seen[watch.name] = max(reached, self._seen.get(watch.name, reached))

    def _least(self) -> int | None:
        """The watermark by the policy; it never goes back. Sources that ended, or wait for others, are not asked."""
        resting = self._over | {name for name, first in self._waits.items() if not first <= self._over}
        names = {watch.name for watch in self._watches if not _sources(watch) <= resting}
        policy, names = (self._policy, names) if names else ("max", {watch.name for watch in self._watches})
        known = [self._seen[name] for name in names if name in self._seen]
        if not known or (policy == "min" and len(known) < len(names)):
            return self.mark
        reached = min(known) if policy == "min" else max(known)
        return reached if self.mark is None else max(reached, self.mark)

    def _answer(self, node: Node, told: Node | None = None) -> pl.LazyFrame:
        """What the rows that were taken come to at a node; with the columns of `told`, if it tells more."""
        # In one chunk: over several, Polars 2.1 gives 0.0 for std(ddof=0) of a group of nulls, which is null else.
        rows = pl.concat(self._taken[node], rechunk=True).lazy()
        if isinstance(node, Concat) or _forgets(node):
            return rows
        ended = (one.rechunk().lazy() for one in self._ended.get(node, ()))
        return pl.concat([*map(node.apply, ended), (told or node).apply(rows)])

    def known(self, everything: Mapping[str, pl.LazyFrame]) -> dict[Node, pl.LazyFrame]:
        """The rows of the nodes that were read, over all batches, which gave `everything`."""
        found = {node: self._answer(node) for node in self._taken}
        for join, sides in self._sides.items():  # those below stand first
            found[join] = join.apply(
                *(
                    pl.concat(sides[side], rechunk=True).lazy() if side in sides else evaluate(below, everything, found)
                    for side, below in _sides(join)
                )
            )
        return found


def _sources(node: Node) -> set[str]:
    return {one.name for one in walk(node) if isinstance(one, Scan)}


def _sides(join: StreamJoin | AsofJoin) -> list[tuple[Side, Node]]:
    return [("left", join.left), ("right", join.right)]


def _is_late(closes: pl.Series, limit: int | None) -> pl.Series:
    if limit is None:
        return pl.repeat(value=False, n=len(closes), eager=True)
    return (closes <= limit).fill_null(value=False)


def _forgets(node: Node) -> bool:
    return isinstance(node, Unique) and node.within is not None


def _mixes(node: Node) -> bool:
    """Whether a node that judges gets rows that waited for the watermark, and others that did not.

    Or rows that waited and tell no event time any more, which a join judges by that of its other side.
    """
    if isinstance(node, StreamJoin) and any(node.kept(side).judged and not clocks(one) for side, one in _sides(node)):
        return True
    kinds = [_kinds(below) for below in node.inputs]
    apart = kinds if isinstance(node, StreamJoin | AsofJoin) else [frozenset[bool]().union(*kinds)]
    return _judges(node) and {True, False} in apart


def comes_in_time(node: Node) -> bool:
    """Whether all rows of a node went through an operator that leaves out late ones."""
    return _kinds(node) == {True}


def _kinds(node: Node) -> frozenset[bool]:
    """Whether rows of a node waited for the watermark: some did, some did not."""
    match node:
        case Static():
            return frozenset()
        case Scan():
            return frozenset({False})
        case _:
            return frozenset({True}) if _judges(node) else frozenset[bool]().union(*map(_kinds, node.inputs))


def _judges(node: Node) -> bool:
    """Whether what comes out of a node is in time for whatever stands above."""
    waits = isinstance(node, Aggregate | InOrder | Ordered | Rolling | StreamJoin | AsofJoin)
    return waits or (isinstance(node, Unique) and bool(clocks(node.input)))


def _closing_times(node: Node, mode: Mode, rows: pl.DataFrame) -> pl.Series:
    """When what each input row adds to is final, in epoch ms; null where it is never late."""
    keys, found = rows, {}
    schema: Mapping[str, pl.DataType] = node.schema
    match node:
        case Sessions():  # each row by itself, whatever session would take it
            found = closing(node) if mode != "complete" else {}
            keys = rows.select(node.ends.alias(END))
            schema = keys.schema
        case Aggregate():
            # Complete mode keeps every group, so a late row still counts.
            found = closing(node) if mode != "complete" else {}
            keys = rows.select(node.keys)
        case Unique():
            below = clocks(node.input)
            timed = {name: below[name] for name in node.subset if name in below}
            found = below if node.within is not None else timed or below
        case InOrder():
            found = {node.keys[0]: clocks(node.input)[node.keys[0]]}
        case Ordered() | Rolling():
            found, schema = {node.time: clocks(node.input)[node.time]}, node.input.schema
    if not found:
        return pl.repeat(None, n=rows.height, dtype=pl.Int64, eager=True)
    return keys.select(closing_instant(found, schema)).to_series()


def _closing_times_of_side(join: StreamJoin | AsofJoin, side: Side, rows: pl.DataFrame) -> pl.Series:
    """When each row of one side of a join is late, in epoch ms; null where it is never."""
    if isinstance(join, AsofJoin):
        return rows.select(closing_instant({join.time(side): join.clock(side)}, rows.schema)).to_series()
    judged = join.kept(side).judged
    if not judged:
        return pl.repeat(None, n=rows.height, dtype=pl.Int64, eager=True)
    schema = {**join.columns(side), **join.key_schema}
    return join.ready(rows.lazy(), side).select(closing_instant(judged, schema)).collect().to_series()
