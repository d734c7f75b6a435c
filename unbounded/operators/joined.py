"""How do the rows of two streams find one another, whichever comes first? Each is kept while a partner may come.

A batch looks up what is kept of each side under the keys of the other's new rows, once each, and Polars joins: new rows
of the right with all these rows of the left, and new rows of the left with those of the right that were kept. So each
pair is found once, and a batch costs its rows and those that were kept under their keys, near their times if conditions
say how far apart these may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from unbounded.durations import shortest
from unbounded.expressions import canonical, columns_of, passes
from unbounded.operators import Batch, Change, Tables, TellsLate, at_least_milliseconds, came_late
from unbounded.operators.answer import Answer
from unbounded.operators.buckets import BUCKET, Buckets, buckets_of
from unbounded.operators.sides import AT_THE_END, LATE, Taken, without_late
from unbounded.plan.pairs import SIDES, Reach, Side, StreamJoin, bounded_by
from unbounded.plan.windows import NANOSECONDS_PER_TICK, later
from unbounded.state import Multimap, MultimapSpec

__all__ = ["StreamJoinOperator"]

_EXPIRY: Final = "__expiry__"
_FIRST: Final = "__first__"
_MATCHED: Final = "__matched__"
_POSSIBLE: Final = "__possible__"
_PLACE: Final[Mapping[Side, str]] = {"left": "__left__", "right": "__right__"}


class StreamJoinOperator:
    """A `StreamJoin`. Its rows are final: a pair when its second row comes, a row alone when no partner can come."""

    ordered = False

    def __init__(self, id: str, node: StreamJoin) -> None:
        self.id, self._node, self._buckets = id, node, buckets_of(node)
        self._buffers = {side: _Buffer(f"{id}/{side}", node, side, self._buckets) for side in SIDES}

    @property
    def evicts(self) -> bool:
        return any(self._node.kept(side).reaches for side in SIDES)

    def tables(self) -> Mapping[str, MultimapSpec]:
        return {side: buffer.spec for side, buffer in self._buffers.items()}

    @property
    def answer(self) -> Answer:
        return Answer("", ())  # two tables, of which each shows its own rows

    def pinned(self) -> Mapping[str, Any]:
        node = self._node
        keys = [
            f"{canonical(key.left)} {'==, null too,' if key.nulls_equal else '=='} {canonical(key.right)}"
            for key in node.keys
        ]
        conditions = [canonical(one) for one in (*node.only["left"], *node.only["right"], *node.conditions)]
        columns = {
            side: {name: str(dtype) for name, dtype in one.stored.items()} for side, one in self._buffers.items()
        }
        return {"kind": "join", "how": node.how, "keys": keys, "conditions": conditions, "columns": columns}

    @property
    def lonely(self) -> Sequence[str]:
        """The tables whose rows come out if they find no partner."""
        return [f"{self.id}/{side}" for side, buffer in self._buffers.items() if buffer.shows_alone]

    @property
    def sides(self) -> Sequence[TellsLate]:
        """Left and right, each of which can say which of its rows are late."""
        return tuple(self._buffers.values())

    # One batch ------------------------------------------------------------------------------------
    def prepare_sides(self, left: pl.LazyFrame, right: pl.LazyFrame, batch: Batch) -> list[pl.LazyFrame]:
        """What to collect of the rows of both sides."""
        return [self._buffers["left"].prepared(left, batch), self._buffers["right"].prepared(right, batch)]

    def step_sides(self, left: pl.DataFrame, right: pl.DataFrame, tables: Tables, batch: Batch) -> Change:
        """Take the prepared rows of one batch into the tables."""
        taken: dict[Side, Taken] = {
            side: self._buffers[side].taken(rows) for side, rows in zip(SIDES, (left, right), strict=True)
        }
        known: dict[Side, pl.DataFrame] = {
            "left": self._buffers["left"].under(taken["right"].rows, tables.multimaps["left"]),
            "right": self._buffers["right"].under(taken["left"].rows, tables.multimaps["right"]),
        }
        met = {side: self._met(side, known[side], taken[side].rows) for side in SIDES}
        pairs = self._pairs(met, known)
        matched: dict[Side, pl.Series] = {}
        if tracked := [side for side in SIDES if self._buffers[side].tracks]:
            found = pairs.collect(engine="in-memory")
            pairs = found.lazy()
            for side in tracked:
                matched[side] = _marks(met[side].height, found[_PLACE[side]])
        alone, updated, evicted = list[pl.LazyFrame](), 0, 0
        for side in SIDES:
            buffer, table = self._buffers[side], tables.multimaps[side]
            rows, mine = taken[side].rows, matched.get(side)
            if mine is not None:
                buffer.mark(known[side], mine[: known[side].height], table)
                rows = buffer.marked(rows, mine[known[side].height :])
            stays, goes = buffer.split(rows, batch)
            table.append(buffer.to_store(stays))
            gone = buffer.expired(table, batch)
            updated, evicted = updated + stays.height, evicted + gone.height
            if buffer.shows_alone:
                there = buffer.unmatched(taken[side].alone, goes, buffer.loaded(gone))
                alone += [self._node.alone(one.lazy(), side) for one in there]
        parts = [*self._shown(pairs, met["left"], matched), *alone]
        return Change(
            rows=pl.concat([part.select(self._node.answer) for part in parts]),
            taken=left.height + right.height,
            updated=updated,
            evicted=evicted,
            late=sum(one.late for one in taken.values()),
            without_time=sum(one.without_time for one in taken.values()),
        )

    def _met(self, side: Side, known: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        """All rows of a side among which pairs are looked for; with their places where these are asked for."""
        # Diagonal: what was kept does not say where its partners are.
        rows = pl.concat([known, new], how="diagonal") if known.height else new
        return rows.with_row_index(_PLACE[side]) if self._buffers[side].tracks else rows

    def _pairs(self, met: Mapping[Side, pl.DataFrame], known: Mapping[Side, pl.DataFrame]) -> pl.LazyFrame:
        """Each pair that the batch makes, once."""
        left, right = met["left"].lazy(), met["right"].lazy()
        of_left, of_right = known["left"].height, known["right"].height
        with_new = self._paired(left, self._spread(right.slice(of_right)))
        if not of_right:
            return with_new
        return pl.concat([with_new, self._paired(self._spread(left.slice(of_left)), right.head(of_right))])

    def _spread(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows if self._buckets is None else self._buckets.spread(rows)

    def _paired(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        return self._node.paired(left, right, beside=() if self._buckets is None else (BUCKET,))

    def _shown(self, pairs: pl.LazyFrame, left: pl.DataFrame, matched: Mapping[Side, pl.Series]) -> list[pl.LazyFrame]:
        """What comes out because it has a partner."""
        match self._node.how:
            case "anti":
                return [left.clear().lazy()]
            case "semi":
                return [left.filter(matched["left"]).lazy()]
        return [pairs]

    # For people -----------------------------------------------------------------------------------
    @property
    def grows(self) -> str | None:
        sides: list[Side] = [side for side in SIDES if not self._node.kept(side).reaches]
        if not sides:
            return None
        rows = " and ".join(sides)
        return (
            f"the join remembers every row of its {rows} side for ever, since a partner may come at any time. "
            f"{bounded_by(self._node, sides)}"
        )

    def explain(self) -> Mapping[str, str]:
        node = self._node
        endless = [side for side in SIDES if not node.kept(side).reaches]
        state = f"grows with the rows of the {' and the '.join(endless)}" if endless else "bounded by the watermark"
        lines = {
            "state": f"{state}: rows of both sides",
            "key": ", ".join(f"{_text(key.left)} = {_text(key.right)}" for key in node.keys),
        }
        lines |= {side: buffer.explain() for side, buffer in self._buffers.items()}
        if late := [self._buffers[side].late for side in SIDES if node.kept(side).judged]:
            lines["late"] = f"rows of the {' and of the '.join(late)} the watermark of the batch before had reached"
        return lines


class _Buffer:
    """What is kept of one side. Frames have its columns by their names in a pair; a table has the user's own."""

    def __init__(self, id: str, node: StreamJoin, side: Side, buckets: Buckets | None) -> None:
        self.id, self._node, self._side, self._kept, self._buckets = id, node, side, node.kept(side), buckets
        self._keys = [*node.named_keys, *([BUCKET] if buckets is not None else [])]
        self.leaves = side == "left" and node.how in ("semi", "anti")
        """Whether a row that found a partner needs no other."""
        self.tracks = self.leaves or node.keeps(side)
        self.shows_alone = node.shows_alone(side)
        names = {pair: own for own, pair in node.renamed.items()}
        if side == "left":
            names = {name: name for name in node.left.schema}
        if side == "right" and node.how in ("semi", "anti"):  # no column of it comes out
            read = {name for one in node.conditions for name in columns_of(one)}
            names = {name: own for name, own in names.items() if name in read}
        self._columns: Mapping[str, str] = names
        self._schema = {**node.columns(side), **node.key_schema, BUCKET: pl.Int64()}
        # A key that is a column as it stands is stored once.
        plain = {key: column for column, key in node.plain(side).items() if column in names}
        self._stored_keys = {key: names[plain[key]] if key in plain else key for key in self._keys}
        self._key_of = {column: key for key, column in plain.items()}
        self._own: dict[str, pl.DataType] = {_EXPIRY: pl.Int64()} if self._kept.reaches else {}
        if node.keeps(side):
            self._own[_MATCHED] = pl.Boolean()
        self.stored = {own: self._schema[name] for name, own in names.items()}
        values = {own: self._schema[name] for name, own in names.items() if name not in self._key_of}
        self.spec = MultimapSpec(
            key=pl.Schema({self._stored_keys[key]: self._schema[key] for key in self._keys}),
            values=pl.Schema({**values, **self._own}),
            expiry=_EXPIRY if self._kept.reaches else None,
        )
        shown = (*self._keys, *self._columns)
        self._nothing = pl.DataFrame(schema={**{name: self._schema[name] for name in shown}, **self._own})

    # New rows -------------------------------------------------------------------------------------
    def prepared(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame:
        """The rows with their keys, when they can be forgotten, and whether they count."""
        node, kept = self._node, self._kept
        beside = [node.possible(self._side).alias(_POSSIBLE)]
        if kept.reaches:
            instants = [_instant(one, self._schema[one.within.earlier]) for one in kept.reaches]
            beside.append(pl.min_horizontal(instants).fill_null(AT_THE_END).alias(_EXPIRY))
        if (late := self._late_in(batch)) is not None:
            beside.append(late.alias(LATE))
        if self._buckets is not None:
            beside += self._buckets.columns(self._side, self._schema[self._buckets.times[self._side]])
        return node.ready(rows, self._side).with_columns(beside)

    def _late_in(self, batch: Batch) -> pl.Expr | None:
        """Whether a row that is ready came too late; None if none can."""
        if not self._kept.judged or batch.late is None:
            return None
        return came_late(self._kept.judged, self._schema, batch)

    @property
    def late_schema(self) -> pl.Schema:
        """As `TellsLate.late_schema`."""
        return pl.Schema((self._node.left if self._side == "left" else self._node.right).schema)

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame | None:
        """As `TellsLate.late_rows`."""
        late = self._late_in(batch)
        if late is None:
            return None
        pair = self._node.renamed if self._side == "right" else {name: name for name in self.late_schema}
        return self._node.ready(rows, self._side).filter(late).select(pl.col(pair[own]).alias(own) for own in pair)

    def taken(self, rows: pl.DataFrame) -> Taken:
        """Prepared rows, without those that are late."""
        rows, late = without_late(rows) if LATE in rows.columns else (rows, 0)
        without_time = max((rows[name].null_count() for name in self._kept.judged), default=0)
        possible = rows[_POSSIBLE]
        near = self._buckets.near if self._buckets is not None else ()
        rows = rows.select(*self._keys, *self._columns, *(name for name in self._own if name != _MATCHED), *near)
        if _MATCHED in self._own:
            rows = rows.with_columns(pl.lit(value=False).alias(_MATCHED))
        if possible.all():
            return Taken(rows, rows.clear(), late, without_time)
        return Taken(rows.filter(possible), rows.filter(~possible), late, without_time)

    def split(self, rows: pl.DataFrame, batch: Batch) -> tuple[pl.DataFrame, pl.DataFrame]:
        """New rows that are kept, and those that need not be, for no further partner can come."""
        if not self._kept.reaches or batch.watermark is None:
            return rows, rows.clear()
        goes = rows[_EXPIRY] <= batch.watermark
        return (rows.filter(~goes), rows.filter(goes)) if goes.any() else (rows, rows.clear())

    # Kept rows ------------------------------------------------------------------------------------
    def under(self, others: pl.DataFrame, table: Multimap) -> pl.DataFrame:
        """What is kept under the keys of rows of the other side, each row once; other rows may come with it."""
        if self._buckets is not None:
            others = self._buckets.spread(others.lazy()).collect(engine="in-memory")
        keys = pl.DataFrame([others[key].alias(own) for key, own in self._stored_keys.items()])
        if any(others[key].has_nulls() for key in self._node.never_null):
            keys = keys.drop_nulls([self._stored_keys[key] for key in self._node.never_null])
        return self.loaded(table.under(keys))

    def mark(self, known: pl.DataFrame, matched: pl.Series, table: Multimap) -> None:
        """Note which kept rows found their first partner; `known` are all that there are under some keys."""
        first = matched if self.leaves else matched & ~known[_MATCHED]
        if not first.any():
            return
        # Rows of a key go and come together: a multimap knows no single row.
        keys = known.filter(first).select(self._keys).unique()
        together = known.with_columns(first.alias(_FIRST)).join(keys, on=self._keys, how="semi", nulls_equal=True)
        table.remove(keys.rename(self._stored_keys))
        table.append(self.to_store(self.marked(together.drop(_FIRST), together[_FIRST])))

    def marked(self, rows: pl.DataFrame, matched: pl.Series) -> pl.DataFrame:
        """Rows of which some have found a partner, as they are kept."""
        if self.leaves:
            return rows.filter(~matched)
        return rows.with_columns(pl.col(_MATCHED) | matched)

    def expired(self, table: Multimap, batch: Batch) -> pl.DataFrame:
        """The rows that are not kept any longer, as they were stored."""
        if not self._kept.reaches or batch.watermark is None:
            return pl.DataFrame(schema={**self.spec.key, **self.spec.values})
        return table.expire(batch.watermark)

    def unmatched(self, *rows: pl.DataFrame) -> list[pl.DataFrame]:
        """Those without a partner."""
        there = [one for one in rows if one.height]
        return [one.filter(~pl.col(_MATCHED)) for one in there] if _MATCHED in self._own else there

    def to_store(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the names and the columns of the table."""
        keys = {own: rows[key] for key, own in self._stored_keys.items()}
        values = {own: rows[name] for name, own in self._columns.items() if name not in self._key_of}
        return pl.DataFrame({**keys, **values, **{name: rows[name] for name in self._own}})

    def loaded(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Stored rows, as frames have them."""
        if not rows.height:
            return self._nothing
        keys = {key: rows[own] for key, own in self._stored_keys.items()}
        columns = {name: rows[own] for name, own in self._columns.items()}
        return pl.DataFrame({**keys, **columns, **{name: rows[name] for name in self._own}})

    # For people -----------------------------------------------------------------------------------
    def explain(self) -> str:
        """How long a row is kept, and why."""
        if not self._kept.reaches:
            return "kept for ever: no condition says how late a partner may come"
        until = " or ".join(self._reach(one) for one in self._kept.reaches)
        first = "they have a partner, or " if self.leaves else ""
        then = "emitted, if they had none, and forgotten" if self.shows_alone else "forgotten"
        return f"kept until {first}the watermark reaches {until}, when no partner can come; then {then}"

    def _reach(self, reach: Reach) -> str:
        name = reach.within.earlier
        shown = self._key_text(name) if name in self._keys else repr(name)
        length = reach.milliseconds
        return shown if not length else f"{shown} {'+' if length > 0 else '-'} {shortest(abs(length))}"

    @property
    def late(self) -> str:
        """By which columns rows of this side are late."""
        shown = (self._key_text(name) if name in self._keys else repr(name) for name in self._kept.judged)
        return f"{self._side} whose {', '.join(shown)}"

    def _key_text(self, name: str) -> str:
        return _text(self._node.named_keys[name].of(self._side))


def _marks(height: int, places: pl.Series) -> pl.Series:
    """Which of so many rows are at these places."""
    return pl.repeat(value=False, n=height, eager=True).scatter(places, values=True)


def _text(expr: pl.Expr) -> str:
    column = passes(expr)
    return repr(column) if column is not None else " ".join(str(expr).split())


def _instant(reach: Reach, dtype: pl.DataType) -> pl.Expr:
    """When a row finds no further partner, in epoch ms on the query's own watermark."""
    within, clock = reach.within, reach.clock
    time = pl.col(within.earlier)
    if isinstance(dtype, pl.Date):
        time, dtype = time.cast(pl.Datetime("ms")), pl.Datetime("ms")
    if within.nanoseconds or within.strict:
        tick = NANOSECONDS_PER_TICK[getattr(dtype, "time_unit", "ms")]
        # Of two times in one unit the earlier is at least one tick before the later.
        ticks = -(-within.nanoseconds // tick) - within.strict
        time = later(time, ticks, dtype)
    if clock.lasts is not None:
        time = time.dt.offset_by(clock.lasts)
    return at_least_milliseconds(time, dtype) + clock.behind
