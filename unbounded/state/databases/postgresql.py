"""How does state live in tables of a PostgreSQL database, which others query while the query runs?

    select origin, mean_delay from "unbounded_3f0c9a6e21d4".aggregate_1;
    select max(version) from "unbounded_3f0c9a6e21d4".__versions;

That is a view; in the table below it, `aggregate_1_groups`, `__0`, `__1`, ... are the parts of aggregates.

One commit is one transaction, so a reader sees whole versions. Measured: rows go in by COPY as text that Polars writes
and come out in binary, through psycopg; the Arrow ingest and fetch of ADBC took as long (10,000 rows over 10^5 keys:
find 84 ms against 74, commit 218 against 207, in one run), for three times the installed bytes.
"""

from __future__ import annotations

import hashlib
import io
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import polars as pl

from unbounded.errors import ConcurrentQueryError, ConnectorError, PlanError, UnboundedError
from unbounded.state import Home
from unbounded.state.databases.encoding import Held, in_text, is_nested, of_text, quoted
from unbounded.state.databases.relational import Relational
from unbounded.state.databases.relations import Statement
from unbounded.state.layered.home import LayeredHome
from unbounded.storage import Storage

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresqlDatabase", "postgresql_home"]

_Answer = TypeVar("_Answer")

_OLDEST = 12  # floats as text that can be read back, and jit that can be switched off
_SECRET = ("password", "sslpassword")
_SESSION = {
    "timezone": "UTC",
    "synchronous_commit": "on",  # a commit is on the disk when it returns
    "lock_timeout": "30s",  # another process in the middle of a commit
    "default_transaction_isolation": "read committed",
    # A batch costs what the batch costs: rows are found by their key, whatever the statistics of a table say.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "jit": "off",
    # The lock of a commit ends with a machine that is gone within a minute, not within hours.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


def postgresql_home(
    storage: Storage, url: str, memory_limit: int, schema: str | None = None, *, retain: int = 100
) -> Home:
    """State in the database of a `url` like "postgresql://user:password@host:5432/database".

    The tables are in a schema of their own: `schema`, or one named by the id of the checkpoint, `unbounded_<id>`; it is
    made if it is not there. User and password stand in no checkpoint, message or log. Rows that a batch touches are
    also kept in memory, up to `memory_limit` bytes. Connects when the query starts, and stays connected; a pool that
    hands out connections by the transaction does not do, for there are temporary tables.

    PlanError if the url cannot be read or the driver is not installed.
    """
    cold = Relational(PostgresqlDatabase(url, schema), storage, retain=retain)
    return LayeredHome(cold, memory_limit=memory_limit)


class PostgresqlDatabase:
    """A schema of a database, and one connection to it that threads take in turns."""

    kind = "postgresql"
    text, blob, fleeting, clustered = 'text COLLATE "C"', "bytea", " ON COMMIT DELETE ROWS", ""
    widest = 1600
    asked = "unnest(string_to_array($1, E'\\n')) f(value)"

    def __init__(self, url: str, schema: str | None) -> None:
        self._driver = _psycopg()
        self._settings = self._read(url)
        self._schema, self._own = schema, schema is None
        self.turn: AbstractContextManager[Any] = threading.RLock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def _read(self, url: str) -> dict[str, Any]:
        try:
            return dict(self._driver.conninfo.conninfo_to_dict(url))
        except self._driver.Error:
            pass  # what the driver says would show the url
        raise PlanError(
            "the url of the PostgreSQL database cannot be read (it is not shown, for it may hold a password). Write "
            '"postgresql://user:password@host:5432/database"; in user and password, write @ as %40, / as %2F'
        )

    @property
    def description(self) -> str:
        settings = self._settings
        where = f"{settings.get('host', 'localhost')}:{settings.get('port', 5432)}/{settings.get('dbname', '')}"
        return f"PostgreSQL {where}" + ("" if self._schema is None else f", schema {self._schema!r}")

    def held(self, dtype: pl.DataType) -> Held:
        return _held(dtype)

    # ---------------------------------------------------------------------------------- connection
    def open(self, identity: str, *, create: bool) -> bool:
        self._schema = self._schema or f"unbounded_{identity[:12]}"
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        if create:
            self.run([Statement(f"CREATE SCHEMA IF NOT EXISTS {quoted(self._schema)}")])
        return bool(self.fetch("SELECT 1 FROM pg_namespace WHERE nspname = $1", self._schema))

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        path = f"{quoted(self._schema or '')}, pg_temp"
        given = {"connect_timeout": 10, **self._settings, "client_encoding": "utf8", "application_name": "unbounded"}

        def connect() -> psycopg.Connection[tuple[Any, ...]]:
            connection: psycopg.Connection[Any] = self._driver.connect(autocommit=True, **given)
            self._refuse_old(connection)
            for name, value in {"search_path": path, **_SESSION}.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            connection.cursor_factory = self._driver.RawCursor
            return connection

        connection = self._told(connect, f"cannot use {self.description}, where the state of this query lies")
        weakref.finalize(self, connection.close)
        return connection

    def _refuse_old(self, connection: psycopg.Connection[Any]) -> None:
        info = connection.info
        version, encoding = info.server_version // 10_000, info.parameter_status("server_encoding")
        problems = []
        if version < _OLDEST:
            problems.append(f"is PostgreSQL {version}, and state needs {_OLDEST} or newer. Upgrade it")
        if encoding != "UTF8":
            problems.append(f"has the encoding {encoding}, which cannot hold every text. Make a database in UTF8")
        if problems:
            connection.close()
            raise ConnectorError(f"{self.description} {'; and '.join(problems)}, or use another home of state")

    def _told(self, act: Callable[[], _Answer], failed: str = "") -> _Answer:
        """What `act` gives. Errors of the driver come out in our words, and not as their cause: it knows the url."""
        try:
            return act()
        except self._driver.Error as error:
            first: BaseException = error
            # Of statements that were sent together, those behind the one that failed may be told of first.
            while isinstance(first, self._driver.errors.PipelineAborted) and first.__context__ is not None:
                first = first.__context__
            problem = self._explained(
                first if isinstance(first, self._driver.Error) else error, failed or f"{self.description} failed"
            )
        raise problem

    def _explained(self, error: psycopg.Error, failed: str) -> UnboundedError:
        said = " ".join(str(error).split())
        for name in _SECRET:
            if secret := self._settings.get(name):
                said = said.replace(str(secret), "...")
        said = said.replace(f'"{self._settings.get("user", "")}"', '"..."')
        nothing = "Nothing of this batch was committed"
        match error.sqlstate or "":
            case "55P03":
                return ConcurrentQueryError(
                    f"another process is writing to {self.description} for more than {_SESSION['lock_timeout']}. "
                    f"{nothing}. Let only one process run a query"
                )
            case "42501":
                return ConnectorError(
                    f"{failed}: {said}. {nothing}. Give the user of the url the right to make tables there: "
                    "GRANT CREATE ON DATABASE, or a schema= that it owns"
                )
            case "2BP01":
                return ConnectorError(
                    f"{failed}: {said}. {nothing}. What you made of the views of the state stands in the way of a "
                    "change of the query: drop it, start the query again, and make it anew"
                )
            case _:
                return ConnectorError(
                    f"{failed}: {said}. {nothing}. See that the server runs, is reached at this address, and lets the "
                    "user of the url in; then start the query again"
                )

    @property
    def _open_connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        assert self._connection is not None, "declare and restore first"
        return self._connection

    def has(self, table: str) -> bool:
        return bool(self.fetch("SELECT to_regclass($1) IS NOT NULL", quoted(table))[0][0])

    # ----------------------------------------------------------------------------------------- SQL
    def asking(self, texts: pl.Series) -> str:
        return cast("str", texts.str.join("\n").item())  # JSON writes a line feed as \n

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._told(lambda: self._open_connection.execute(sql.encode(), parameters, binary=True).fetchall())

    def run(self, statements: Sequence[Statement]) -> None:
        def run() -> None:
            with self._open_connection.pipeline():  # one round trip
                for sql, parameters in statements:
                    self._open_connection.execute(sql.encode(), parameters or None)

        if statements:
            self._told(run)

    def fill(self, table: str, rows: pl.DataFrame) -> None:
        text = io.BytesIO()
        rows.write_csv(text, include_header=False, quote_style="non_numeric")  # an empty text is "", null is nothing
        columns = ", ".join(map(quoted, rows.columns))

        def fill() -> None:
            sql = f"COPY {table} ({columns}) FROM STDIN (FORMAT csv, NULL '')"
            with self._open_connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
                copy.write(text.getvalue())

        self._told(fill)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        # Of the processes that write here one at a time; a lock of the transaction needs no giving back.
        number = hashlib.blake2b(f"unbounded {self._schema}".encode(), digest_size=8).digest()
        begin = f"BEGIN; SELECT pg_advisory_xact_lock({int.from_bytes(number, signed=True)})"
        done = False
        try:
            self._told(lambda: self._open_connection.execute(begin.encode()))
            yield
            self._told(lambda: self._open_connection.execute(b"COMMIT"))
            done = True
        finally:
            if not done:
                self._abandon()

    def _abandon(self) -> None:
        """Roll back; where that fails there is no transaction any more."""
        try:
            self._open_connection.execute(b"ROLLBACK")
        except self._driver.Error:
            return

    def snapshot(self) -> None:
        begin = b"BEGIN ISOLATION LEVEL REPEATABLE READ"  # the first SELECT fixes what is seen
        self._told(lambda: self._open_connection.execute(begin))

    def present(self) -> None:
        if self._connection is not None and not self._connection.closed:
            self._abandon()

    def tidy(self) -> None:
        """Nothing to do: the server tidies up by itself."""

    def vanish(self) -> None:
        held = "SELECT 1 FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) LIMIT 1"
        if self._own and not self.fetch(held, self._schema):
            self.run([Statement(f"DROP SCHEMA {quoted(self._schema or '')}")])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _psycopg() -> Any:
    try:
        import psycopg  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise PlanError(
            "state in PostgreSQL needs the driver psycopg, and it is not installed. Write "
            "pip install 'unbounded[postgresql]'"
        ) from error
    return psycopg


# ------------------------------------------------------------------------------------------- types
_INTEGERS: dict[type[pl.DataType], str] = {
    pl.Int8: "smallint",
    pl.UInt8: "smallint",
    pl.Int16: "smallint",
    pl.UInt16: "integer",
    pl.Int32: "integer",
    pl.UInt32: "bigint",
    pl.Int64: "bigint",
}
_DAY = 86_400
_FIRST, _END = -719_162, 2_932_897  # days since 1970 of the year 1 and of the year 10000, as far as Python's dates go
_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _held(dtype: pl.DataType) -> Held:
    """The nearest type, so that others can query: what does not fit into it stands in the row's JSON."""
    if (whole := _INTEGERS.get(type(dtype))) is not None:
        return Held(whole, pl.Int64(), _as_it_is, lambda value: value.cast(dtype))
    if dtype == pl.Float32:
        return Held("real", pl.Float64(), lambda value: value.cast(pl.Float64), lambda value: value.cast(dtype))
    if dtype.is_float():
        return Held("double precision", pl.Float64(), _as_it_is, lambda value: value.cast(dtype))
    if dtype.is_numeric():
        exact = f"({dtype.precision}, {dtype.scale})" if isinstance(dtype, pl.Decimal) else ""
        return Held(f"numeric{exact}", pl.String(), _as_text, lambda value: value.cast(dtype), select="{}::text")
    if is_nested(dtype):
        return Held("json", pl.String(), lambda v: in_text(v, dtype), lambda v: of_text(v, dtype), select="{}::text")
    match dtype:
        case pl.Boolean():
            return Held("boolean", dtype, _as_it_is, _as_it_is)
        case pl.Binary():
            return Held("bytea", dtype, lambda v: pl.concat_str(pl.lit("\\x"), v.bin.encode("hex")), _as_it_is)
        case pl.Date():
            return Held("date", dtype, _as_it_is, _as_it_is, lambda v: ~_within(v, 1, _DAY))
        case pl.Time():
            return Held("time", dtype, _as_it_is, _as_it_is, lambda v: v.to_physical() % 1000 != 0)
        case pl.Datetime():
            return _datetime(dtype)
        case pl.Duration():
            return Held("bigint", pl.Int64(), lambda value: value.to_physical(), lambda value: value.cast(dtype))
        case _:
            misfit = (lambda v: v.str.contains("\0", literal=True)) if dtype == pl.String else None
            return Held("text", pl.String(), _as_text, lambda value: value.cast(dtype), misfit)


def _datetime(dtype: pl.Datetime) -> Held:
    zone, unit = dtype.time_zone, dtype.time_unit

    def write(value: pl.Expr) -> pl.Expr:
        utc = value if zone is None else value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return utc.dt.cast_time_unit("us")

    def read(value: pl.Expr) -> pl.Expr:
        utc = value.dt.cast_time_unit(unit)
        return utc if zone is None else utc.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)

    def misfit(value: pl.Expr) -> pl.Expr:
        beyond = ~_within(value, _PER_SECOND[unit], 1)
        return beyond | (value.to_physical() % 1000 != 0) if unit == "ns" else beyond

    if zone is None:
        return Held("timestamp", pl.Datetime("us"), write, read, misfit)
    return Held("timestamptz", pl.Datetime("us"), write, read, misfit, "{} AT TIME ZONE 'UTC'")


def _within(value: pl.Expr, ticks: int, seconds: int) -> pl.Expr:
    """Whether a time, in ticks of a second or in days, is in the years 1 to 9999."""
    scale = ticks * _DAY // seconds
    return value.to_physical().cast(pl.Int128).is_between(_FIRST * scale, _END * scale, closed="left")


def _as_it_is(value: pl.Expr) -> pl.Expr:
    return value


def _as_text(value: pl.Expr) -> pl.Expr:
    return value.cast(pl.String)
