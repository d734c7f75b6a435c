"""How does a row of any Polars types lie in a table of a SQL database, exactly?

Each column has the nearest type that the database has, as a `Held` says. A row with a value that this type cannot hold
(NaN in SQLite; a NUL character, or the year 12000, in PostgreSQL) has null in its place and the whole row as JSON in
the column EXACT, which then has the last word. Rows are found by KEY, their key as text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from unbounded.state.layered.cold import NUMBER, Layout
from unbounded.state.memory.index import dtype_of
from unbounded.storage import digest

__all__ = ["EXACT", "KEY", "Codec", "Held", "in_text", "is_nested", "key_text", "of_text", "quoted", "sql_names"]

KEY, EXACT = "__key", "__exact"
"""Columns of every table, beside those of the state."""

_LONGEST = 2000  # bytes of a key that PostgreSQL takes into an index without asking: a third of a page, 2704
_NAME = 60  # bytes of a column name; PostgreSQL cuts what is longer than 63
_SYSTEM = ("ctid", "tableoid", "xmin", "cmin", "xmax", "cmax")  # columns that every table of PostgreSQL has
_TAKEN = (KEY, EXACT, NUMBER, "__there", "__version", *_SYSTEM)
_WIDE = (pl.UInt64, pl.Int128, pl.UInt128)


@dataclass(frozen=True)
class Held:
    """How a type lies in a database."""

    declared: str
    """The type there."""
    fetched: pl.DataType
    """What the values are that `select` brings back."""
    write: Callable[[pl.Expr], pl.Expr]
    read: Callable[[pl.Expr], pl.Expr]
    misfit: Callable[[pl.Expr], pl.Expr] | None = None
    """Which values it cannot hold; None if it holds all."""
    select: str = "{}"
    """SQL of the column, when it is read."""
    shown: str = "{}"
    """SQL of the column, for people."""


# ------------------------------------------------------------------------------------------- text
def in_text(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A value as JSON; null as null. Exact: floats by their shortest text, times by their number, binary in hex."""
    whole = pl.struct(_plain(value, dtype).alias("")).struct.json_encode()
    return pl.when(value.is_not_null()).then(whole.str.strip_prefix('{"":').str.strip_suffix("}"))


def of_text(text: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The inverse of `in_text`."""
    whole = pl.concat_str(pl.lit('{"":'), text, pl.lit("}"))
    return _of_plain(whole.str.json_decode(pl.Struct({"": _plain_type(dtype)})).struct.field(""), dtype)


def is_nested(dtype: pl.DataType) -> bool:
    """Whether values hold other values."""
    return isinstance(dtype, pl.Struct | pl.List | pl.Array)


def _plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """`value` in a type that JSON holds exactly; Polars would write a NaN as null and refuse binary."""
    match dtype:
        case pl.Struct():
            fields = [_plain(value.struct.field(f.name), dtype_of(f.dtype)).alias(f.name) for f in dtype.fields]
            return pl.when(value.is_not_null()).then(pl.struct(fields))
        case pl.List():
            return value.list.eval(_plain(pl.element(), dtype_of(dtype.inner)))
        case pl.Array():
            return value.arr.to_list().list.eval(_plain(pl.element(), dtype_of(dtype.inner)))
        case pl.Binary():
            return value.bin.encode("hex")
        case _ if dtype.is_temporal():
            return value.to_physical()
        case _:
            return value.cast(_plain_type(dtype))


def _plain_type(dtype: pl.DataType) -> pl.DataType:
    match dtype:
        case pl.Struct():
            return pl.Struct({field.name: _plain_type(dtype_of(field.dtype)) for field in dtype.fields})
        case pl.List() | pl.Array():
            return pl.List(_plain_type(dtype_of(dtype.inner)))
        case pl.Date():
            return pl.Int32()
        case pl.Boolean() | pl.Null():
            return dtype
        case _ if dtype.is_temporal() or (dtype.is_integer() and dtype not in _WIDE):
            return pl.Int64()
        case _:
            return pl.String()


def _of_plain(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    match dtype:
        case pl.Struct():
            fields = [_of_plain(value.struct.field(f.name), dtype_of(f.dtype)).alias(f.name) for f in dtype.fields]
            return pl.when(value.is_not_null()).then(pl.struct(fields))
        case pl.List():
            return value.list.eval(_of_plain(pl.element(), dtype_of(dtype.inner)))
        case pl.Array():
            return value.list.eval(_of_plain(pl.element(), dtype_of(dtype.inner))).list.to_array(dtype.size)
        case pl.Binary():
            return value.str.decode("hex")
        case _:
            return value.cast(dtype)


# -------------------------------------------------------------------------------------------- rows
class Codec:
    """Rows of one table, to and from what a database holds.

    There they have the columns KEY, NUMBER if the layout has many rows per key, the others in `columns`, and EXACT.
    """

    def __init__(self, layout: Layout, held: Callable[[pl.DataType], Held]) -> None:
        self.layout, self.schema = layout, layout.schema
        names = [name for name in self.schema if name != NUMBER]
        self.columns = dict(zip(names, sql_names(names), strict=True))
        """The name of a column in the database by its name in Polars."""
        self._held = {name: held(self.schema[name]) for name in names}
        self._json = pl.Struct({name: _plain_type(self.schema[name]) for name in names})
        self._unpacked = [_of_plain(pl.col(name), self.schema[name]).alias(name) for name in names]
        self._read = [
            held.read(pl.col(name)).alias(name)
            for name, held in self._held.items()
            if held.fetched != self.schema[name]
        ]
        self._key = key_text(layout.key).alias(KEY)
        self._written = [
            *(held.write(pl.col(name)).alias(self.columns[name]) for name, held in self._held.items()),
            pl.lit(None, pl.String).alias(EXACT),
        ]
        misfits = {name: held.misfit(pl.col(name)) for name, held in self._held.items() if held.misfit is not None}
        misfits = {name: misfit.fill_null(value=False) for name, misfit in misfits.items()}
        self._misfit = pl.any_horizontal(*misfits.values()) if misfits else None
        whole = pl.struct(_plain(pl.col(name), self.schema[name]).alias(name) for name in names).struct.json_encode()
        self._guarded = [
            *(
                pl.when(~misfits[name]).then(column).alias(self.columns[name]) if name in misfits else column
                for name, column in zip(names, self._written, strict=False)
            ),
            pl.when(pl.lit(value=False) if self._misfit is None else self._misfit).then(whole).alias(EXACT),
        ]

    @property
    def identity(self) -> list[str]:
        """The columns that tell rows apart, in SQL."""
        return [KEY, NUMBER] if self.layout.many else [KEY]

    @property
    def stored(self) -> list[str]:
        """All columns of a row, in SQL."""
        return [*self.identity, *self.columns.values(), EXACT]

    @property
    def declarations(self) -> list[str]:
        """The types of `columns`, in SQL."""
        return [f"{quoted(sql)} {self._held[name].declared}" for name, sql in self.columns.items()]

    @property
    def selected(self) -> str:
        """What `frame` needs of the rows of a table `t`, in SQL."""
        columns = [self._held[name].select.format(f"t.{quoted(sql)}") for name, sql in self.columns.items()]
        return ", ".join([*columns, f"t.{EXACT}", *([f"t.{NUMBER}"] if self.layout.many else [])])

    def keys(self, rows: pl.DataFrame) -> pl.Series:
        """KEY of each row."""
        if not self.layout.key:
            return pl.repeat("()", rows.height, dtype=pl.String, eager=True).alias(KEY)
        keys = rows.select(self._key.alias(KEY)).to_series()
        long = (keys.str.len_bytes() > _LONGEST).arg_true()
        if len(long):
            # No vectorised hash of Polars would do: two keys with one digest of 256 bits are not to be had.
            digests = [f"#{hashlib.blake2b(key.encode(), digest_size=32).hexdigest()}" for key in keys.gather(long)]
            keys = keys.scatter(long, digests)
        return keys

    def rows(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What is stored of rows; of bare identities, these."""
        identity = [self.keys(rows), *([rows[NUMBER]] if self.layout.many else [])]
        if rows.width < len(self.schema):
            return pl.DataFrame(identity)
        misfit = self._misfit is not None and bool(rows.select(self._misfit.any()).item())
        return pl.DataFrame(identity).hstack(rows.select(self._guarded if misfit else self._written).get_columns())

    def frame(self, fetched: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
        """The rows that a database gave for `selected`, in no order."""
        if not fetched:
            return pl.DataFrame(schema=self.schema)
        types = {name: held.fetched for name, held in self._held.items()} | {EXACT: pl.String()}
        types |= {NUMBER: pl.Int64()} if self.layout.many else {}
        columns = zip(types.items(), zip(*fetched, strict=True), strict=True)
        rows = pl.DataFrame({name: pl.Series(values, dtype=dtype) for (name, dtype), values in columns})
        exact = rows[EXACT].is_not_null()
        plain = (rows.filter(~exact) if exact.any() else rows).with_columns(self._read).select(self.schema.names())
        if plain.height == rows.height:
            return plain
        whole = rows.filter(exact).select(pl.col(EXACT).str.json_decode(self._json), pl.exclude(*self.columns, EXACT))
        return plain.vstack(whole.unnest(EXACT).with_columns(self._unpacked).select(self.schema.names()))


def key_text(key: pl.Schema) -> pl.Expr:
    """The columns of a key, in the order of their names, as JSON values with commas between: equal for equal keys only.

    Whole numbers are written as they are, at a fraction of the price.
    """
    parts = []
    for name in sorted(key):
        value, dtype = pl.col(name), key[name]
        number = dtype.is_integer() or dtype.is_temporal()
        text = value.to_physical().cast(pl.String) if number else in_text(value, dtype)
        parts.append(text.fill_null("null"))
    return pl.concat_str(parts, separator=",")


def sql_names(names: Collection[str]) -> list[str]:
    """Names that a database keeps and tells apart: not too long, without NUL, and different for SQLite, too."""
    taken = [*_TAKEN, *(name.lower() for name in names)]
    return [
        name
        if len(name.encode()) <= _NAME and "\0" not in name and name and taken.count(name.lower()) == 1
        else f"{name.encode()[:30].decode(errors='ignore')}~{digest(name.encode())[:16]}".replace("\0", "")
        for name in names
    ]


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'
