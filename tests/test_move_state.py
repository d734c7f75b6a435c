"""The state of a query moves into another home, and the query goes on there as if nothing had happened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import unbounded as ub
from tests.elsewhere import ElsewhereHome, two_more_homes
from tests.language import same_rows
from tests.test_crash import STORIES, Crash, arrive, dying
from unbounded.checkpoint import Checkpoint, Commit, Intent
from unbounded.errors import ConcurrentQueryError
from unbounded.offline.moving import _copied
from unbounded.offline.remembered import Remembered
from unbounded.operators.answer import spec_record
from unbounded.query import MicroBatches
from unbounded.sinks.files import FileSink
from unbounded.state import MultimapSpec
from unbounded.state.folders import below
from unbounded.state.homes import checked_state, folder_for, open_home
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import LocalStorage

FILES = 4
IDS = [story[0] for story in STORIES]


@pytest.fixture(autouse=True)
def homes(monkeypatch: pytest.MonkeyPatch) -> None:
    two_more_homes(monkeypatch)


def run(where: Path, story: int, files: int, state: Any = None, *, final: bool = False) -> ub.StreamingQuery:
    """Let files arrive until there are so many, and run the query until it has read them, one a batch."""
    _, pipeline, mode, partition_by = STORIES[story]
    (where / "in").mkdir(parents=True, exist_ok=True)
    for n in range(len(list((where / "in").iterdir())), files):
        arrive(where / "in", n)
    frame = pipeline(ub.scan_parquet(where / "in", max_files_per_trigger=1))
    query: ub.StreamingQuery = frame.sink_parquet(
        where / "out",
        checkpoint=where / "ckpt",
        output_mode=mode,
        partition_by=partition_by,
        trigger=ub.available_now(final=final),
        state=state,
    )
    return query


def answer(where: Path) -> Any:
    return ub.read_sink(where / "out").collect()


GROUPED = IDS.index("grouped")
pytestmark = pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")


@pytest.mark.parametrize("story", range(len(STORIES)), ids=IDS)
def test_a_query_that_moved_there_and_back_answers_as_one_that_stayed(story: int, tmp_path: Path) -> None:
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    run(stayed, story, FILES, final=True)
    run(moved, story, 2)
    ub.move_state(moved / "ckpt", "elsewhere")
    run(moved, story, 3, "elsewhere")
    ub.move_state(moved / "ckpt", "memory")
    run(moved, story, FILES, final=True)
    same_rows(answer(moved), answer(stayed))
    assert answer(stayed).height > 0


@pytest.mark.parametrize("home", ["files", "sqlite", "postgresql"])
@pytest.mark.parametrize("story", ["grouped", "windowed"])
def test_every_home_can_be_moved_to_and_from(
    story: str, home: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # of the homes for tests
    there = request.getfixturevalue("postgresql").get_uri() if home == "postgresql" else home
    place, stayed, moved = IDS.index(story), tmp_path / "stayed", tmp_path / "moved"
    run(stayed, place, 3)
    run(moved, place, 1)
    before, last = ub.read_state(moved / "ckpt").collect(), _newest(moved / "ckpt" / "commits")
    ub.move_state(moved / "ckpt", there)
    same_rows(ub.read_state(moved / "ckpt", state=there).collect(), before)
    run(moved, place, 2, there)
    ub.move_state(moved / "ckpt", "memory", from_=there)
    same_rows(ub.read_state(moved / "ckpt", batch_id=last, state=there).collect(), before)
    run(moved, place, 3)
    same_rows(answer(moved), answer(stayed))
    same_rows(ub.read_state(moved / "ckpt").collect(), ub.read_state(stayed / "ckpt").collect())


def test_the_state_is_the_same_in_both_homes_and_older_batches_stay_readable(tmp_path: Path) -> None:
    run(tmp_path, GROUPED, 2)
    before = [ub.read_state(tmp_path / "ckpt", batch_id=n).collect() for n in (0, 1)]
    ub.move_state(tmp_path / "ckpt", "elsewhere")
    assert ub.read_state_metadata(tmp_path / "ckpt").collect()["home"].unique().to_list() == ["elsewhere"]
    for n in (0, 1):
        same_rows(ub.read_state(tmp_path / "ckpt", batch_id=n).collect(), before[n], key=["k"])
    ub.read_state(tmp_path / "ckpt", batch_id=0, state="memory")
    ub.read_state(tmp_path / "ckpt", batch_id=1, state="elsewhere")


def test_a_move_to_a_place_with_a_url_and_away_needs_the_url(tmp_path: Path) -> None:
    url = f"postgresql://ada:secret@moved{tmp_path.name}"
    run(tmp_path, GROUPED, 1)
    ub.move_state(tmp_path / "ckpt", url)
    run(tmp_path, GROUPED, 2, url)
    with pytest.raises(ub.PlanError, match=r"home 'postgresql'.*URL.*Write from_=\"postgresql://user"):
        ub.move_state(tmp_path / "ckpt", "memory")
    with pytest.raises(ub.CheckpointError, match=r"already\. Start the query with state=\"postgresql://user"):
        ub.move_state(tmp_path / "ckpt", url, from_=url)
    with pytest.raises(ub.CheckpointError, match=r"ub\.move_state\(.*, \"memory\", from_=\"postgresql://user"):
        run(tmp_path, GROUPED, 3)
    ub.move_state(tmp_path / "ckpt", "memory", from_=ub.postgresql_state(url))
    run(tmp_path, GROUPED, 3, "memory")
    assert answer(tmp_path)["rows"].sum() == 24


def test_a_start_with_another_home_is_refused_naming_both_and_nothing_is_lost(tmp_path: Path) -> None:
    run(tmp_path, GROUPED, 1)
    with pytest.raises(
        ub.CheckpointError, match=r"lies in the home 'memory', and state=\"elsewhere\".*ub\.move_state\("
    ):
        run(tmp_path, GROUPED, 2, "elsewhere")
    run(tmp_path, GROUPED, 2)
    ub.move_state(tmp_path / "ckpt", "elsewhere")
    with pytest.raises(
        ub.CheckpointError, match=r"'elsewhere', and state=\"memory\", the default.*state=\"elsewhere\""
    ):
        run(tmp_path, GROUPED, 3)
    run(tmp_path, GROUPED, 3, "elsewhere")
    assert answer(tmp_path)["rows"].sum() == 24


def test_a_move_that_dies_anywhere_leaves_the_query_in_one_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, begun = tmp_path / "calm", tmp_path / "begun"
    run(calm, GROUPED, 3)
    run(begun, GROUPED, 2)
    rehearsal = tmp_path / "rehearsal"
    shutil.copytree(begun, rehearsal)
    with dying(monkeypatch, 10**9, after=False) as acts:
        ub.move_state(rehearsal / "ckpt", "elsewhere")
    remembered, homes = ub.read_state(begun / "ckpt").collect(), []
    for at in range(len(acts)):
        where = tmp_path / f"{at}"
        shutil.copytree(begun / "ckpt", where / "ckpt")
        with pytest.raises(Crash), dying(monkeypatch, at, after=True):
            ub.move_state(where / "ckpt", "elsewhere")
        (home,) = ub.read_state_metadata(where / "ckpt").collect()["home"].unique()
        homes.append(home)
        if home == "memory":
            ub.move_state(where / "ckpt", "elsewhere")
        same_rows(ub.read_state(where / "ckpt").collect(), remembered, key=["k"])
    assert homes == sorted(homes, reverse=True)  # from "memory" to "elsewhere" in one step
    assert set(homes) == {"memory", "elsewhere"}
    ub.move_state(begun / "ckpt", "elsewhere")
    run(begun, GROUPED, 3, "elsewhere")
    same_rows(answer(begun), answer(calm))


def test_rows_of_one_key_keep_their_order(tmp_path: Path) -> None:
    spec = MultimapSpec(pl.Schema({"k": pl.String()}), pl.Schema({"v": pl.Int64()}), None)
    storage, keys = LocalStorage(str(tmp_path)), pl.DataFrame({"k": ["b", "a", None]})
    first = MemoryHome(storage)
    waiting = first.multimap("join-1/left", spec)
    first.restore(None)
    for n in range(5):
        waiting.append(pl.DataFrame({"k": ["a", "b", None, "a"], "v": [9 - n, n, n, 5]}))
    ref = first.commit(0, "a")
    described = {"operators": {"join-1": {"tables": {"left": spec_record(spec)}}}, "logs": {}}
    found = Remembered(storage, Commit(Intent(0, {}, None, None, ""), "a", {}, {}, ref), ref, described, 0)
    moved = _copied(found, MemoryHome(storage), ElsewhereHome(below(storage, "homes/0")))
    again = ElsewhereHome(below(storage, "homes/0"))
    there = again.multimap("join-1/left", spec)
    again.restore(moved)
    assert_frame_equal(there.probe(keys), waiting.probe(keys))
    assert len(there) == 20


def test_a_query_that_runs_is_not_moved(tmp_path: Path) -> None:
    run(tmp_path, GROUPED, 1)
    lock = LocalStorage(str(tmp_path / "ckpt")).lock({"pid": 1})
    with pytest.raises(ConcurrentQueryError, match="Nothing was written"):
        ub.move_state(tmp_path / "ckpt", "elsewhere")
    lock.release()
    ub.move_state(tmp_path / "ckpt", "elsewhere")
    LocalStorage(str(tmp_path / "ckpt")).lock({"pid": 2}).release()


def die_behind_the_sink(where: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies when the next batch is in the sink, and its commit is not in the checkpoint."""
    arrive(where / "in", len(list((where / "in").iterdir())))
    begun, last = where.with_name(f"{where.name}-begun"), 10**9
    where.rename(begun)
    while last:
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(begun, where)
        records = LocalStorage(str(where / "ckpt"))
        _, pipeline, mode, _ = STORIES[GROUPED]
        home = checked_state(state)
        batches = MicroBatches(
            pipeline(ub.scan_parquet(where / "in", max_files_per_trigger=1))._plan,
            FileSink(where / "out", "parquet"),
            mode=mode,
            checkpoint=Checkpoint(records),
            home=open_home(home, records, folder_for(home, Checkpoint(records).state)),
        )
        try:
            with dying(monkeypatch, last, after=True) as acts:
                batches.open()
                batches.run_once()
        except Crash:
            pass
        batches.close()
        last = min(last, len(acts)) - 1
        if _newest(where / "out._unbounded" / "log") > _newest(where / "ckpt" / "commits"):
            return
    raise AssertionError("there is no such moment")


def _newest(folder: Path) -> int:
    return max(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_a_batch_that_is_half_done_is_completed_before_a_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "torn"
    run(where, GROUPED, 1)
    die_behind_the_sink(where, "memory", monkeypatch)
    with pytest.raises(ub.CheckpointError, match=r"batch 1 .* not completed.*lies in 'memory'.*ub\.once\(\)"):
        ub.move_state(where / "ckpt", "elsewhere")
    run(where, GROUPED, 2, "memory")
    ub.move_state(where / "ckpt", "elsewhere")
    run(where, GROUPED, 3, "elsewhere")
    assert answer(where)["rows"].sum() == 24


def test_a_batch_that_the_move_did_not_know_of_is_completed_by_moving_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, url = tmp_path / "torn", f"postgresql://ada:secret@torn{tmp_path.name}"
    run(where, GROUPED, 1, url)
    die_behind_the_sink(where, url, monkeypatch)
    ub.move_state(where / "ckpt", "memory", from_=url)  # only the database knows of that batch
    with pytest.raises(ub.CheckpointError, match=r"begun in the home 'postgresql'.*back with .*postgresql://user"):
        run(where, GROUPED, 2, "memory")
    ub.move_state(where / "ckpt", url)
    run(where, GROUPED, 3, url)
    assert answer(where)["rows"].sum() == 24


def test_a_move_holds_for_the_commit_it_was_made_for_and_no_other(tmp_path: Path) -> None:
    run(tmp_path, GROUPED, 2)
    ub.move_state(tmp_path / "ckpt", "elsewhere")
    (tmp_path / "ckpt" / "commits" / f"{1:012d}").unlink()  # it was never durable
    assert ub.read_state_metadata(tmp_path / "ckpt").collect()["home"].unique().to_list() == ["memory"]
    run(tmp_path, GROUPED, 3)
    assert answer(tmp_path)["rows"].sum() == 24


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "where it is": ("memory", None, r"is in memory, durable in .* already"),
    "no home": ("memori", None, r"state is 'memori'.*did you mean 'memory'"),
    "from no home": ("elsewhere", "memori", r"from_ is 'memori'.*did you mean 'memory'"),
    "from another": ("elsewhere", "elsewhere", r"home 'memory' and not in 'elsewhere'. Write from_=\"memory\""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_move_that_makes_no_sense_is_refused_and_changes_nothing(case: str, tmp_path: Path) -> None:
    state, origin, sentence = REFUSED[case]
    run(tmp_path, GROUPED, 1)
    with pytest.raises(ub.UnboundedError, match=sentence):
        ub.move_state(tmp_path / "ckpt", state, from_=origin)
    run(tmp_path, GROUPED, 2)


def test_a_folder_that_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ub.CheckpointError, match="holds no batch"):
        ub.move_state(tmp_path / "nothing", "elsewhere")
    assert not (tmp_path / "nothing").exists()


def test_what_a_home_leaves_is_deleted_when_no_retained_batch_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbounded.checkpoint.RETAIN", 3)
    run(tmp_path, GROUPED, 2)
    ub.move_state(tmp_path / "ckpt", "elsewhere")
    run(tmp_path, GROUPED, 3, "elsewhere")
    ub.move_state(tmp_path / "ckpt", "memory")
    old, newer = tmp_path / "ckpt" / "state", tmp_path / "ckpt" / "homes"
    assert list(old.iterdir())
    assert sorted(path.name for path in newer.iterdir()) == ["0", "1"]
    run(tmp_path, GROUPED, 8)
    assert list(old.iterdir()) == []
    assert list((newer / "0" / "state").iterdir()) == []
    assert list((newer / "1" / "state").iterdir())
    assert answer(tmp_path)["rows"].sum() == 64
    ub.reset(tmp_path / "ckpt")
    assert [path for path in (tmp_path / "ckpt").rglob("*") if path.is_file() and path.name != "lock"] == []


def test_a_file_outside_that_held_the_state_before_takes_it_again(tmp_path: Path) -> None:
    outside = ub.sqlite_state(path=tmp_path / "state.db")
    run(tmp_path, GROUPED, 1, outside)
    ub.move_state(tmp_path / "ckpt", "sqlite", from_=outside)
    run(tmp_path, GROUPED, 2, "sqlite")
    ub.move_state(tmp_path / "ckpt", outside)
    run(tmp_path, GROUPED, 3, outside)
    assert answer(tmp_path)["rows"].sum() == 24
