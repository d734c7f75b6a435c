"""How does each row meet the rows around it? It waits for its turn, and finds what of them was remembered per key.

Rows come out in the order of event time, so that those of a batch stand behind all that came out before. Of these the
last few of each key are remembered where calls count rows, and those of the last while where calls reach back in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import polars as pl

from unbounded.durations import shortest
from unbounded.expressions import canonical, columns_of, passes
from unbounded.expressions.looking import Stage
from unbounded.expressions.now import at
from unbounded.operators import Batch, Change, Tables
from unbounded.operators.answer import Answer
from unbounded.operators.in_order import Waiting
from unbounded.operators.waiting import DUE, ROW
from unbounded.plan.lineage import clocks
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.state import Multimap, MultimapSpec, TableSpec

__all__ = ["OrderedOperator"]

_ALL: Final = "__all__"
_BACK: Final = "__back__"


class OrderedOperator:
    """An `Ordered` or a `Rolling`. Its rows are final, and come out in the order of their times."""

    ordered = True
    evicts = True

    def __init__(self, id: str, node: Ordered | Rolling) -> None:
        self.id, self._node, self._along = id, node, node.along
        given = node.input.schema
        needed = {node.time, *(name for expr in _read(node) for name in columns_of(expr))}
        if isinstance(node, Ordered) and node.verb != "select":
            needed |= set(given)
        schema = {name: dtype for name, dtype in given.items() if name in needed}
        self._waiting = Waiting(schema, (node.time,), clocks(node.input)[node.time], self._along.ahead)
        self._stages: list[_Before | _Within] = []
        for number, stage in enumerate(self._along.stages, 1):
            kind = _Before if stage.reach is None else _Within
            self._stages.append(kind(str(number), stage, schema, node.time, self._waiting, self._along.ahead))
            schema = {**schema, **self._stages[-1].adds}

    def tables(self) -> Mapping[str, TableSpec | MultimapSpec]:
        return {"waiting": self._waiting.spec, **{one.table: one.spec for one in self._stages}}

    @property
    def answer(self) -> Answer:
        return self._waiting.answer

    def pinned(self) -> Mapping[str, Any]:
        return {
            "kind": "in order of time",
            "time": self._node.time,
            "ahead": self._along.ahead,
            "columns": {name: str(dtype) for name, dtype in self._waiting.spec.values.items() if name != DUE},
            "looks": [one.pinned() for one in self._stages],
        }

    @property
    def late_schema(self) -> pl.Schema:
        return self._node.input.schema

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame | None:
        return self._waiting.late(rows, batch)

    def prepare(self, rows: pl.LazyFrame, tables: Tables, batch: Batch) -> pl.LazyFrame:
        return self._waiting.prepared(rows)

    def step(self, rows: pl.DataFrame, tables: Tables, batch: Batch) -> Change:
        taken = self._waiting.take(rows, tables["waiting"], batch)
        due = self._waiting.due(tables["waiting"], batch)
        met = due
        for stage in self._stages:
            met = stage.meet(met, taken.rows, tables, batch)
        verb = self._node.verb if isinstance(self._node, Ordered) else "select"
        shown: pl.LazyFrame = getattr(met.lazy(), verb)(*_in(batch, self._along.columns))
        return Change(
            rows=shown.select(*self._node.schema),
            taken=rows.height,
            updated=taken.rows.height,
            evicted=due.height,
            late=taken.late,
            without_time=taken.without_time,
        )

    # For people -----------------------------------------------------------------------------------
    @property
    def grows(self) -> str | None:
        return next((why for one in self._stages if (why := one.grows) is not None), None)

    def explain(self) -> Mapping[str, str]:
        time, ahead = repr(self._node.time), self._along.ahead
        reached, why = time, "no earlier row can come"
        if ahead:
            reached, why = f"{time} + {shortest(ahead)}", "its window can get no more rows"
        bound = "grows with the keys" if self.grows else "bounded by the watermark"
        return {
            "state": f"{bound}: rows that wait, and those that later ones look at",
            "kept": f"until the watermark reaches {reached}, when {why}; then emitted",
            "beside": "; ".join(dict.fromkeys(one.explain() for one in self._stages)),
            "late": f"rows whose {time} the watermark of the batch before had reached",
            "null": f"rows whose {time} is null",
        }


def _in(batch: Batch, exprs: Sequence[pl.Expr]) -> Sequence[pl.Expr]:
    return at(exprs, batch)


def _read(node: Ordered | Rolling) -> tuple[pl.Expr, ...]:
    return node.exprs if isinstance(node, Ordered) else (*node.keys, *node.aggregates)


class _Looking:
    """A stage: calls over the rows of a batch and, before them, what is remembered of their keys."""

    def __init__(
        self, name: str, stage: Stage, schema: Mapping[str, pl.DataType], time: str, waiting: Waiting, ahead: int
    ) -> None:
        self._name, self._stage, self._time, self._waiting, self._ahead = name, stage, time, waiting, ahead
        plain = [passes(key) for key in stage.keys]
        names = [name or f"__key{i}__" for i, name in enumerate(plain)]
        self._keys = dict(zip(names, stage.keys, strict=True)) or {_ALL: pl.lit(value=True)}
        self._reads = {name: expr for call in stage.calls for name, expr in call.reads}
        self._made = [call.expr.over(list(self._keys)) if stage.keys else call.expr for call in stage.calls]
        frame = pl.LazyFrame(schema=schema).with_columns(self._beside)
        self._before = frame.collect_schema()
        self.adds = frame.select(*self._reads, *self._made).collect_schema()

    @property
    def _beside(self) -> list[pl.Expr]:
        """The columns of what calls read, and of keys that are none."""
        keys = [expr.alias(name) for name, expr in self._keys.items() if passes(expr) != name]
        return [*keys, *(expr.alias(name) for name, expr in self._reads.items())]

    @property
    def _key_schema(self) -> pl.Schema:
        return pl.Schema({name: self._before[name] for name in self._keys})

    def _read(self, rows: pl.DataFrame, batch: Batch) -> pl.DataFrame:
        return rows.with_columns(_in(batch, self._beside))

    def _with_calls(self, rows: pl.DataFrame, batch: Batch) -> pl.DataFrame:
        return rows.with_columns(_in(batch, self._made))

    def pinned(self) -> Mapping[str, Any]:
        """What must not change over a restart."""
        return {
            "keys": {canonical(expr): str(self._key_schema[name]) for name, expr in self._keys.items()},
            "reads": [f"{canonical(expr)}: {self._before[name]}" for name, expr in self._reads.items()],
            "calls": [canonical(call.expr) for call in self._stage.calls],
            "rows": self._stage.rows,
            "reach": self._stage.reach,
        }

    @property
    def _by(self) -> str:
        return ", ".join(repr(passes(key) or " ".join(str(key).split())) for key in self._stage.keys)


class _Before(_Looking):
    """A stage that looks at the last few rows; of a call that carries on, the last one holds what it gave last."""

    @property
    def table(self) -> str:
        return f"before-{self._name}"

    @cached_property
    def spec(self) -> TableSpec:
        values = pl.Schema({name: self._before[name] for name in self._reads})
        return TableSpec(
            key=pl.Schema({**self._key_schema, _BACK: pl.Int64()}),
            values=values,
            merge=tuple(pl.col(name).last() for name in values),
            expiry=None,
        )

    def meet(self, due: pl.DataFrame, new: pl.DataFrame, tables: Tables, batch: Batch) -> pl.DataFrame:
        """The rows, which are in order, with what the calls give."""
        rows = self._read(due, batch)
        keys = list(self._keys)
        if not rows.height:
            return self._with_calls(rows, batch)
        backs = pl.DataFrame({_BACK: range(self._stage.rows, 0, -1)}, schema={_BACK: pl.Int64()})
        before = tables[self.table].lookup(
            rows.select(keys).unique().join(backs, how="cross", maintain_order="left_right")
        )
        columns = [*keys, *self._reads]
        both = self._with_calls(pl.concat([before.select(columns), rows.select(columns)]), batch)
        tables[self.table].merge(self._last(both))
        return rows.hstack(both[before.height :].select(call.name for call in self._stage.calls))

    def _last(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The last rows of each key, as they are remembered."""
        keys, back = list(self._keys), pl.col(_BACK)
        carried = {name: call.name for call in self._stage.calls if call.carried for name, _ in call.reads}
        if self._stage.rows == 1:
            known = (pl.col(carried.get(name, name)) for name in self._reads)
            last = rows.group_by(keys).agg(
                (one.drop_nulls() if name in carried else one).last().alias(name)
                for name, one in zip(self._reads, known, strict=True)
            )
            return last.select(*keys, pl.lit(1, pl.Int64).alias(_BACK), *self._reads)
        last = rows.with_columns(
            (pl.int_range(pl.len(), 0, -1, dtype=pl.Int64)).over(keys).alias(_BACK),
            *(pl.col(gave).forward_fill().over(keys).alias(name) for name, gave in carried.items()),
        ).filter(back <= self._stage.rows)
        last = last.with_columns(pl.when(back == 1).then(pl.col(name)).alias(name) for name in carried)
        return last.select(*self.spec.key, *self.spec.values)

    @property
    def grows(self) -> str | None:
        """Why nothing bounds it."""
        if not self._stage.keys:
            return None
        return (
            f"the last rows of each {self._by} are remembered for ever, since another one may come at any time. It "
            'grows with the keys; rolling_*_by(..., window_size="1d") forgets keys that have been silent for so long'
        )

    def explain(self) -> str:
        """What is kept, and for how long."""
        last = "the last emitted row" if self._stage.rows == 1 else f"the last {self._stage.rows} emitted rows"
        return f"{last} of each {self._by}, for ever" if self._stage.keys else f"{last}, for ever"


class _Within(_Looking):
    """A stage that looks at the rows of a while; a row is forgotten when no later one can reach it."""

    grows = None

    @property
    def table(self) -> str:
        return f"within-{self._name}"

    @cached_property
    def spec(self) -> MultimapSpec:
        values = {name: self._before[name] for name in (self._time, *self._reads) if name not in self._keys}
        return MultimapSpec(
            key=self._key_schema,
            values=pl.Schema({**values, ROW: pl.Int64(), DUE: pl.Int64()}),
            expiry=DUE,
        )

    def meet(self, due: pl.DataFrame, new: pl.DataFrame, tables: Tables, batch: Batch) -> pl.DataFrame:
        """The rows, which are in order, with what the calls give."""
        rows = self._read(due, batch)
        table = tables.multimaps[self.table]
        columns = list(dict.fromkeys([*self._keys, self._time, ROW, *self._reads]))
        if self._stage.ahead:  # a row may be looked at before its own turn comes
            self._remember(self._read(new, batch), table, batch)
        if rows.height:
            before = table.probe(rows.select(list(self._keys)).unique()).select(columns)
            if self._stage.ahead:
                other = ~pl.col(ROW).is_in(rows[ROW].implode())
                both = pl.concat([before.filter(other), rows.select(columns)]).sort(self._time, ROW)
                made = self._with_calls(both, batch).filter(~other)
            else:
                made = self._with_calls(pl.concat([before, rows.select(columns)]), batch)[before.height :]
        else:
            made = self._with_calls(rows, batch)
        if not self._stage.ahead:
            self._remember(rows, table, batch)
        if batch.watermark is not None:
            table.expire(batch.watermark)
        return rows.hstack(made.select(call.name for call in self._stage.calls))

    def _remember(self, rows: pl.DataFrame, table: Multimap, batch: Batch) -> None:
        expiry = (self._waiting.instant + (self._stage.reach or 0) + self._ahead).alias(DUE)
        rows = rows.select(*self.spec.key, *(name for name in self.spec.values if name != DUE), expiry)
        if batch.watermark is not None and not self._stage.ahead:  # the others are looked at first
            rows = rows.filter(pl.col(DUE) > batch.watermark)
        table.append(rows)

    def explain(self) -> str:
        """What is kept, and for how long."""
        rows = "rows" if self._stage.ahead else "emitted rows"
        those = f"{rows} of each {self._by}" if self._stage.keys else rows
        length = shortest((self._stage.reach or 0) + self._ahead)
        return f"{those}, until the watermark is {length} past their {self._time!r}"
