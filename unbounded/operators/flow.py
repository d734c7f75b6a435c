"""How the rows of one batch go from the sources to the sink: one lazy plan per level of operators.

Row-wise nodes, the scan and the partial aggregates of a level are one Polars plan each, collected
together; an operator's rows then start the plan of the next level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import polars as pl

from unbounded.connectors import Mode
from unbounded.errors import PlanError
from unbounded.expressions.now import at, tells_time
from unbounded.operators import Batch, Change, Operator, Tables, at_most_milliseconds
from unbounded.operators.answer import schema_text, spec_record
from unbounded.operators.bounded import BoundedTables
from unbounded.operators.choosing import Joining, kind_of, operator_of
from unbounded.operators.explaining import explained
from unbounded.operators.joined import StreamJoinOperator
from unbounded.operators.modes import may_repeat_keys
from unbounded.operators.telling import carries, counts, late_of
from unbounded.partials.columns import overflow
from unbounded.plan import (
    Aggregate,
    Join,
    Lookup,
    Node,
    Scan,
    Static,
    Step,
    Watermark,
    is_bounded,
    lower_filters,
    walk,
)
from unbounded.plan.lineage import is_whole, table_key
from unbounded.plan.sessions import Sessions
from unbounded.plan.windows import Window
from unbounded.state import MultimapSpec, TableSpec

__all__ = ["Flow", "Outcome"]

_SHOWN = "__shown__"
_LARGE = 200_000
"""Input rows from which the streaming engine wins over the in-memory one; below, it costs 0.25 ms a plan more."""


@dataclass(frozen=True)
class Outcome:
    """What a batch gave: rows for the sink, and what the loop writes down."""

    rows: pl.DataFrame
    removed: pl.DataFrame
    read: Mapping[str, int]
    """Rows per source name."""
    seen: Mapping[str, int]
    """The newest event time per watermark name, in epoch ms; missing where none was seen."""
    changes: Mapping[str, Change]
    late: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """The rows that came too late, by operator, if they are to be kept."""


class Flow:
    """A plan in an output mode, ready to take batches.

    Bounded tables are read by `open`, and again as `BoundedTables` says. `run` may be called again for the same
    batch only after the tables of state were restored. `keeps_table` says whether the sink replaces rows by their
    key; to one that does not, rows of one key are as good as any. `keeps_late` asks for the rows that came too late.
    """

    def __init__(
        self,
        plan: Node,
        mode: Mode,
        reread_bounded: str | timedelta | None = None,
        *,
        keeps_table: bool = True,
        keeps_late: bool = False,
    ) -> None:
        self.plan, self.mode, self._keeps_table = lower_filters(plan), mode, keeps_table
        self._keeps_late = keeps_late
        self.scans = {node.name: node for node in walk(self.plan) if isinstance(node, Scan)}
        # A filter below its watermark may make two nodes of one: all of them tell the same watermark.
        marks = [node for node in walk(self.plan) if isinstance(node, Watermark)]
        # What is whole from the start would hold the watermark back for ever.
        self._marks = [mark for mark in marks if not is_bounded(mark)] or marks
        self.marks = {mark.name: mark for mark in self._marks}
        self._carriers: dict[int, str] = {}
        self._counters: dict[str, str] = {}
        self._operators: dict[int, Operator | Joining] = {}
        for node in walk(self.plan):
            # Above a table that every batch shows whole, each verb is Polars' own.
            if not any(is_whole(below, mode) for below in node.inputs):
                self._add_operator(node)
        self._bounded = BoundedTables((one for one in walk(self.plan) if isinstance(one, Static)), reread_bounded)
        self._timed = [node for node in walk(self.plan) if tells_time(vars(node))]
        self._dated: dict[int, Node] = {}  # those, in the batch that runs
        self._shares = False  # whether a plan of the batch that runs looks at its own rows twice
        self._rows_before = _LARGE  # the first batch may be years of history

    def _add_operator(self, node: Node) -> None:
        """Give a node that must remember its operator, named by its kind and by which of that kind it is."""
        kind = kind_of(node)
        if kind is None:
            return
        id = f"{kind}-{1 + sum(one.id.startswith(f'{kind}-') for one in self.operators)}"
        seen = self._note_carrier(id, node) if isinstance(node, Aggregate) else None
        self._operators[_id_of(node)] = operator_of(id, node, self.mode, seen)
        if isinstance(node, Aggregate) and (scan := counts(node)) is not None:
            self._counters[scan.name] = id

    def _note_carrier(self, id: str, node: Aggregate) -> str | None:
        found = carries(node)
        if found is None or _id_of(found[0]) in self._carriers:
            return None
        self._carriers[_id_of(found[0])] = id
        return found[1]

    @property
    def operators(self) -> Sequence[Operator | Joining]:
        """From the sources to the sink."""
        return tuple(self._operators.values())

    @property
    def evicts(self) -> bool:
        """Whether a moved watermark alone is worth a batch."""
        return any(operator.evicts for operator in self.operators)

    @property
    def lonely(self) -> set[str]:
        """The tables whose rows come out if they find no partner."""
        return {table for one in self.operators if isinstance(one, StreamJoinOperator) for table in one.lonely}

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The columns by which the sink's rows replace earlier ones; empty in other modes than update."""
        if self.mode == "append":
            return ()
        found = table_key(self.plan)
        return tuple(found or ())

    def tables(self) -> dict[str, TableSpec | MultimapSpec]:
        """What the home of the state must keep: operator id and table name, joined with "/"."""
        return self._tables

    @cached_property
    def _tables(self) -> dict[str, TableSpec | MultimapSpec]:
        return {
            f"{one.id}/{name}": one.answer.told(name, spec)
            for one in self.operators
            for name, spec in one.tables().items()
        }

    def pinned(self) -> dict[str, Any]:
        """What a restart compares."""
        return {
            "mode": self.mode,
            "sources": sorted(self.scans),
            "operators": {one.id: dict(one.pinned()) for one in self.operators},
        }

    def described(self, logs: Mapping[str, pl.Schema]) -> dict[str, Any]:
        """What each operator remembers and how to show it, and the logs beside, as JSON: for readers of the state."""
        operators = {
            one.id: {
                "tables": {name: spec_record(spec) for name, spec in one.tables().items()},
                "answer": one.answer.record(),
            }
            for one in self.operators
        }
        return {"operators": operators, "logs": {name: schema_text(schema) for name, schema in logs.items()}}

    def open(self, clock: Callable[[], datetime]) -> None:
        """Read the bounded tables; the clock is asked only if they are to be read again."""
        self._bounded.read(clock)

    def run(self, batch: Batch, rows: Mapping[str, pl.LazyFrame], tables: Tables) -> Outcome:
        """Take one batch of every source through the plan."""
        self._bounded.refresh(batch.time)
        self._dated = {_id_of(node): _at(node, batch) for node in self._timed}
        self._shares = False
        lazies: dict[int, pl.LazyFrame] = {}
        changes: dict[str, Change] = {}
        kept: dict[str, pl.DataFrame] = {}
        early, late = self._monitored
        numbers = [rows[name].select(self._count_of(name)) for name in self.scans if name not in self._counters]
        monitors = [*numbers, *(self._newest(mark, lazies, rows) for mark in early)]
        noted: list[pl.DataFrame] | None = None
        for level in self._levels:
            operators = [(node, self._operators[_id_of(node)]) for node in level]
            taken = [(one, [self._lazy(below, lazies, rows) for below in _taken_by(node)]) for node, one in operators]
            plans: list[pl.LazyFrame] = []
            for one, given in taken:
                if isinstance(one, Joining):
                    plans += one.prepare_sides(given[0], given[1], batch)
                else:
                    plans.append(one.prepare(given[0], tables.of(one), batch))
            late_rows = late_of(taken, batch) if self._keeps_late else {}
            self._shares |= bool(late_rows)
            own = [*plans, *late_rows.values()]
            collected = self._collect([*own, *(monitors if noted is None else [])], large=noted is None)
            kept |= zip(late_rows, collected[len(plans) :], strict=False)
            noted = collected[len(own) :] if noted is None else noted
            partials = iter(collected)
            for node, operator in operators:
                if isinstance(operator, Joining):
                    change = operator.step_sides(next(partials), next(partials), tables.of(operator), batch)
                else:
                    change = operator.step(next(partials), tables.of(operator), batch)
                changes[operator.id] = change
                lazies[_id_of(node)] = change.rows
        wanted = [self._lazy(self.plan, lazies, rows)]
        if self._top is not None:
            wanted.append(self._touched(self._top, lazies, changes))
        monitors = [*(monitors if noted is None else []), *(self._newest(mark, lazies, rows) for mark in late)]
        collected = self._collect([*wanted, *monitors], large=noted is None)
        noted = [*(noted or []), *collected[len(wanted) :]]
        told = iter(noted)
        read = {
            name: changes[self._counters[name]].taken if name in self._counters else int(next(told).item())
            for name in self.scans
        }
        self._rows_before = sum(read.values())
        return Outcome(
            rows=collected[0],
            removed=self._removed(collected[0], collected[1] if self._top is not None else None),
            read=read,
            seen=self._seen(changes, told),
            changes=changes,
            late=kept,
        )

    def _collect(self, plans: Sequence[pl.LazyFrame], *, large: bool) -> list[pl.DataFrame]:
        """Collect together; `large` where the plans read the sources and not what an operator made of them."""
        # A newest time is found among rows that another plan reads: sharing them saves a quarter of ten files' time. A
        # count alone reads no column if nothing is shared, and one column for nothing if something is.
        shared = self._shares or (large and bool(self._monitored[0]))
        engine: Literal["streaming", "in-memory"] = (
            "streaming" if large and self._rows_before >= _LARGE else "in-memory"
        )
        try:
            if len(plans) == 1:
                return [plans[0].collect(engine=engine)]
            return pl.collect_all(plans, engine=engine, optimizations=pl.QueryOptFlags(comm_subplan_elim=shared))
        except pl.exceptions.InvalidOperationError as error:
            if (named := overflow(error)) is None:
                raise
            raise named from error

    @cached_property
    def _levels(self) -> list[list[Node]]:
        """The nodes that remember; those of a level are prepared together, because none needs another's rows."""
        depth: dict[int, int] = {}
        levels: dict[int, list[Node]] = {}
        for node in walk(self.plan):
            depth[_id_of(node)] = max((depth[_id_of(below)] for below in node.inputs), default=0)
            if _id_of(node) in self._operators:
                depth[_id_of(node)] += 1
                levels.setdefault(depth[_id_of(node)], []).append(node)
        return [levels[i] for i in sorted(levels)]

    def _lazy(self, node: Node, lazies: dict[int, pl.LazyFrame], rows: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
        """The rows of a node in this batch; what stands above an operator needs that operator's step first."""
        found = lazies.get(_id_of(node))
        if found is not None:
            return found
        match node:
            case Scan():
                answer = rows[node.name]
            case Static():
                answer = self._bounded[node]
            case Join() | Lookup():
                answer = self._joined(node, lazies, rows)
            case _:
                node = self._dated.get(_id_of(node), node)
                answer = node.apply(*(self._lazy(one, lazies, rows) for one in node.inputs))
        lazies[_id_of(node)] = answer
        return answer

    def _joined(
        self, node: Join | Lookup, lazies: dict[int, pl.LazyFrame], rows: Mapping[str, pl.LazyFrame]
    ) -> pl.LazyFrame:
        left, right = (self._lazy(one, lazies, rows) for one in node.inputs)
        meeting = self._bounded.meeting(node, self._rows_before) if isinstance(node, Join) else None
        if meeting is not None:
            left, right = meeting.sides(left)
            self._shares = True
        # Measured: the streaming engine's join otherwise hands on rows in any order, which breaks `first`.
        return (node.in_order if self._ordered else node).apply(left, right)

    @cached_property
    def _ordered(self) -> bool:
        return any(operator.ordered for operator in self.operators)

    @cached_property
    def _monitored(self) -> tuple[list[Watermark], list[Watermark]]:
        """The watermarks that no partial aggregate tells: those over what the sources give, and those over operators,
        whose rows are there only when these have taken their step."""
        asked = [mark for mark in self._marks if _id_of(mark) not in self._carriers]
        late = [mark for mark in asked if any(_id_of(below) in self._operators for below in walk(mark.input))]
        return [mark for mark in asked if mark not in late], late

    def _count_of(self, name: str) -> pl.Expr:
        """The number of a source's rows, by a column that is read for its newest time if there is one."""
        times = (mark.column for mark in self._monitored[0] if isinstance(mark.input, Scan) and mark.input.name == name)
        return next((pl.col(time).len() for time in times), pl.len())

    def _newest(
        self, mark: Watermark, lazies: dict[int, pl.LazyFrame], rows: Mapping[str, pl.LazyFrame]
    ) -> pl.LazyFrame:
        time = at_most_milliseconds(pl.col(mark.column).max(), mark.schema[mark.column])
        return self._lazy(mark.input, lazies, rows).select(time)

    def _seen(self, changes: Mapping[str, Change], monitored: Iterator[pl.DataFrame]) -> dict[str, int]:
        """The newest time per watermark name, from the operators that carry it and the monitors."""
        newest: dict[str, int] = {}
        told = [(mark, next(monitored).item()) for marks in self._monitored for mark in marks]
        carried = [(mark, changes[id].seen) for mark in self._marks if (id := self._carriers.get(_id_of(mark)))]
        for mark, value in (*told, *carried):
            if value is not None:
                newest[mark.name] = max(value, newest.get(mark.name, value))
        return newest

    @property
    def _by_key(self) -> bool:
        """Whether the sink replaces rows by their key."""
        return self.mode == "update" and self._keeps_table

    # What left the table ------------------------------------------------------------------------
    @cached_property
    def _top(self) -> Aggregate | None:
        """The topmost aggregate, where a table is kept by key and a step above may drop rows, or sessions may merge."""
        if not self._by_key or not self.key:
            return None
        node, dropping = self.plan, False
        while not isinstance(node, Aggregate):
            dropping |= isinstance(node, Step | Join | Lookup) and node.drops_rows
            node = node.inputs[0]
        return node if dropping or isinstance(node, Sessions) else None

    def _touched(
        self, top: Aggregate, lazies: Mapping[int, pl.LazyFrame], changes: Mapping[str, Change]
    ) -> pl.LazyFrame:
        """The keys that the batch touched, under their names at the sink."""
        named = [pl.col(old).alias(name) for name, old in (table_key(self.plan) or {}).items()]
        left = changes[self._operators[_id_of(top)].id].left
        touched = [lazies[_id_of(top)], *([left.lazy()] if left is not None else [])]
        return pl.concat([rows.select(named) for rows in touched])

    def _removed(self, answer: pl.DataFrame, touched: pl.DataFrame | None) -> pl.DataFrame:
        key = list(self.key)
        if self._by_key and may_repeat_keys(self.plan) and answer.select(key).is_duplicated().any():
            raise PlanError(
                "update mode keeps one row per key, and a join above the aggregate made several rows of one key "
                f"({', '.join(key)}). Join before the aggregate, make the right side unique, or write with "
                'output_mode="complete"'
            )
        if touched is None:
            return answer.select(key).clear()
        # Keys that were touched and do not show: group_by knows that null, NaN and -0.0 are keys like others.
        gone, shown = pl.lit(value=False).alias(_SHOWN), pl.lit(value=True).alias(_SHOWN)
        both = pl.concat([touched.select(*key, gone), answer.select(*key, shown)])
        return both.group_by(key).agg(pl.col(_SHOWN).any()).filter(~pl.col(_SHOWN)).select(key)

    # For people ---------------------------------------------------------------------------------
    def explain(self) -> str:
        """The plan from sink to sources, then what each operator remembers, for how long, and what is late."""
        operators = {node: self._operators.get(_id_of(node)) for node in walk(self.plan)}
        plan = explained(self.plan, operators, keeps_late=self._keeps_late)
        return "\n\n".join([plan, *self._bounded.explain()])

    def growths(self) -> list[str]:
        """What is remembered without a bound, and what would bound it."""
        return [operator.grows for operator in self.operators if operator.grows is not None]


def _id_of(node: Node) -> int:
    """The identity by which a node is looked up; the plan keeps it alive."""
    return id(node)


def _taken_by(node: Node) -> Sequence[Node]:
    """The nodes whose rows an operator takes; an aggregate over windows puts rows into them itself."""
    return node.inputs[0].inputs if isinstance(node, Aggregate) and isinstance(node.inputs[0], Window) else node.inputs


def _at(node: Node, batch: Batch) -> Node:
    """The same node in a batch, which says what time it is."""
    return replace(node, **{name: at(value, batch) for name, value in vars(node).items() if tells_time(value)})
