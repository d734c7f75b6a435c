"""How does state live in an SQLite file beside the checkpoint?

Chosen by measurement (find and write B rows with undo, synced, of 10^6 keys, ms; two cores, medians of 11, one run):
B = 100 / 1,000 / 10,000: SQLite 6.7 / 49 / 379, RocksDB 6.5 / 41 / 329, LMDB 8.1 / 30 / 249; 54, 86 and 465 MB of
file. It needs no dependency, and its tables can be read with any tool while the query runs.

Rows have no digest: one in each row cost 15, 5 and 20 % of the CPU time of finding and writing B of 10^5 rows (medians
of 11, interleaved), and does not see a flipped bit in a key, whose row is just not found.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import polars as pl

from unbounded import storage as acts
from unbounded.errors import ConnectorError, CorruptRecordError, PlanError
from unbounded.state import Home
from unbounded.state.databases.encoding import Held, in_text, is_nested, of_text, quoted
from unbounded.state.databases.relational import Relational
from unbounded.state.databases.relations import Statement
from unbounded.state.layered.home import LayeredHome
from unbounded.storage import LocalStorage, Storage

__all__ = ["SqliteDatabase", "sqlite_home"]

_PAGES = 1 << 28  # bytes; the system caches the file, too
_WAL = 16 << 20  # bytes of changes that wait to be put into the main file; beside the running query
_WAL_PAGES = 1 << 16  # and in pages, when the batch itself has to do it


def sqlite_home(
    storage: Storage, memory_limit: int, path: str | os.PathLike[str] | None = None, *, retain: int = 100
) -> Home:
    """State in an SQLite file: `state/sqlite.db` in the checkpoint's folder, or `path`, on a local disk either way.

    A network file system does not do: its locks and shared memory are not those that SQLite needs. Rows that a batch
    touches are also kept in memory, up to `memory_limit` bytes, an eighth of it for pages of the file. SQLite does not
    notice a flipped bit in a row; a file system with checksums does.

    PlanError if the checkpoint is no local folder and there is no path.
    """
    if path is None:
        if not isinstance(storage, LocalStorage):
            raise PlanError(
                f"state in SQLite is a file beside the checkpoint, and {storage.url} is no folder on a local disk. "
                "Give path= of a file on one, use another home of state, or put the checkpoint on a local disk"
            )
        path = os.path.join(storage.url, "state", "sqlite.db")
    pages = min(memory_limit // 8, _PAGES)
    cold = Relational(SqliteDatabase(os.path.abspath(path), pages), storage, retain=retain)
    return LayeredHome(cold, memory_limit=memory_limit, beside=pages)


class SqliteDatabase:
    """A file, and one connection to it that threads take in turns; `cache` is in bytes."""

    kind = "sqlite"
    text, blob, fleeting, clustered = "text", "blob", "", " WITHOUT ROWID"
    widest = 2000
    asked = "json_each($1, '$.k') f"

    def __init__(self, path: str, cache: int) -> None:
        self._path, self._cache = path, cache
        self.turn: AbstractContextManager[Any] = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    @property
    def description(self) -> str:
        return f"SQLite file {self._path}"

    def held(self, dtype: pl.DataType) -> Held:
        return _held(dtype)

    # ---------------------------------------------------------------------------------- connection
    def open(self, identity: str, *, create: bool) -> bool:
        if not os.path.exists(self._path) and not create:
            return False
        if self._connection is None:
            with self._errors():
                self._connection = self._connect()
        return True

    def _connect(self) -> sqlite3.Connection:
        new = not os.path.exists(self._path)
        if new:
            acts.make_folder(os.path.dirname(self._path))
        # Statements begin and end transactions themselves; threads take turns, as `Relational` sees to.
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None, check_same_thread=False)
        weakref.finalize(self, connection.close)
        for pragma in (
            "journal_mode = WAL",  # readers and the writer do not wait for each other
            "synchronous = FULL",  # a commit is on the disk when it returns
            f"cache_size = {-max(self._cache >> 10, 2000)}",
            "temp_store = MEMORY",
            f"wal_autocheckpoint = {_WAL_PAGES}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        if new:
            acts.sync_folder(os.path.dirname(self._path))
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What SQLite says, in our words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "malformed" in str(error) or "not a database" in str(error):
                raise CorruptRecordError(
                    f"{self.description} is damaged: {error}. Restore it and the checkpoint from a backup, or start "
                    "with a new checkpoint"
                ) from error
            raise ConnectorError(
                f"{self.description} cannot be used: {error}. Nothing of this batch was committed. See to the disk "
                "and to other programs that use the file, and start the query again"
            ) from error

    @property
    def _open_connection(self) -> sqlite3.Connection:
        assert self._connection is not None, "declare and restore first"
        return self._connection

    def has(self, table: str) -> bool:
        return bool(self.fetch("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = $1", table))

    # ----------------------------------------------------------------------------------------- SQL
    def asking(self, texts: pl.Series) -> str:
        return str(pl.select(pl.struct(pl.lit(texts).implode().alias("k")).struct.json_encode()).item())

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._open_connection.execute(sql, _named(parameters)).fetchall()

    def run(self, statements: Sequence[Statement]) -> None:
        with self._errors():
            for sql, parameters in statements:
                self._open_connection.execute(sql, _named(parameters))

    def fill(self, table: str, rows: pl.DataFrame) -> None:
        columns = ", ".join(map(quoted, rows.columns))
        sql = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * rows.width)})"
        with self._errors():
            # The loop over rows is in C; measured against JSON in one parameter, 0.8 of the time.
            self._open_connection.executemany(sql, zip(*(column.to_list() for column in rows), strict=True))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        connection = self._open_connection
        with self._errors():
            connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._errors():
                connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def snapshot(self) -> None:
        self.run([Statement("BEGIN")])  # the first SELECT fixes what is seen

    def present(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self.run([Statement("ROLLBACK")])

    def tidy(self) -> None:
        """Put changes into the main file, on a connection of its own: the query need not wait."""
        wal = f"{self._path}-wal"
        if not os.path.exists(wal) or os.path.getsize(wal) < _WAL:
            return
        with self._errors(), closing(sqlite3.connect(self._path, timeout=10)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def vanish(self) -> None:
        if not self.fetch("SELECT 1 FROM sqlite_master"):
            self.close()
            for suffix in ("", "-wal", "-shm"):
                acts.unlink(f"{self._path}{suffix}")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()  # the last one puts all changes into the main file
            self._connection = None


def _named(parameters: Sequence[Any]) -> dict[str, Any]:
    """$1 is a name to SQLite; by position it would be the one that stands first in the text."""
    return {str(place): value for place, value in enumerate(parameters, 1)}


_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _time_in_text(dtype: pl.DataType) -> str:
    """SQL of a time as ISO text, in UTC, with a fraction of a second if there is one; a duration stays a number."""
    match dtype:
        case pl.Date():
            return "date({0} * 86400, 'unixepoch')"
        case pl.Time():
            form, ticks = "%H:%M:%S", _PER_SECOND["ns"]
        case pl.Datetime():
            form, ticks = "%Y-%m-%d %H:%M:%S", _PER_SECOND[dtype.time_unit]
        case _:
            return "{0}"
    rest = f"(({{0}} % {ticks} + {ticks}) % {ticks})"  # of a time before 1970, % alone would be negative
    fraction = f"CASE WHEN {rest} = 0 THEN '' ELSE printf('.%0{len(str(ticks)) - 1}d', {rest}) END"
    return f"strftime('{form}', ({{0}} - {rest}) / {ticks}, 'unixepoch') || {fraction}"


def _held(dtype: pl.DataType) -> Held:
    """Without a declared type SQLite keeps a float as it is; declared REAL, -0.0 would lose its sign."""
    if dtype == pl.Boolean or (dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128)):
        return Held("integer", pl.Int64(), lambda value: value.cast(pl.Int64), lambda value: value.cast(dtype))
    if dtype.is_temporal():
        shown = _time_in_text(dtype)
        return Held("integer", pl.Int64(), lambda v: v.to_physical(), lambda v: v.cast(dtype), shown=shown)
    if dtype.is_float():
        return Held("", pl.Float64(), lambda v: v.cast(pl.Float64), lambda v: v.cast(dtype), lambda v: v.is_nan())
    if dtype == pl.Binary:
        return Held("blob", pl.Binary(), lambda value: value, lambda value: value)
    if is_nested(dtype):
        return Held("text", pl.String(), lambda value: in_text(value, dtype), lambda value: of_text(value, dtype))
    return Held("text", pl.String(), lambda value: value.cast(pl.String), lambda value: value.cast(dtype))
