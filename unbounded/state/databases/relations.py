"""How does one table of state lie in a SQL database: found, changed, and seen as it was?

<table>            its rows as of the newest version
__undo_<table>     for each version, what the rows that it changed were before
__changed_<table>  what a commit is about to change; only its connection sees it
__past_<table>     rows that were otherwise at the version that is looked at; only its connection sees it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import polars as pl

from unbounded.state.databases.encoding import EXACT, KEY, Codec, Held, quoted
from unbounded.state.databases.views import view
from unbounded.state.layered.cold import NUMBER, Changes, Layout

__all__ = ["Database", "Relation", "Statement", "destruction"]

_VERSION, _THERE = "__version", "__there"
_PIECE = 1 << 16  # rows that are read at once


class Statement(NamedTuple):
    """SQL with parameters $1, $2, ..."""

    sql: str
    parameters: tuple[Any, ...] = ()


class Database(Protocol):
    """A database with transactions. Errors of its driver come out as ConnectorError, without credentials."""

    kind: str
    turn: AbstractContextManager[Any]
    """Held by the thread that uses the connection."""
    text: str
    """The type of text that is compared by its bytes."""
    blob: str
    """The type of bytes."""
    fleeting: str
    """What makes a temporary table lose its rows with the transaction; nothing if it has to be told."""
    clustered: str
    """What makes a table lie in the order of its primary key."""
    widest: int
    """How many columns a table may have."""
    asked: str
    """SQL of a table `f` with the column `value`: the texts in $1."""

    @property
    def description(self) -> str:
        """For people, without credentials."""

    def held(self, dtype: pl.DataType) -> Held:
        """How a type lies in it."""

    def open(self, identity: str, *, create: bool) -> bool:
        """Connect, if it is not connected; whether there is a place for tables. With `create` it is made."""

    def has(self, table: str) -> bool:
        """Whether there is such a table."""

    def asking(self, texts: pl.Series) -> str:
        """Texts as the parameter of `asked`."""

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """All rows of an answer."""

    def run(self, statements: Sequence[Statement]) -> None:
        """One after another, none of which answers."""

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, and alone among those who write here."""

    def fill(self, table: str, rows: pl.DataFrame) -> None:
        """Put rows into a table, with the columns that they have."""

    def snapshot(self) -> None:
        """Show what is there now, whatever others write, until `present`."""

    def present(self) -> None:
        """Show what is there, from now on."""

    def tidy(self) -> None:
        """What is to be done now and then, beside the running query."""

    def vanish(self) -> None:
        """Remove what `open` made, if there is nothing in it."""

    def close(self) -> None:
        """End the connection, if there is one."""


class Relation:
    """The rows of one table or multimap; none until `begin` says where they lie.

    `refuse_change` raises if somebody else has written since.
    """

    def __init__(self, database: Database, layout: Layout, refuse_change: Callable[[], None]) -> None:
        self.layout = layout
        self._database, self._refuse_change = database, refuse_change
        self._codec = Codec(layout, database.held)
        self._keys = ", ".join(self._codec.identity)
        self._stored = ", ".join(map(quoted, self._codec.stored))
        self.begin(None)

    def begin(self, table: str | None, version: int | None = None) -> None:
        """Be what lies in a table; as it was at a version, if that is not the newest one. None is nothing."""
        self._table, self._version = table, version
        self._prepared = False

    @property
    def nbytes(self) -> int:
        """As `ColdRows`: nothing is held between calls."""
        return 0

    @property
    def width(self) -> int:
        """How many columns its widest table has."""
        return len(self._codec.stored) + 2  # with _VERSION and _THERE

    # ------------------------------------------------------------------------------------ looking
    def find(self, keys: pl.DataFrame) -> pl.DataFrame:
        """As `ColdRows`."""
        if not keys.height:
            return pl.DataFrame(schema=self.layout.schema)
        return self._look(f"t.{KEY} = f.value", self._database.asking(self._codec.keys(keys)), asked=True)

    def due(self, watermark: int) -> pl.DataFrame:
        """As `ColdRows`."""
        if self.layout.expiry is None:
            return pl.DataFrame(schema=self.layout.schema)
        return self._look(f"t.{quoted(self._codec.columns[self.layout.expiry])} <= $1", watermark)

    def scan(self) -> Iterator[pl.DataFrame]:
        """As `ColdRows`. In pieces by key, so that neither side holds an answer that is not read."""
        width = len(self._codec.identity)
        lower: tuple[Any, ...] = ("", 0)[:width]
        above = f"({self._keys}) > ({', '.join(('$1', '$2')[:width])})"
        until = f" AND ({self._keys}) <= ({', '.join(('$3', '$4') if width == 2 else ('$2',))})"
        step = f"ORDER BY {self._keys} LIMIT 1 OFFSET {_PIECE - 1}"
        while self._table is not None:
            with self._database.turn:
                found = self._database.fetch(f"SELECT {self._keys} FROM {self._now} WHERE {above} {step}", *lower)
            upper = found[0] if found else ()
            yield self._present(above + (until if found else ""), *lower, *upper)
            if not found:
                break
            lower = upper
        if self._version is not None:
            yield self._former("")
        self._refuse_change()  # a query that runs meanwhile would give rows of several versions

    def _look(self, condition: str, parameter: Any, *, asked: bool = False) -> pl.DataFrame:
        if self._table is None:
            return pl.DataFrame(schema=self.layout.schema)
        rows = self._present(condition, parameter, asked=asked)
        if self._version is None:
            return rows
        return pl.concat([rows, self._former(condition, parameter, asked=asked)])

    def _present(self, condition: str, *parameters: Any, asked: bool = False) -> pl.DataFrame:
        """Rows that are as they were at the version that is looked at."""
        if self._version is not None:
            condition += f" AND NOT EXISTS (SELECT 1 FROM {self._past} p WHERE {self._same('p', 't')})"
        return self._select(self._now, condition, parameters, asked=asked)

    def _former(self, condition: str, *parameters: Any, asked: bool = False) -> pl.DataFrame:
        """Rows that were otherwise then."""
        there = f"t.{_THERE} = 1" + (f" AND {condition}" if condition else "")
        return self._select(self._past, there, parameters, asked=asked)

    def _select(self, table: str, condition: str, parameters: Sequence[Any], *, asked: bool) -> pl.DataFrame:
        # CROSS JOIN makes SQLite begin with the keys; to PostgreSQL it is a join like any other.
        source = f"{self._database.asked} CROSS JOIN {table} t" if asked else f"{table} t"
        sql = f"SELECT {self._codec.selected} FROM {source} WHERE {condition}"
        with self._database.turn:
            self.prepare()
            fetched = self._database.fetch(sql, *parameters)
        return self._codec.frame(fetched)

    def _same(self, one: str, other: str) -> str:
        return " AND ".join(f"{one}.{column} = {other}.{column}" for column in self._codec.identity)

    # ------------------------------------------------------------------------------------- tables
    @property
    def _now(self) -> str:
        return quoted(f"{self._table}")

    @property
    def _undo(self) -> str:
        return quoted(f"__undo_{self._table}")

    @property
    def _changed(self) -> str:
        return quoted(f"__changed_{self._table}")

    @property
    def _past(self) -> str:
        return quoted(f"__past_{self._table}")

    def creation(self) -> list[Statement]:
        """Its tables, which are not there."""
        columns = ", ".join([*self._identity_types(), *self._codec.declarations, f"{EXACT} text"])
        undo = f"{_VERSION} bigint, {_THERE} smallint, {columns}, PRIMARY KEY ({_VERSION}, {self._keys})"
        rows = f"{columns}, PRIMARY KEY ({self._keys})"
        made = [
            Statement(f"CREATE TABLE {self._now} ({rows}){self._database.clustered}"),
            Statement(f"CREATE TABLE {self._undo} ({undo}){self._database.clustered}"),
        ]
        if self.layout.expiry is not None:
            index, expiry = quoted(f"__due_{self._table}"), quoted(self._codec.columns[self.layout.expiry])
            made.append(Statement(f"CREATE INDEX {index} ON {self._now} ({expiry})"))
        return made

    def _identity_types(self) -> list[str]:
        types = [f"{KEY} {self._database.text} NOT NULL"]
        return [*types, f"{NUMBER} bigint NOT NULL"] if self.layout.many else types

    def view(self) -> str:
        """SQL of what people see of it; "" where there is nothing to see."""
        return view(self.layout, self._now, self._codec.columns, self._database.held)

    def prepare(self) -> None:
        """Make the tables that only this connection sees; what is past is, of each row, the oldest undo since then."""
        if self._prepared:
            return
        columns = ", ".join([*self._identity_types(), *self._codec.declarations, f"{EXACT} text", f"{_THERE} smallint"])
        made = []
        # Fleeting, or PostgreSQL would read past all rows that were ever deleted from it.
        kinds = ((self._changed, "", self._database.fleeting), (self._past, f", PRIMARY KEY ({self._keys})", ""))
        for table, key, fleeting in kinds:
            made.append(Statement(f"DROP TABLE IF EXISTS {table}"))
            made.append(Statement(f"CREATE TEMPORARY TABLE {table} ({columns}{key}){fleeting}"))
        if self._version is not None:
            made.append(
                Statement(
                    f"INSERT INTO {self._past} ({self._stored}, {_THERE}) SELECT {self._stored}, {_THERE} "
                    f"FROM {self._undo} WHERE {_VERSION} > $1 ORDER BY {_VERSION} ON CONFLICT DO NOTHING",
                    (self._version,),
                )
            )
        self._database.run(made)
        self._prepared = True

    # ----------------------------------------------------------------------------------- changing
    def fill(self, changes: Changes) -> None:
        """Bring changes into the database, for `change`."""
        for rows, there in ((changes.written, 1), (changes.removed, 0)):
            if rows.height:
                stored = self._codec.rows(rows).with_columns(pl.lit(there, pl.Int64).alias(_THERE))
                self._database.fill(self._changed, stored)

    def change(self, version: int) -> list[Statement]:
        """Remember what was, then do what `fill` has brought."""
        former = [f"c.{column}" for column in self._codec.identity]
        former += [f"t.{quoted(column)}" for column in self._codec.stored[len(former) :]]
        return [
            Statement(
                f"INSERT INTO {self._undo} ({_VERSION}, {_THERE}, {self._stored}) "
                f"SELECT $1, CASE WHEN t.{KEY} IS NULL THEN 0 ELSE 1 END, {', '.join(former)} "
                f"FROM {self._changed} c LEFT JOIN {self._now} t ON {self._same('t', 'c')}",
                (version,),
            ),
            *self._become(self._changed),
            *([] if self._database.fleeting else [Statement(f"DELETE FROM {self._changed}")]),
        ]

    def go_back(self) -> list[Statement]:
        """Make what is looked at what is there."""
        if self._version is None:
            return []
        self.prepare()
        forget = Statement(f"DELETE FROM {self._undo} WHERE {_VERSION} > $1", (self._version,))
        return [*self._become(self._past), forget]

    def _become(self, source: str) -> list[Statement]:
        """Take over the rows of another table that are there, lose the others."""
        others = [quoted(column) for column in self._codec.stored[len(self._codec.identity) :]]
        settings = ", ".join(f"{column} = excluded.{column}" for column in others)
        gone = f"SELECT {self._keys} FROM {source} WHERE {_THERE} = 0"
        return [
            Statement(f"DELETE FROM {self._now} WHERE ({self._keys}) IN ({gone})"),
            Statement(
                f"INSERT INTO {self._now} ({self._stored}) SELECT {self._stored} FROM {source} WHERE {_THERE} = 1 "
                f"ON CONFLICT ({self._keys}) DO UPDATE SET {settings}"
            ),
        ]

    def look_ahead(self) -> None:
        """See what is there, from now on."""
        self._version = None

    def forget(self, version: int, rows: int) -> list[Statement]:
        """Delete as many rows of what is needed only to go back behind a version; nothing if there are none."""
        old = f"{_VERSION} <= $1"
        if self._table is None or not self._database.fetch(f"SELECT 1 FROM {self._undo} WHERE {old} LIMIT 1", version):
            return []
        key = f"{_VERSION}, {self._keys}"
        some = f"SELECT {key} FROM {self._undo} WHERE {old} LIMIT {rows}"
        return [Statement(f"DELETE FROM {self._undo} WHERE ({key}) IN ({some})", (version,))]


def destruction(table: str) -> list[Statement]:
    """No trace of a table."""
    return [Statement(f"DROP TABLE IF EXISTS {quoted(each)}") for each in (table, f"__undo_{table}")]
