"""How does each row of a stream find the nearest one in time of another, once no nearer one can come?

Rows of both sides wait until the watermark has reached their times. Those that it reaches in a batch are all there are
between its last place and this one, so Polars' own `join_asof` of them, with the last rows of the right before them,
finds what it finds in the whole of both. A row that has to look ahead is left open until a row of the right comes under
its key, or none could be near enough any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from unbounded.durations import shortest
from unbounded.operators import Batch, Change, Tables, came_late, closing_instant
from unbounded.operators.answer import Answer
from unbounded.operators.sides import AT_THE_END, LATE, Taken, without_late
from unbounded.operators.waiting import DUE, ROW, numbered, waiting_table
from unbounded.plan.asof import FOUND, AsofJoin
from unbounded.plan.pairs import SIDES, Side
from unbounded.plan.windows import later
from unbounded.state import Multimap, MultimapSpec, Table, TableSpec

__all__ = ["AsofJoinOperator"]

_ONE: Final[Mapping[str, pl.DataType]] = {"__key_one__": pl.Int8()}  # the key where there is none
_UNTIL: Final = "__until__"


class AsofJoinOperator:
    """An `AsofJoin`. Its rows are final: each row of the left comes out once, when its nearest one is known."""

    ordered = True  # of rows of one time the last that came is the nearest, or the first
    evicts = True

    def __init__(self, id: str, node: AsofJoin) -> None:
        self.id, self._node = id, node
        self.sides = tuple(_Side(id, node, side) for side in SIDES)
        self._keys = node.key_schema or _ONE
        self._looks_back = node.strategy != "forward"
        expiry = {DUE: pl.Int64()} if node.tolerance is not None else {}
        values = {**{name: node.right.schema[name] for name in node.payload}, **expiry}
        merge = tuple(pl.col(name).last() for name in values)
        self._last = TableSpec(pl.Schema(self._keys), pl.Schema(values), merge, next(iter(expiry), None))
        # A key that is a column of the left as it stands is stored once. Of floats both zeros are one key.
        ours = [ours for ours, _ in node.by] or [*_ONE]
        stored = zip(self._keys.items(), ours, strict=True)
        self._open_keys = {key: key if dtype.is_float() else own for (key, dtype), own in stored}
        nearest = {**node.schema, FOUND: node.dtype} if node.strategy == "nearest" else node.left.schema
        self._found: list[str] = list(nearest)
        """The columns of an open row: also those of the row behind that it finds if none comes, if there may be one."""
        keys = {own: self._keys[key] for key, own in self._open_keys.items()}
        values = {**{name: dtype for name, dtype in nearest.items() if name not in keys}, DUE: pl.Int64()}
        self._open = MultimapSpec(pl.Schema(keys), pl.Schema(values), expiry=DUE)

    def tables(self) -> Mapping[str, TableSpec | MultimapSpec]:
        found: dict[str, TableSpec | MultimapSpec] = {one.table: one.spec for one in self.sides}
        if self._looks_back:
            found["last"] = self._last
        if self._node.waits:
            found["open"] = self._open
        return found

    @property
    def answer(self) -> Answer:
        return Answer("", ())  # tables of different rows, of which each shows its own

    def pinned(self) -> Mapping[str, Any]:
        node = self._node
        columns = {side: {name: str(dtype) for name, dtype in node.of(side).schema.items()} for side in SIDES}
        return {
            "kind": "join_asof",
            "on": [node.left_on, node.right_on],
            "by": [list(pair) for pair in node.by],
            "strategy": node.strategy,
            "tolerance": node.tolerance,
            "allow_exact_matches": node.exact,
            "columns": columns,
        }

    # One batch ------------------------------------------------------------------------------------
    def prepare_sides(self, left: pl.LazyFrame, right: pl.LazyFrame, batch: Batch) -> list[pl.LazyFrame]:
        """What to collect of the rows of both sides."""
        return [side.prepared(rows, batch) for side, rows in zip(self.sides, (left, right), strict=True)]

    def step_sides(self, left: pl.DataFrame, right: pl.DataFrame, tables: Tables, batch: Batch) -> Change:
        """Take the prepared rows of one batch into the tables."""
        taken = [side.taken(rows) for side, rows in zip(self.sides, (left, right), strict=True)]
        ours, theirs = (side.reached(one.rows, tables, batch) for side, one in zip(self.sides, taken, strict=True))
        found = [taken[0].alone]
        evicted = ours.height + theirs.height
        if self._node.waits and batch.watermark is not None:
            closed = self._closed(theirs, tables.multimaps["open"], batch.watermark)
            found += closed
            evicted += sum(one.height for one in closed)
        if ours.height:
            before = self._before(ours, tables["last"]) if self._looks_back else theirs.clear()
            new = self._nearest(ours, pl.concat([before, theirs]))
            found.append(self._settled(new, tables.multimaps["open"], batch) if self._node.waits else new)
        if self._looks_back:
            evicted += self._keep_last(theirs, tables["last"], batch)
        shown = pl.DataFrame(schema=self._node.schema)
        return Change(
            rows=pl.concat([shown, *found], how="diagonal").lazy().select(*self._node.schema),
            taken=left.height + right.height,
            updated=sum(one.rows.height for one in taken),
            evicted=evicted,
            late=sum(one.late for one in taken),
            without_time=sum(one.without_time for one in taken),
        )

    def _nearest(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        """Rows of the left, in order of time as they are, with what they find among these, and its time."""
        noted = right.lazy().with_columns(pl.col(self._node.right_on).alias(FOUND))
        noted = noted.sort(self._node.right_on, maintain_order=True)
        keys = list(self._keys)
        return self._node.joined(left.lazy(), noted, keys, keys).collect(engine="in-memory")

    # Behind ---------------------------------------------------------------------------------------
    def _before(self, ours: pl.DataFrame, table: Table) -> pl.DataFrame:
        """The last rows of the right that were reached before, under the keys of these."""
        found = table.lookup(ours.select(*self._keys).unique())
        return found.select(*self._keys, *self._node.payload)

    def _keep_last(self, theirs: pl.DataFrame, table: Table, batch: Batch) -> int:
        """Keep the last of these rows by key, and let go of those that are too far behind; how many these are."""
        if theirs.height:
            last = theirs.unique([*self._keys], keep="last", maintain_order=True)
            if self._last.expiry:
                last = self._with_due(last, self._node.right_on, self._node.ticks)
            table.merge(last)
        if not self._last.expiry or batch.watermark is None:
            return 0
        return table.expire(batch.watermark).height

    # Ahead ----------------------------------------------------------------------------------------
    def _settled(self, rows: pl.DataFrame, table: Multimap, batch: Batch) -> pl.DataFrame:
        """Of rows with what they found so far those for which nothing nearer can come; the others are left open."""
        time, found = pl.col(self._node.left_on).to_physical(), pl.col(FOUND).to_physical()
        # What is found ahead is the nearest one there; what is found behind is as near as one so far ahead.
        ahead = pl.when(found.is_null()).then(pl.lit(self._node.ticks)).otherwise((time - found).clip(lower_bound=0))
        rows = self._with_due(rows, self._node.left_on, ahead)
        stays = rows[DUE] > batch.watermark
        table.append(self._to_store(rows.filter(stays)))
        return rows.filter(~stays)

    def _with_due(self, rows: pl.DataFrame, time: str, ticks: int | pl.Expr | None) -> pl.DataFrame:
        """Rows with when the watermark is so many ticks behind a time of theirs, on both sides; null if never."""
        until = pl.lit(None, self._node.dtype) if ticks is None else later(pl.col(time), ticks, self._node.dtype)
        due = _due(self._node, _UNTIL).fill_null(AT_THE_END).alias(DUE)
        noted = rows.lazy().with_columns(until.alias(_UNTIL))
        return noted.with_columns(due).drop(_UNTIL).collect(engine="in-memory")

    def _closed(self, theirs: pl.DataFrame, table: Multimap, watermark: int) -> list[pl.DataFrame]:
        """The open rows that need not wait any longer, with what they found."""
        keys = theirs.select(*self._keys).unique().rename(self._open_keys)
        touched = self._from_store(table.probe(keys)) if keys.height else None
        if touched is None or not touched.height:
            return [self._from_store(table.expire(watermark))]
        table.remove(keys)
        expired = self._from_store(table.expire(watermark))
        touched = touched.sort(self._node.left_on)
        ahead = self._nearest(touched.select(*self._keys, *self._node.left.schema), theirs)
        if FOUND not in touched.columns:
            return [expired, ahead]
        time, before, behind = touched[self._node.left_on], touched[FOUND], ahead[FOUND]
        nearer = behind.is_not_null() & (before.is_null() | (behind - time <= time - before).fill_null(value=True))
        return [expired, ahead.filter(nearer), touched.filter(~nearer)]

    def _to_store(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the names and the columns of the table of open ones."""
        keys = {own: rows[key] for key, own in self._open_keys.items()}
        return pl.DataFrame({**keys, **{name: rows[name] for name in self._open.values if name not in keys}})

    def _from_store(self, rows: pl.DataFrame) -> pl.DataFrame:
        keys = {key: rows[own] for key, own in self._open_keys.items()}
        return pl.DataFrame({**keys, **{name: rows[name] for name in self._found}})

    # For people -----------------------------------------------------------------------------------
    @property
    def grows(self) -> str | None:
        node = self._node
        if node.is_bounded:
            return None
        return (
            f"join_asof(strategy={node.strategy!r}) without tolerance= keeps a row of the left until one of the right "
            "comes after it under its key, however long that takes. Say how far apart two times may be, e.g. "
            'tolerance="10m"'
        )

    def explain(self) -> Mapping[str, str]:
        node, times = self._node, [repr(self._node.time(side)) for side in SIDES]
        length = None if node.tolerance is None else shortest(-(-node.tolerance // 1_000_000))
        equal = ", ".join(f"{ours!r} = {theirs!r}" for ours, theirs in node.by)
        grows = ["the keys"] if self._looks_back and node.by and not length else []
        grows += [] if node.is_bounded else ["the rows of the left that find nothing"]
        reached = " or ".join(dict.fromkeys(times))
        state = f"grows with {' and '.join(grows)}" if grows else "bounded by the watermark"
        lines = {
            "state": f"{state}: rows of both sides",
            "key": equal or "none: the nearest of all rows",
            "kept": f"until the watermark reaches {reached}, when no earlier row can come; then joined",
        }
        if self._looks_back:
            behind = f", or the watermark reaches {times[1]} + {length}" if length else ""
            lines["last"] = f"of the right, the last row of each key, until a later one is there{behind}"
        if node.waits:
            later = "a later one of the right is there"
            if node.strategy == "nearest":
                later += ", or the watermark is as far ahead as what they found is behind"
            until = f"{later}, or the watermark reaches {times[0]} + {length}" if length else later
            lines["open"] = f"rows of the left, until {until}; then emitted"
        lines["late"] = (
            f"rows of the left whose {times[0]} and of the right whose {times[1]} the watermark of the batch before "
            "had reached"
        )
        lines["null"] = f"rows of the right whose {times[1]} is null"
        return lines


class _Side:
    """One of the two inputs, whose rows wait until the watermark has reached their times on both."""

    def __init__(self, operator: str, node: AsofJoin, side: Side) -> None:
        self.id = f"{operator}/{side}"
        self.table = "waiting" if side == "left" else "right"  # rows that wait come out, those of the right do not
        self.late_schema = node.of(side).schema
        self._time, self._due = node.time(side), _due(node, node.time(side))
        self._clocks = {self._time: node.clock(side)}
        self._never_null = list(dict.fromkeys([self._time, *(pair[side == "right"] for pair in node.by)]))
        keys = node.keys(side) or [pl.lit(0, dtype).alias(name) for name, dtype in _ONE.items()]
        self._ready = [*keys, *(map(pl.col, node.left.schema if side == "left" else node.payload))]
        self.spec = waiting_table(self.late_schema)

    def late_rows(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame:
        """Those that came too late."""
        return rows.filter(came_late(self._clocks, self.late_schema, batch))

    def prepared(self, rows: pl.LazyFrame, batch: Batch) -> pl.LazyFrame:
        """The rows with the instant that they wait for, and whether they count."""
        return rows.with_columns(self._due.alias(DUE), came_late(self._clocks, self.late_schema, batch).alias(LATE))

    def taken(self, rows: pl.DataFrame) -> Taken:
        """Prepared rows, without those that are late."""
        rows, late = without_late(rows)
        rows = rows.drop(LATE)
        nulls = [rows[name].null_count() for name in self._never_null]
        if not any(nulls):
            return Taken(rows, rows.drop(DUE).clear(), late, 0)
        able = pl.all_horizontal(pl.col(name).is_not_null() for name in self._never_null)
        return Taken(rows.filter(able), rows.filter(~able).drop(DUE), late, nulls[0])

    def reached(self, rows: pl.DataFrame, tables: Tables, batch: Batch) -> pl.DataFrame:
        """The rows that the watermark reaches now, in order of time and of arrival, with their keys."""
        table = tables[self.table]
        table.insert(numbered(rows, batch))
        if batch.watermark is None:
            return rows.clear().select(self._ready)
        return table.expire(batch.watermark).sort(self._time, ROW).select(self._ready)


def _due(node: AsofJoin, time: str) -> pl.Expr:
    """When both sides have come as far as a time, in epoch ms."""
    clocks = dict.fromkeys(node.clock(side) for side in SIDES)
    return pl.max_horizontal(closing_instant({time: clock}, {time: node.dtype}) for clock in clocks)
