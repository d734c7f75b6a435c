"""Does the home in memory remember exactly, at the cost of the batch, and through every failure?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_series_equal

from unbounded.errors import CheckpointError, CorruptRecordError, PlanError
from unbounded.state import Home, StateRef, Table, TableSpec
from unbounded.state.memory.expiry import LAST, NEVER, Calendar
from unbounded.state.memory.folding import Fold
from unbounded.state.memory.home import MemoryHome
from unbounded.state.memory.slots import Rows
from unbounded.state.memory.stored import SLOT, Part
from unbounded.state.memory.table import SlotTable
from unbounded.storage import LocalStorage, Lock, Record, Storage
from unbounded.testing.contracts.homes import RETAIN, History, HomeContract, Operation
from unbounded.testing.contracts.tables import KEYS, Model, content, spec_of

COUNT = TableSpec(
    pl.Schema({"k": pl.Int64()}),
    pl.Schema({"n": pl.Int64(), "until": pl.Int64()}),
    (pl.col("n").sum(), pl.col("until").max()),
    "until",
)
NAME = pl.Schema({"name": pl.String()})
SEEN = pl.Schema({"file": pl.String()})


def count(keys: Iterable[int], until: int | None = None) -> pl.DataFrame:
    """Rows of COUNT that count each key once."""
    return pl.DataFrame({"k": list(keys)}, schema={"k": pl.Int64}).with_columns(
        n=pl.lit(1, pl.Int64), until=pl.lit(until, pl.Int64)
    )


# ----------------------------------------------------------------------------------------- places
class DiskError(OSError):
    """The disk failed, or the process died."""


@dataclass
class Shelf:
    """A storage in a dict. `before` and `after` each put and removal of a file a test may step in."""

    files: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    url: str = "shelf"

    def put(self, name: str, data: bytes) -> None:
        self.before(name)
        if name in self.files:
            raise FileExistsError(name)
        self.files[name] = data
        self.after(name)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def names(self, folder: str) -> list[str]:
        return sorted(name.split("/")[1] for name in self.files if name.startswith(f"{folder}/"))

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.before(name)
            self.files.pop(name, None)
            self.after(name)

    def settle(self, folder: str) -> None:
        return

    def lock(self, owner: Record) -> Lock:
        raise NotImplementedError


def counting(storage: Storage, ref: StateRef | None = None, **options: int) -> tuple[Home, Table]:
    """A home with one table of COUNT, restored; small files unless said otherwise."""
    home = MemoryHome(storage, **{"retain": RETAIN, "fan": 2, "segment": 4, **options})
    table = home.table("count", COUNT)
    home.restore(ref)
    return home, table


# --------------------------------------------------------------------------------------- contract
class TestMemoryHome(HomeContract):
    """With so small a fan and segment, levels and base are rewritten all the time."""

    def open(self, place: Path) -> Home:
        return MemoryHome(LocalStorage(str(place)), retain=RETAIN, fan=2, segment=4)


class TestMemoryHomeWithOneHash(HomeContract):
    """Every key has the same hash, so only the comparison of keys tells them apart."""

    examples = 3

    @pytest.fixture(autouse=True)
    def one_hash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def same(keys: list[pl.Series], height: int, seed: int) -> np.ndarray[Any, Any]:
            return np.full(height, 0xFFFF_FFFF_0000_0001, np.uint64)

        monkeypatch.setattr("unbounded.state.memory.keys.hash_rows", same)

    def open(self, place: Path) -> Home:
        return MemoryHome(LocalStorage(str(place)), retain=RETAIN, fan=3, segment=8)


# ------------------------------------------------------------------------------------------ table
def _random_rows(kind: str, generator: random.Random, keys: int, height: int) -> pl.DataFrame:
    """Rows of `spec_of` with many more keys than the contract has."""
    numbers = [generator.randrange(keys) for _ in range(height)]
    made = {"int64": numbers, "string": [f"a key that is too long for its view {number}" for number in numbers]}
    return pl.DataFrame(
        {
            "k": made[kind],
            "n": numbers,
            "x": [number / 2 for number in numbers],
            "flag": [None if number % 3 == 0 else number % 2 == 0 for number in numbers],
            "first": [f"a value that is too long for its view {number}" for number in numbers],
            "last": [[number % 100, None] for number in numbers],
            "most": [None] * height,
            "until": [generator.choice([None, number % 50, 1000]) for number in numbers],
        },
        schema=KEYS[kind].schema | dict(spec_of(KEYS[kind]).values),
    )


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_a_table_that_grows_and_shrinks_stays_exact(kind: str) -> None:
    generator = random.Random(7)
    table, model = SlotTable("table", spec_of(KEYS[kind])), Model.of(spec_of(KEYS[kind]))
    for step in range(60):
        rows = _random_rows(kind, generator, keys=4000, height=generator.choice([5, 100, 900]))
        verb = generator.choice(["merge", "merge", "insert", "remove", "expire"])
        if verb == "remove":
            table.remove(rows.select("k"))
            model.remove(rows.select("k"))
        elif verb == "expire":
            assert content(table.expire(step)) == content(model.expire(step))
        else:
            assert content(getattr(table, verb)(rows)) == content(getattr(model, verb)(rows))
    assert content(table.scan()) == content(model.rows)


def test_overwritten_values_do_not_pile_up() -> None:
    rows = _random_rows("string", random.Random(1), keys=10**6, height=100).with_columns(until=pl.lit(None, pl.Int64))
    table = SlotTable("table", spec_of(KEYS["string"]))
    sizes = []
    for _ in range(300):
        table.merge(rows)
        sizes.append(table.nbytes)
    assert max(sizes[100:]) <= max(sizes[:100])


@pytest.mark.parametrize("count", [1, 1_023, 1_024, 5_000])
@pytest.mark.parametrize("times", [(0, 3), (-(10**12), 10**12), (0, 2**52), (-(2**63), LAST), (LAST - 50, NEVER)])
def test_rows_are_due_by_their_times_however_many_and_wherever_these_lie(count: int, times: tuple[int, int]) -> None:
    random_ = np.random.default_rng(count)
    due = random_.integers(*times, count, endpoint=True)
    calendar, slots = Calendar(), random_.permutation(count)
    calendar.resize(count)
    calendar.schedule(slots, due)
    counted = due < NEVER  # who never goes has no promise
    left = slots[counted]
    for watermark in np.unique(due[counted])[:: max(1, count // 7)]:
        now = calendar.pop(int(watermark))
        assert now.tolist() == np.sort(slots[counted & (due <= watermark) & np.isin(slots, left)]).tolist()
        left = np.setdiff1d(left, now)


def test_promises_of_rows_that_expire_ever_sooner_do_not_pile_up() -> None:
    table = SlotTable("last", TableSpec(COUNT.key, COUNT.values, (pl.col("n").sum(), pl.col("until").last()), "until"))
    sizes = []
    for step in range(300):
        table.merge(count(range(100), until=10**6 - step))
        sizes.append(table.nbytes)
    assert max(sizes[100:]) <= max(sizes[:100])
    assert table.expire(10**6 - 299).height == 100


def test_a_part_is_not_reached_by_what_the_table_does_later() -> None:
    rows = _random_rows("string", random.Random(2), keys=10**6, height=100)
    table = SlotTable("table", spec_of(KEYS["string"]))
    table.merge(rows)
    part, before = table.part(0, table.size), content(table.scan())
    table.remove(rows.select("k").head(50))
    for step in range(100):  # enough to collect garbage
        table.merge(_random_rows("string", random.Random(step), keys=10**6, height=100))
        table.expire(step)
    assert content(part.frame().drop(SLOT)) == before


def test_slots_of_rows_that_went_are_used_again() -> None:
    table = SlotTable("count", COUNT)
    for step in range(200):
        table.merge(count(range(10 * step, 10 * step + 10), until=step))
        assert table.expire(step - 2).height == (10 if step >= 2 else 0)
    assert len(table) == 20
    assert table.size == 30


def test_a_string_does_not_keep_the_batch_it_came_with() -> None:
    batch = pl.Series("name", [f"a name that is too long for its view {number}" for number in range(10_000)])
    rows = Rows(NAME)
    rows.resize(2)
    rows.put(np.array([0, 1]), [batch[[0, 9_999]]])
    (kept,) = rows.take(np.array([0, 1]))
    assert kept.to_list() == batch[[0, 9_999]].to_list()
    views = kept.to_arrow(compat_level=pl.CompatLevel.newest())
    assert sum(buffer.size for buffer in views.buffers() if buffer is not None) < 1_000


_NUMBERS: dict[str, tuple[pl.DataType, list[float | None]]] = {
    "int64": (pl.Int64(), [None, 0, 1, -1, 2**63 - 1, -(2**63)]),
    "uint64": (pl.UInt64(), [None, 0, 1, 2**64 - 1]),
    "int32": (pl.Int32(), [None, 0, 7, 2**31 - 1, -(2**31)]),
    "float64": (pl.Float64(), [None, 0.0, -0.0, 1.5, -1.5, float("nan"), float("inf"), -float("inf")]),
    "float32": (pl.Float32(), [None, 0.0, -0.0, 1.5, float("nan"), float("inf")]),
}


@pytest.mark.parametrize("kind", _NUMBERS)
@pytest.mark.parametrize("aggregate", ["sum", "min", "max", "first", "last"])
def test_a_pair_of_rows_folds_as_a_group_of_two_does(kind: str, aggregate: str) -> None:
    dtype, numbers = _NUMBERS[kind]
    stored = pl.Series("n", [one for one in numbers for _ in numbers], dtype=dtype)
    new = pl.Series("n", [other for _ in numbers for other in numbers], dtype=dtype)
    fold = Fold(pl.Schema({"n": dtype}), (getattr(pl.col("n"), aggregate)().alias("n"),))
    slots = np.arange(len(stored))
    order, (grouped,) = fold.groups(slots, [stored], slots, [new])
    (paired,) = fold.pairs([stored], [new])
    assert fold.has_pairs
    assert_series_equal(paired, grouped[np.argsort(order)], check_exact=True)  # for which -0.0 is 0.0


def test_an_aggregate_without_a_form_for_two_rows_is_folded_in_groups() -> None:
    numbers = pl.Schema({"n": pl.Int64(), "name": pl.String()})
    assert not Fold(numbers, (pl.col("n").sum(), pl.col("name").max())).has_pairs
    assert not Fold(pl.Schema({"n": pl.Int64()}), (pl.col("n").filter(pl.col("n") > 0).sum(),)).has_pairs


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TableSpec(pl.Schema(), pl.Schema(), (), None), "columns"),
        (TableSpec(NAME, NAME, (pl.col("name").first(),), None), "different names"),
        (TableSpec(COUNT.key, COUNT.values, COUNT.merge, "k"), "Int64 among its values"),
        (TableSpec(COUNT.key, COUNT.values, (pl.col("n").mean(), pl.col("until").max()), None), "cast the merge"),
        (TableSpec(pl.Schema({"k": pl.Object()}), COUNT.values, COUNT.merge, None), "Python objects"),
    ],
)
def test_a_spec_that_cannot_be_kept_is_refused_when_declared(spec: TableSpec, words: str) -> None:
    with pytest.raises(PlanError, match=f"'wrong'.*{words}"):
        MemoryHome(Shelf()).table("wrong", spec)


def test_rows_of_another_type_and_names_declared_twice_are_refused() -> None:
    home = MemoryHome(Shelf())
    table, log = home.table("count", COUNT), home.log("seen", SEEN)
    with pytest.raises(PlanError, match=r"'count'.*Int64.*Int32"):
        table.merge(count([1]).cast({"n": pl.Int32}))
    with pytest.raises(PlanError, match=r"'seen'.*file.*name"):
        log.append(pl.DataFrame({"name": ["a"]}))
    with pytest.raises(PlanError, match="'count' is declared twice"):
        home.log("count", SEEN)


@pytest.mark.parametrize("name", ["__version", "__live", "__slot", "__number", "__exact", "__hash"])
def test_a_key_with_a_name_that_homes_need_is_refused_when_declared(name: str) -> None:
    # Before, "__version" became the number of the version once deltas were joined: other keys after a restart.
    spec = TableSpec(pl.Schema({name: pl.Int64()}), COUNT.values, COUNT.merge, None)
    with pytest.raises(PlanError, match=rf"'count' has the column '{name}'.*rename\(\{{'{name}': '{name[2:]}'\}}\)"):
        MemoryHome(Shelf()).table("count", spec)


# ------------------------------------------------------------------------------------------ files
def test_the_bytes_of_a_commit_do_not_grow_with_the_state() -> None:
    sizes = []
    for state in (100, 30_000):
        shelf = Shelf()
        home, table = counting(shelf, fan=16, segment=1024)
        for version in range(40):
            table.merge(count(range(version * state // 40, (version + 1) * state // 40)))
            home.commit(version, "a")
            home.tidy(version)
        table.merge(count(range(5)))
        sizes.append(len(shelf.files[str(home.commit(40, "a")["name"])]))
    assert sizes[1] < 1.2 * sizes[0]


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many slots of the base each part copies, while the test runs."""
    sizes: list[int] = []
    part = SlotTable.part

    def noted(table: SlotTable, low: int, high: int) -> Part:
        sizes.append(high - low)
        return part(table, low, high)

    monkeypatch.setattr(SlotTable, "part", noted)
    return sizes


def test_rows_of_the_base_are_copied_half_as_often_as_rows_change(copied: list[int]) -> None:
    home, table = counting(Shelf(), segment=64)
    changed = 0
    for version in range(300):
        changed += table.merge(count(range(version, version + version % 20))).height
        home.commit(version, "a")
        home.tidy(version)
        assert sum(copied) <= changed / 2
    assert sum(copied) > changed / 4


def test_copies_do_not_pile_up_while_nobody_tidies(copied: list[int]) -> None:
    home, table = counting(Shelf(), segment=64)
    for version in range(300):
        table.merge(count(range(version % 100, version % 100 + 50)))
        home.commit(version, "a")
    assert 0 < sum(copied) <= len(table)


def test_files_stay_in_proportion_to_the_live_rows() -> None:
    shelf = Shelf()
    home, table = counting(shelf, fan=4, segment=256)
    generator = random.Random(3)
    table.merge(count(range(2_000)))
    sizes = []
    for version in range(600):
        table.merge(count({generator.randrange(2_000) for _ in range(50)}))
        home.commit(version, "a")
        home.tidy(version)
        sizes.append((len(shelf.files), sum(len(content) for content in shelf.files.values())))
    files, size = max(sizes[300:])
    assert files < 60  # 8 segments, 3 runs in each of 4 levels, deltas, and what retained versions need of older ones
    assert size < 12 * table.scan().estimated_size()


@pytest.mark.parametrize("seed", range(3))
def test_a_table_of_many_segments_is_restored_at_any_retained_version(seed: int) -> None:
    """Some segments change all the time and others never, so the base is never of one version."""
    shelf, generator = Shelf(), random.Random(seed)
    home, table = counting(shelf, fan=2 + seed, segment=16)
    past: list[tuple[StateRef, list[str]]] = []
    for version in range(160):
        low = generator.choice([0, 0, 0, 100, 200, 280])
        table.merge(count({low + generator.randrange(30) for _ in range(generator.choice([3, 20]))}, version + 80))
        table.expire(version)
        table.remove(count([generator.randrange(300)]).select("k"))
        past.append((home.commit(version, "a"), content(table.scan())))
        home.tidy(version)
        ref, rows = generator.choice(past[-RETAIN:])
        assert content(counting(shelf, ref)[1].scan()) == rows


def test_rows_that_move_after_a_burst_are_restored_at_any_retained_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the base has segments that lie behind the last slot."""
    for name in ("_CUT", "_ALWAYS"):
        monkeypatch.setattr(f"unbounded.state.memory.numbers.{name}", 32)
    shelf, generator = Shelf(), random.Random(4)
    home, table = counting(shelf, fan=3, segment=16)
    past: list[tuple[StateRef, list[str]]] = []
    for version in range(120):
        if version in (0, 60):
            table.merge(count(range(1_000), until=version + 10))
        table.merge(count({generator.randrange(900, 930) for _ in range(20)}, until=version + 30))
        table.expire(version)
        past.append((home.commit(version, "a"), content(table.scan())))
        home.tidy(version)
        ref, rows = generator.choice(past[-RETAIN:])
        assert content(counting(shelf, ref)[1].scan()) == rows
    assert isinstance(table, SlotTable)
    assert table.size < 200


def test_nothing_is_left_of_versions_that_are_not_retained() -> None:
    shelf = Shelf()
    home, table = counting(shelf)
    for version in range(20):
        table.merge(count([version % 3]))
        ref = home.commit(version, "orphan")
        home, table = counting(shelf, ref)
        home.commit(version, "again")
        home.tidy(version)
    shelf.put("runs/notes.txt", b"not ours")
    for version in range(20, 60):
        table.merge(count([version % 3]))
        home.commit(version, "a")
        home.tidy(version)
    assert "runs/notes.txt" in shelf.files
    assert not [name for name in shelf.files if "orphan" in name or "again" in name]


def test_without_tidy_every_commit_can_be_restored() -> None:
    shelf = Shelf()
    home, table = counting(shelf)
    past = []
    for version in range(30):
        table.merge(count(range(version % 7), until=version + 3))
        table.expire(version)
        past.append((home.commit(version, "a"), content(table.scan())))
    for ref, rows in past:
        assert content(counting(shelf, ref)[1].scan()) == rows


def test_commits_in_the_midst_of_tidy_are_not_disturbed() -> None:
    """The query goes on while tidy writes: here after each of its puts, which is where another thread could."""
    shelf = Shelf()
    home, table = counting(shelf)
    generator = random.Random(5)
    past: list[tuple[StateRef, list[str]]] = []

    def go_on(name: str) -> None:
        if name.startswith("runs/") and len(past) < 300:
            batch()

    def batch() -> None:
        table.merge(count([generator.randrange(20) for _ in range(5)], until=len(past) + 4))
        table.expire(len(past))
        table.remove(count([generator.randrange(20)]).select("k"))
        past.append((home.commit(len(past), "a"), content(table.scan())))

    shelf.after = go_on
    while len(past) < 300:
        batch()
        home.tidy(len(past) - 1)
        for ref, rows in past[-RETAIN:]:
            assert content(counting(Shelf(shelf.files), ref)[1].scan()) == rows


def test_a_log_is_restored_in_order_and_read_file_by_file() -> None:
    shelf = Shelf()
    home = MemoryHome(shelf, fan=3, segment=16)
    log = home.log("seen", SEEN)
    home.restore(None)
    for version in range(50):
        log.append(pl.DataFrame({"file": [f"{version}-{place}" for place in range(version % 5)]}, schema=SEEN))
        ref = home.commit(version, "a")
        home.tidy(version)
    again = MemoryHome(shelf)
    restored = again.log("seen", SEEN)
    again.restore(ref)
    frames = list(restored.restored())
    assert pl.concat(frames)["file"].to_list() == [f"{v}-{place}" for v in range(50) for place in range(v % 5)]
    assert 1 < len(frames) < 25
    assert list(restored.restored()) == []


def test_columns_may_come_in_another_order_after_a_restart() -> None:
    shelf = Shelf()
    home, table = counting(shelf)
    expected = Model.of(COUNT)
    ref: StateRef | None = None
    for version in range(12):
        rows = count([version % 5, version % 3])
        expected.merge(rows)
        table.merge(rows.select(table.scan().columns))
        ref = home.commit(version, "a")
        home.tidy(version)
        values = pl.Schema(dict(reversed(table.spec.values.items())))
        home = MemoryHome(shelf, retain=RETAIN, fan=2, segment=4)
        table = home.table("count", TableSpec(COUNT.key, values, tuple(reversed(table.spec.merge)), "until"))
        home.restore(ref)
        assert content(table.scan().select("k", "n", "until")) == content(expected.rows)


# --------------------------------------------------------------------------------------- failures
_HISTORY: list[Operation] = [
    operation
    for number in range(7)
    for operation in (
        ("merge", [(number + place, number - place, 2 * number) for place in range(4)]),
        ("insert", [(number % 7, number, None)]),
        ("expire", number),
        ("remove", [number % 5]),
        ("append", [(0, number, None)]),
        ("commit",),
        ("tidy",),
    )
]


class ShelfContract(HomeContract):
    """Homes over one shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def open(self, place: Path) -> Home:
        return MemoryHome(self.shelf, retain=RETAIN, fan=2, segment=4)


def _acts() -> list[str]:
    """The files that the history puts and removes, in order."""
    acts: list[str] = []
    History(ShelfContract(Shelf(before=acts.append)), Path(), KEYS["struct"]).run(_HISTORY)
    return acts


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whichever_put_or_removal_fails_the_last_commit_can_be_restored(moment: str) -> None:
    acts = _acts()
    assert len(set(acts)) < len(acts)  # some file is put and removed
    for fatal in range(len(acts)):
        shelf, seen = Shelf(), 0

        def fail(_: str, fatal: int = fatal) -> None:
            nonlocal seen
            seen += 1
            if seen - 1 == fatal:
                raise DiskError

        setattr(shelf, moment, fail)
        story = History(ShelfContract(shelf), Path(), KEYS["struct"])
        for operation in _HISTORY:
            try:
                story.do(*operation)
            except DiskError:
                story.open()
        story.do("crash")
        assert seen > fatal


def test_a_failed_tidy_can_be_repeated_by_the_same_home() -> None:
    shelf = Shelf()
    story = History(ShelfContract(shelf), Path(), KEYS["integer and string"])
    failures = 0

    def fail(name: str) -> None:
        nonlocal failures
        failures += 1
        if name.startswith("runs/") and failures % 3:
            raise DiskError

    shelf.before = fail
    for operation in _HISTORY * 3:
        try:
            story.do(*operation)
        except DiskError:
            assert operation == ("tidy",)
    story.run([])
    assert failures > 30


def _damaged(files: dict[str, bytes], name: str, generator: random.Random) -> dict[str, bytes | None]:
    """What may happen to a file, in words and bytes."""
    whole = files[name]
    place = generator.randrange(len(whole))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << generator.randrange(8)
    others = [other for other in files if other != name and other.split("/")[0] == name.split("/")[0]]
    return {
        "one bit flipped": bytes(flipped),
        "cut short": whole[:place],
        "emptied": b"",
        "lengthened": whole + b"\0",
        "swapped for another": files[generator.choice(others)],
        "deleted": None,
    }


def _error_of(act: Callable[[], None]) -> CheckpointError | None:
    try:
        act()
    except CheckpointError as error:
        return error
    return None


def test_any_damage_of_any_file_is_an_error_that_names_it_or_changes_nothing() -> None:
    shelf = Shelf()
    story = History(ShelfContract(shelf), Path(), KEYS["integer and string"])
    for operation in _HISTORY:
        story.do(*operation)
    story.do("commit")
    files, generator, named = dict(shelf.files), random.Random(11), set()
    for name, whole in files.items():
        for how, damaged in _damaged(files, name, generator).items():
            shelf.files[name] = damaged if damaged is not None else b""
            if damaged is None:
                del shelf.files[name]
            error = _error_of(story.open)
            shelf.files[name] = whole
            if error is not None:
                assert name in str(error), how
                assert isinstance(error, CorruptRecordError) or how == "deleted"
                named.add(name)
    assert {name.split("/")[0] for name in named} == {"state", "runs"}
    assert len(named) >= 6


def test_a_whole_record_of_another_query_is_no_substitute() -> None:
    shelves = Shelf(), Shelf()
    refs = []
    for shelf, keys in zip(shelves, ([1], [2]), strict=True):
        home, table = counting(shelf)
        table.merge(count(keys))
        refs.append(home.commit(0, "a"))
    name = refs[0]["name"]
    assert counting(shelves[0])[0].verify(refs[0])
    shelves[0].files[name] = shelves[1].files[name]
    assert not counting(shelves[0])[0].verify(refs[0])
    with pytest.raises(CorruptRecordError, match=rf"{name}.*it was replaced"):
        counting(shelves[0], refs[0])


def test_what_comes_after_a_commit_that_failed_begins_at_the_one_before() -> None:
    shelf = Shelf()
    home, table = counting(shelf)
    table.merge(count([1, 2]))
    before = home.commit(0, "a")
    table.merge(count([2, 3]))
    with pytest.raises(FileExistsError):
        home.commit(0, "a")
    home.restore(before)
    table.merge(count([2, 3]))
    ref = home.commit(1, "b")
    assert content(counting(shelf, ref)[1].scan()) == content(pl.DataFrame({"k": [1, 2, 3], "n": [1, 2, 1], "u": None}))
