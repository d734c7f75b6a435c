"""What must a table or multimap hold after any operations? Keys of every type, and models in plain Polars."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl

from unbounded.state import MultimapSpec, TableSpec

__all__ = [
    "KEYS",
    "NAN",
    "Draw",
    "Keys",
    "Many",
    "Model",
    "content",
    "in_order",
    "keys_at",
    "recent_of",
    "rows_of",
    "set_of",
    "spec_of",
]

NAN = float("nan")


# ------------------------------------------------------------------------------------------- keys
@dataclass(frozen=True)
class Keys:
    """Columns of a key, and some keys: tuples of values, a few of them equal to another."""

    schema: pl.Schema
    pool: tuple[tuple[Any, ...], ...]


def _one(dtype: Any, *values: Any) -> Keys:
    return Keys(pl.Schema({"k": dtype}), tuple((value,) for value in (*values, None)))


def _day(day: int) -> datetime.date:
    return datetime.date(2024, 1, day)


def _time(hour: int) -> datetime.datetime:
    return datetime.datetime(2024, 1, 1, hour, tzinfo=datetime.UTC)


_LONG = "a string that is too long to be kept inside its view, number "

KEYS: dict[str, Keys] = {
    "int64": _one(pl.Int64, 0, 1, -1, 2**63 - 1, -(2**63), 7),
    "int8": _one(pl.Int8, 0, 1, -1, 127, -128),
    "uint64": _one(pl.UInt64, 0, 1, 2**64 - 1, 2**63),
    "int128": _one(pl.Int128, 0, 1, -1, 2**100, -(2**100)),
    "float64": _one(pl.Float64, 0.0, -0.0, NAN, math.inf, -math.inf, 1.5),
    "float32": _one(pl.Float32, 0.0, -0.0, NAN, 1.5),
    "boolean": _one(pl.Boolean, True, False),
    "string": _one(pl.String, "", "a", "b", _LONG + "1", _LONG + "2"),
    "binary": _one(pl.Binary, b"", b"a", b"\x00", b"a string that is too long for its view"),
    "date": _one(pl.Date, _day(1), _day(2), _day(3)),
    "datetime with zone": _one(pl.Datetime("us", "UTC"), _time(1), _time(2), _time(3)),
    "datetime": _one(pl.Datetime("ns"), _time(1).replace(tzinfo=None), _time(2).replace(tzinfo=None)),
    "duration": _one(pl.Duration("ms"), datetime.timedelta(0), datetime.timedelta(1), datetime.timedelta(-1)),
    "time": _one(pl.Time, datetime.time(1), datetime.time(2)),
    "decimal": _one(pl.Decimal(20, 2), Decimal("1.20"), Decimal("-1.20"), Decimal("0.00")),
    "categorical": _one(pl.Categorical(), "a", "b", "c"),
    "enum": _one(pl.Enum(["a", "b", "c"]), "a", "b", "c"),
    "null": _one(pl.Null()),
    "struct": _one(
        pl.Struct({"x": pl.Float64, "s": pl.String}),
        *({"x": x, "s": s} for x, s in [(0.0, "a"), (-0.0, "a"), (NAN, None), (None, None), (1.0, "b")]),
    ),
    "list of floats": _one(pl.List(pl.Float64), [], [0.0], [-0.0], [NAN, None], [None], [1.0, 2.0]),
    "list of structs": _one(
        pl.List(pl.Struct({"x": pl.Float64})), [], [{"x": 0.0}], [{"x": -0.0}], [{"x": None}], [None], [{"x": NAN}]
    ),
    "array": _one(pl.Array(pl.Float32, 2), [0.0, NAN], [-0.0, NAN], [1.0, None]),
    "integer and string": Keys(
        pl.Schema({"k": pl.Int64(), "s": pl.String()}),
        ((1, "a"), (1, "b"), (2, "a"), (None, "a"), (1, None), (None, None), (2, _LONG)),
    ),
    "float, struct and date": Keys(
        pl.Schema({"k": pl.Float64(), "s": pl.Struct({"x": pl.Int8}), "d": pl.Date()}),
        ((NAN, None, _day(1)), (NAN, {"x": 1}, _day(1)), (0.0, {"x": None}, None), (-0.0, {"x": None}, None)),
    ),
    "no columns": Keys(pl.Schema(), ((),)),
}

_VALUES = pl.Schema(
    {
        "n": pl.Int64(),
        "x": pl.Float64(),
        "flag": pl.Boolean(),
        "first": pl.String(),
        "last": pl.List(pl.Int16),
        "most": pl.Decimal(10, 1),
        "until": pl.Int64(),
    }
)
_MERGE = (
    pl.col("n").sum(),
    pl.col("x").max(),
    pl.col("flag").last(),
    pl.col("first").first(),
    pl.col("last").last(),
    pl.col("most").min(),
    pl.col("until").last(),  # so an expiry moves later, sooner, to never and back
)


def spec_of(keys: Keys) -> TableSpec:
    """A table with values of many types, whose order of rows matters."""
    return TableSpec(keys.schema, _VALUES, _MERGE, "until")


def set_of(keys: Keys) -> TableSpec:
    """The same keys as a set; without key columns it needs a value."""
    if keys.schema:
        return TableSpec(keys.schema, pl.Schema(), (), None)
    return TableSpec(keys.schema, pl.Schema({"n": pl.Int64}), (pl.col("n").first(),), None)


def recent_of(keys: Keys) -> TableSpec:
    """The same keys as a set that forgets: each until the first time that it was given."""
    return TableSpec(keys.schema, pl.Schema({"until": pl.Int64()}), (pl.col("until").first(),), "until")


Draw = tuple[int, int, int | None]
"""Of one row: which key, a number that its values are made of, and when it expires."""


def rows_of(keys: Keys, draws: Sequence[Draw]) -> pl.DataFrame:
    """Rows of `spec_of`."""
    chosen = [keys.pool[draw[0] % len(keys.pool)] for draw in draws]
    numbers = [draw[1] for draw in draws]
    columns: dict[str, list[Any]] = {name: [key[place] for key in chosen] for place, name in enumerate(keys.schema)}
    columns |= {
        "n": numbers,
        "x": [None if number % 5 == 0 else number / 2 for number in numbers],
        "flag": [None if number % 3 == 0 else number % 2 == 0 for number in numbers],
        "first": [None if number % 4 == 0 else f"{_LONG}{number}" for number in numbers],
        "last": [None if number % 7 == 0 else [number, None] for number in numbers],
        "most": [Decimal(number) / 10 for number in numbers],
        "until": [draw[2] for draw in draws],
    }
    return pl.DataFrame(columns, schema={**keys.schema, **_VALUES}, strict=False)


def keys_at(keys: Keys, places: Sequence[int]) -> pl.DataFrame:
    """Keys to look for; without columns, only so many."""
    rows = rows_of(keys, [(place, 0, None) for place in places])
    return rows.select(keys.schema.names()) if keys.schema else pl.DataFrame(height=rows.height)


# ----------------------------------------------------------------------------------------- models
def content(frame: pl.DataFrame) -> list[str]:
    """The rows of a frame in no order, -0.0 as 0.0."""
    return sorted(repr(row).replace("-0.0", "0.0") for row in frame.rows())


def in_order(frame: pl.DataFrame) -> list[str]:
    """The rows of a frame in their order, -0.0 as 0.0."""
    return [repr(row).replace("-0.0", "0.0") for row in frame.rows()]


@dataclass
class Model:
    """A table as a frame that is folded again from scratch by every call."""

    spec: TableSpec
    rows: pl.DataFrame
    watermark: int = -(10**18)

    @classmethod
    def of(cls, spec: TableSpec) -> Model:
        return cls(spec, pl.DataFrame(schema={**spec.key, **spec.values}))

    def copy(self) -> Model:
        return Model(self.spec, self.rows, self.watermark)

    def _folded(self, rows: pl.DataFrame, aggregates: Sequence[pl.Expr]) -> pl.DataFrame:
        marked = pl.concat([self.rows.with_columns(_new=False), rows.with_columns(_new=True)])
        marks = [pl.col("_new").any().alias("_touched"), pl.col("_new").all().alias("_inserted")]
        if self.spec.key:
            return marked.group_by(*self.spec.key, maintain_order=True).agg(*aggregates, *marks)
        return marked.select(*aggregates, *marks).head(marked.height)

    def _keep(self, folded: pl.DataFrame) -> None:
        self.rows = folded.drop("_touched", "_inserted")

    def merge(self, rows: pl.DataFrame) -> pl.DataFrame:
        folded = self._folded(rows, self.spec.merge)
        self._keep(folded)
        return folded.filter("_touched").drop("_touched", "_inserted")

    def insert(self, rows: pl.DataFrame) -> pl.DataFrame:
        folded = self._folded(rows, [pl.col(name).first() for name in self.spec.values])
        self._keep(folded)
        return folded.filter("_inserted").drop("_touched", "_inserted")

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        names = self.spec.key.names()
        rows = self.rows.drop(names).rows()
        values = dict(zip(in_order(self.rows.select(names)) if names else [""] * len(rows), rows, strict=True))
        found = [values.get(key) for key in (in_order(keys) if names else [""] * keys.height)]
        here = pl.Series([row is not None for row in found], dtype=pl.Boolean)
        kept = [row for row in found if row is not None]
        columns = pl.DataFrame(kept, schema=self.spec.values, orient="row", strict=False)
        return keys.filter(here).hstack(columns.get_columns()) if names else columns

    def expire(self, watermark: int) -> pl.DataFrame:
        self.watermark = max(watermark, self.watermark)
        if self.spec.expiry is None:
            return self.rows.clear()
        due = pl.col(self.spec.expiry).le(self.watermark).fill_null(value=False)
        gone, self.rows = self.rows.filter(due), self.rows.filter(~due)
        return gone

    def remove(self, keys: pl.DataFrame) -> None:
        if not self.spec.key:
            self.rows = self.rows.clear() if keys.height else self.rows
            return
        unwanted = set(content(keys))
        kept = [key not in unwanted for key in in_order(self.rows.select(self.spec.key.names()))]
        self.rows = self.rows.filter(pl.Series(kept, dtype=pl.Boolean))


@dataclass
class Many:
    """A multimap as a frame of all its rows, as they arrived; a probe is a join with it."""

    keys: Keys
    spec: MultimapSpec
    rows: pl.DataFrame
    watermark: int = -(10**18)

    @classmethod
    def of(cls, keys: Keys, order: tuple[str, ...]) -> Many:
        spec = MultimapSpec(keys.schema, _VALUES, "until", order)
        return cls(keys, spec, pl.DataFrame(schema={**spec.key, **spec.values}))

    def copy(self) -> Many:
        return Many(self.keys, self.spec, self.rows, self.watermark)

    def append(self, rows: pl.DataFrame) -> None:
        self.rows = pl.concat([self.rows, rows])

    def probe(self, keys: pl.DataFrame) -> pl.DataFrame:
        order = list(self.spec.order)
        rows = self.rows.sort(order, maintain_order=True) if order else self.rows
        here = rows.drop(self.spec.key.names()).with_columns(_key=self._texts(rows))
        found = keys.with_columns(_key=self._texts(keys)).join(here, on="_key", maintain_order="left_right")
        return found.drop("_key")

    def under(self, keys: pl.DataFrame) -> pl.DataFrame:
        return self.rows.filter(self._texts(self.rows).is_in(self._texts(keys).to_list()))

    def _texts(self, frame: pl.DataFrame) -> pl.Series:
        """The key of each row as text: no type of key can hide an error of the join that is the model."""
        return pl.Series(in_order(frame.select(self.spec.key.names())), dtype=pl.String)

    def expire(self, watermark: int) -> pl.DataFrame:
        self.watermark = max(watermark, self.watermark)
        due = pl.col("until").le(self.watermark).fill_null(value=False)
        gone, self.rows = self.rows.filter(due), self.rows.filter(~due)
        return gone

    def remove(self, keys: pl.DataFrame) -> None:
        self.rows = self.rows.filter(~self._texts(self.rows).is_in(self._texts(keys).to_list()))
