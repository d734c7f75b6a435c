"""What is asked: nodes, each saying once, as a Polars call, what it means on a bounded table.

From `Node.apply` come a node's schema (apply it to an empty frame), its execution when it is
row-wise (apply it to the new rows) and the oracle of its tests (apply it to all rows).

windows.py, sessions.py   groups by time, by gaps     ordered.py   rows around a row
pairs.py, pairing.py      joins of streams            asof.py      the nearest row in time
sequence.py               one source after another    lineage.py   what becomes of a column
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import polars as pl

from unbounded.aggregates import Cut, cut
from unbounded.connectors import Bounded, Source
from unbounded.expressions import columns_of, conjuncts

__all__ = [
    "HAVING",
    "Aggregate",
    "Concat",
    "InOrder",
    "Join",
    "Keep",
    "Lookup",
    "Node",
    "Positioned",
    "Scan",
    "Static",
    "Step",
    "Unique",
    "Verb",
    "Watermark",
    "Whole",
    "bits",
    "evaluate",
    "is_bounded",
    "lower_filters",
    "walk",
]

# Verbs of `Step` that may leave out rows.
_DROPPING = frozenset({"filter", "remove", "drop_nulls", "drop_nans", "explode", "map_batches"})

HAVING = "__having__"
"""The column in which an aggregate says whether a group is wanted, for a filter above it."""

_PLACE = "__place__"  # of a row in the stream, while a join may hand rows on in another order


@dataclass(frozen=True, eq=False)
class Node:
    """A step of a query. Immutable; compared by identity, for two Polars expressions have no equality."""

    @property
    def inputs(self) -> tuple[Node, ...]:
        return ()

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        """The meaning on bounded tables, one for each input."""
        raise NotImplementedError

    @cached_property
    def schema(self) -> pl.Schema:
        """What Polars says of `apply`; its own errors come up here, while the query is written."""
        return self.apply(*(pl.LazyFrame(schema=node.schema) for node in self.inputs)).collect_schema()


@dataclass(frozen=True, eq=False)
class Scan(Node):
    """The rows of a source, which `evaluate` and the flow look up by `name`."""

    source: Source
    name: str
    may_move: bool = False
    """Whether a checkpoint of another place may go on here."""
    idle_timeout: int | None = None
    """Milliseconds without rows after which no watermark waits for it; None if it always does."""

    @cached_property
    def schema(self) -> pl.Schema:
        return pl.Schema(self.source.schema)


@dataclass(frozen=True, eq=False)
class Static(Node):
    """A bounded table beside the stream. A LazyFrame is read at each start, a DataFrame is fixed for ever."""

    table: pl.LazyFrame
    is_fixed: bool = False

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return self.table


@dataclass(frozen=True, eq=False)
class Verb(Node):
    """A verb of `pl.LazyFrame` over one table.

    `exprs` are single-output expressions with their final names; other arguments stand in `options`.
    """

    input: Node
    verb: str
    exprs: tuple[pl.Expr, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        answer: pl.LazyFrame = getattr(rows[0], self.verb)(*self.exprs, **self.options)
        return answer


@dataclass(frozen=True, eq=False)
class Step(Verb):
    """A row-wise verb: each row alone decides what becomes of it."""

    @property
    def drops_rows(self) -> bool:
        return self.verb in _DROPPING


@dataclass(frozen=True, eq=False)
class Join(Node):
    """A stream joined to a bounded table. NaN keys are equal, nulls only with `nulls_equal`."""

    left: Node
    right: Static
    how: Literal["inner", "left", "semi", "anti"]
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        left, right = rows
        floats = [
            (f"__key_{i}", ours, theirs)
            for i, (ours, theirs) in enumerate(zip(self.left_on, self.right_on, strict=True))
            if self.left.schema[ours].is_float()
        ]
        if not floats:
            return left.join(right, left_on=self.left_on, right_on=self.right_on, how=self.how, **self.options)
        # Polars matches NaN with NaN or not, depending on the size of the frames: join on bits instead.
        ours_of = {ours: name for name, ours, _ in floats}
        theirs_of = {theirs: f"{name}_of_right" for name, _, theirs in floats}
        merged = self.how in ("inner", "left") and self.options.get("coalesce") is not False
        answer = left.with_columns(bits(pl.col(ours)).alias(name) for ours, name in ours_of.items()).join(
            right.with_columns(bits(pl.col(theirs)).alias(name) for theirs, name in theirs_of.items()).drop(
                theirs_of if merged else ()
            ),
            left_on=[ours_of.get(ours, ours) for ours in self.left_on],
            right_on=[theirs_of.get(theirs, theirs) for theirs in self.right_on],
            how=self.how,
            **self.options,
        )
        return answer.drop(*ours_of.values(), *theirs_of.values(), strict=False)

    @property
    def drops_rows(self) -> bool:
        return self.how != "left"

    @property
    def in_order(self) -> Join:
        """The same join, handing on rows in the stream's order. It costs time, and is for those who look at order."""
        return replace(self, options={**self.options, "maintain_order": "left"})


@dataclass(frozen=True, eq=False)
class Lookup(Node):
    """What Polars' own `verb` finds for each row of a stream in a bounded table; every row stands alone."""

    left: Node
    right: Static
    verb: Literal["join", "join_asof", "join_where", "update"]
    exprs: tuple[pl.Expr, ...]
    options: Mapping[str, Any]
    ordered: bool = False

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.left, self.right)

    @property
    def in_order(self) -> Lookup:
        """The same lookup, handing on rows in the stream's order; see `Join.in_order`."""
        return replace(self, ordered=True)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        if not self.ordered:
            return self._found(*rows)
        placed = self._found(rows[0].with_row_index(_PLACE), rows[1])
        return placed.sort(_PLACE, maintain_order=True).drop(_PLACE)

    def _found(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        if self.verb == "join_asof":  # Polars wants both sides in order of their times
            left = left.sort(self.options["left_on"], maintain_order=True)
            right = right.sort(self.options["right_on"], maintain_order=True)
        answer: pl.LazyFrame = getattr(left, self.verb)(right, *self.exprs, **self.options)
        return answer

    @property
    def drops_rows(self) -> bool:
        return self.options.get("how") in ("inner", "cross", "semi", "anti")


def bits(floats: pl.Expr) -> pl.Expr:
    """Floats as integers that are equal where Polars' group_by calls the floats equal."""
    value = floats.cast(pl.Float64) + 0.0  # -0.0 becomes 0.0
    return pl.when(value.is_nan()).then(pl.lit(float("nan"))).otherwise(value).reinterpret(signed=True)


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Streams behind one another; rows of a batch come input by input."""

    parts: tuple[Node, ...]
    how: Literal["vertical", "vertical_relaxed", "diagonal", "diagonal_relaxed"]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.parts

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return pl.concat(rows, how=self.how)


@dataclass(frozen=True, eq=False)
class Watermark(Node):
    """Rows older than the newest `column` seen minus `delay` milliseconds may come too late to count."""

    input: Node
    column: str
    delay: int
    name: str
    """The names of the sources below, joined with "+": the identity of a watermark over restarts."""

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows[0]


@dataclass(frozen=True, eq=False)
class Aggregate(Node):
    """One row per key, keys first; one row in all where there is no key."""

    input: Node
    keys: tuple[pl.Expr, ...]
    aggregates: tuple[pl.Expr, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        if not self.keys:
            return rows[0].select(self.aggregates)
        return rows[0].group_by(self.keys).agg(self.aggregates)

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return tuple(key.meta.output_name() for key in self.keys)

    @cached_property
    def cut(self) -> Cut:
        """The aggregates, cut. PlanError for those that have no such form."""
        return cut(self.aggregates, self.input.schema, keyed=bool(self.keys))


@dataclass(frozen=True, eq=False)
class Unique(Node):
    """The first row of each value of `subset`; any row of them unless `first`.

    With `within`, a value is forgotten so many milliseconds of event time after its first row, and may then come again.
    """

    input: Node
    subset: tuple[str, ...]
    first: bool
    within: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows[0].unique(self.subset, keep="first", maintain_order=True)


@dataclass(frozen=True, eq=False)
class Positioned(Verb):
    """A verb that asks of each row how many came before it: slice, with_row_index or gather_every."""


@dataclass(frozen=True, eq=False)
class Keep(Verb):
    """The best or the last few rows of all, which later rows replace: top_k, bottom_k or tail."""


@dataclass(frozen=True, eq=False)
class Whole(Verb):
    """A verb that needs its whole table at once, which only complete mode above an aggregate has."""


@dataclass(frozen=True, eq=False)
class InOrder(Node):
    """Rows in the order of `keys`, of which the first is event time: each waits for the watermark to reach it."""

    input: Node
    keys: tuple[str, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    def apply(self, *rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows[0].filter(pl.col(self.keys[0]).is_not_null()).sort(self.keys, maintain_order=True)


def walk(node: Node) -> Iterator[Node]:
    """Every node once, inputs before what stands on them, from sources to sink."""
    seen: set[int] = set()

    def visit(one: Node) -> Iterator[Node]:
        if id(one) not in seen:
            seen.add(id(one))
            for below in one.inputs:
                yield from visit(below)
            yield one

    return visit(node)


def is_bounded(node: Node) -> bool:
    """Whether all rows of a node come in the first batch of a query."""
    return all(isinstance(one.source, Bounded) for one in walk(node) if isinstance(one, Scan))


def evaluate(
    node: Node, tables: Mapping[str, pl.LazyFrame], known: Mapping[Node, pl.LazyFrame] | None = None
) -> pl.LazyFrame:
    """The whole plan over bounded tables, by source name, rows in order; but for nodes whose rows are `known`."""
    answers: dict[int, pl.LazyFrame] = {id(one): rows for one, rows in (known or {}).items()}
    for one in walk(node):
        if id(one) in answers:
            continue
        rows = [answers[id(below)] for below in one.inputs]
        match one:
            case Scan():
                answers[id(one)] = tables[one.name]
            case Join() | Lookup():
                answers[id(one)] = one.in_order.apply(*rows)
            case _:
                answers[id(one)] = one.apply(*rows)
    return answers[id(node)]


def lower_filters(node: Node) -> Node:
    """Move filters that do not mention the time column below the watermark, as Spark does.

    Rows that such a filter leaves out then do not move the watermark.
    """
    below = tuple(lower_filters(one) for one in node.inputs)
    node = node if below == node.inputs else _with_inputs(node, below)
    if not (isinstance(node, Step) and node.verb == "filter" and isinstance(node.input, Watermark)):
        return node
    mark = node.input
    parts = [(part, mark.column in columns_of(part)) for predicate in node.exprs for part in conjuncts(predicate)]
    above, lowered = (tuple(part for part, timed in parts if timed is up) for up in (True, False))
    if not lowered:
        return node
    mark = replace(mark, input=lower_filters(replace(node, input=mark.input, exprs=lowered)))
    return replace(node, input=mark, exprs=above) if above else mark


def _with_inputs(node: Node, inputs: tuple[Node, ...]) -> Node:
    match node:
        case Concat():
            return replace(node, parts=inputs)
        case _ if len(inputs) == 2:
            return replace(node, left=inputs[0], right=inputs[1])  # type: ignore[call-arg]  # all of them are joins
        case _ if inputs:
            return replace(node, input=inputs[0])  # type: ignore[call-arg]  # every other node has one input
        case _:
            return node
