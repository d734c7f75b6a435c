"""Does state in files answer as state in memory, within its limit, and name what is damaged?"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.test_layered import Forgetful
from unbounded.errors import CheckpointError, CorruptRecordError
from unbounded.state import Home, StateRef, Table, TableSpec
from unbounded.state.files.home import FilesCold, files_home
from unbounded.state.files.levels import Catalogue, catalogue_of
from unbounded.state.files.sorting import Content, Form, map_file
from unbounded.state.layered.home import LayeredHome
from unbounded.state.memory.home import MemoryHome
from unbounded.state.memory.index import hash_rows
from unbounded.storage import LocalStorage, decode, open_storage
from unbounded.testing.contracts.homes import RETAIN, HomeContract

COUNT = TableSpec(
    pl.Schema({"k": pl.Int64()}),
    pl.Schema({"n": pl.Int64(), "until": pl.Int64()}),
    (pl.col("n").sum(), pl.col("until").max()),
    "until",
)


def count(keys: Iterable[int], until: int | None = None) -> pl.DataFrame:
    """Rows of COUNT that count each key once."""
    return pl.DataFrame({"k": list(keys)}, schema={"k": pl.Int64}).with_columns(
        n=pl.lit(1, pl.Int64), until=pl.lit(until, pl.Int64)
    )


def tiny(place: Path) -> Home:
    """Two commits make a run, two runs are joined, two rows make a file."""
    cold = FilesCold(LocalStorage(str(place)), memory=1 << 20, retain=RETAIN, deltas=2, fan=2, piece=2)
    return Forgetful(cold, memory_limit=1 << 24)


# --------------------------------------------------------------------------------------- contract
class TestFilesHome(HomeContract):
    """With so few deltas and so small files, runs are written, joined and dropped all the time."""

    def open(self, place: Path) -> Home:
        return tiny(place)


class TestFilesHomeWithOneHash(HomeContract):
    """Every key has the same hash, so only the comparison of keys tells them apart."""

    examples = 2

    @pytest.fixture(autouse=True)
    def one_hash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def same(keys: list[pl.Series], height: int, seed: int) -> np.ndarray[Any, Any]:
            return np.full(height, 0xFFFF_FFFF_0000_0001, np.uint64)

        monkeypatch.setattr("unbounded.state.files.sorting.hash_rows", same)

    def open(self, place: Path) -> Home:
        return tiny(place)


# ---------------------------------------------------------------------------------------- answers
def counting(home: Home, ref: StateRef | None = None) -> Table:
    """A table of COUNT in a home, restored."""
    table = home.table("count", COUNT)
    home.restore(ref)
    return table


def small(place: Path, limit: int = 1 << 24) -> LayeredHome:
    """A few commits make a run, and a few dozen rows a file."""
    cold = FilesCold(LocalStorage(str(place)), memory=limit // 4, retain=RETAIN, deltas=3, fan=3, piece=64)
    return LayeredHome(cold, memory_limit=limit)


def by_key(rows: pl.DataFrame) -> list[tuple[Any, ...]]:
    return rows.select("k", "n", "until").sort("k").rows()


@pytest.mark.parametrize("seed", range(2))
def test_many_keys_are_as_in_memory_through_joins_expiry_and_restarts(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unbounded.state.files.home._SCANNED", 100)
    chance = random.Random(seed)
    homes: list[Home] = [MemoryHome(LocalStorage(str(tmp_path / "memory"))), small(tmp_path / "files")]
    tables = [counting(home) for home in homes]
    watermark = 0
    for version in range(50):
        keys = [chance.randrange(3000) for _ in range(chance.choice([5, 60, 200]))]
        until = chance.choice([None, watermark + 20, watermark - 1])
        watermark += chance.randrange(3)
        for each in chance.sample(["merge", "insert", "remove", "expire", "lookup"], 3):
            if each == "merge":
                assert len({str(by_key(table.merge(count(keys, until)))) for table in tables}) == 1
            elif each == "insert":
                assert len({str(by_key(table.insert(count(keys, until)))) for table in tables}) == 1
            elif each == "remove":
                for table in tables:
                    table.remove(count(keys[:20]).select("k"))
            elif each == "expire":
                assert len({str(by_key(table.expire(watermark))) for table in tables}) == 1
            else:
                assert len({str(table.lookup(count(keys).select("k")).rows()) for table in tables}) == 1
        refs = [home.commit(version, "a") for home in homes]
        for home in homes:
            home.tidy(version)
        if chance.random() < 0.1:
            homes = [MemoryHome(LocalStorage(str(tmp_path / "memory"))), small(tmp_path / "files")]
            tables = [counting(home, ref) for home, ref in zip(homes, refs, strict=True)]
        assert by_key(tables[0].scan()) == by_key(tables[1].scan())
        assert len(tables[0]) == len(tables[1])


# ------------------------------------------------------------------------------------------ costs
def test_memory_stays_within_its_limit_over_many_more_keys_than_fit(tmp_path: Path) -> None:
    limit = 1 << 20
    home = files_home(LocalStorage(str(tmp_path)), limit)
    table = counting(home)
    bytes_a_row = counted_in_memory(tmp_path / "memory", 4000) / 4000
    batches = int(50 * limit / bytes_a_row / 4000) + 1
    for version in range(batches):
        table.merge(count(range(4000 * version, 4000 * (version + 1))))
        home.commit(version, "a")
        home.tidy(version)
        assert home.metrics()["count"]["bytes"] <= limit
    assert len(table) == 4000 * batches
    assert table.lookup(count([0, 4000 * batches - 1, -1]).select("k"))["n"].to_list() == [1, 1]


def counted_in_memory(place: Path, rows: int) -> int:
    home = MemoryHome(LocalStorage(str(place)))
    counting(home).merge(count(range(rows)))
    return home.metrics()["count"]["bytes"]


def filled(place: Path, batches: int = 40) -> tuple[StateRef, LayeredHome]:
    """A hundred keys a batch, in many files."""
    home = small(place)
    table = counting(home)
    for version in range(batches):
        table.merge(count(range(100 * version, 100 * version + 100)))
        ref = home.commit(version, "a")
        home.tidy(version)
    return ref, home


def test_a_key_is_looked_for_in_at_most_one_file_of_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, _ = filled(tmp_path)
    opened: list[str] = []

    def noted(path: str, form: Form, expected: str | None) -> Content:
        opened.append(path)
        return map_file(path, form, expected)

    monkeypatch.setattr("unbounded.state.files.runs.map_file", noted)
    table = counting(small(tmp_path), ref)
    assert opened == []
    assert table.lookup(count([1234]).select("k"))["n"].to_list() == [1]
    listed = listing(tmp_path, ref)
    assert 0 < len(opened) <= len(listed.tables["count"]) < len(listed.names()) / 3


def listing(place: Path, ref: StateRef) -> Catalogue:
    """What a commit names."""
    storage = LocalStorage(str(place))
    version = int(ref["name"].split("/")[1].split(".")[0])
    return catalogue_of(storage, decode(storage.read(ref["name"]), "state", version, "")[0])


def test_files_whose_rows_have_expired_are_dropped_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = small(tmp_path)
    table = counting(home)
    for version in range(60):
        table.merge(count(range(100 * version, 100 * version + 100), until=version + 5))
        assert table.expire(version).height == (100 if version >= 5 else 0)
        ref = home.commit(version, "a")
        home.tidy(version)
    assert len(table) == 500
    rows = sum(run.rows for run in listing(tmp_path, ref).tables["count"])
    assert rows < 6 * 500  # of 6000 that were written, and as many that say they are gone


def test_old_files_are_deleted(tmp_path: Path) -> None:
    home = small(tmp_path)
    table = counting(home)
    files = []
    for version in range(120):
        table.merge(count(range(300)))
        home.commit(version, "a")
        home.tidy(version)
        files.append(sum(1 for file in tmp_path.rglob("*") if file.is_file()))
    assert max(files[60:]) < 1.5 * max(files[:60])


def test_what_is_left_of_forgotten_versions_is_no_damage_after_going_back(tmp_path: Path) -> None:
    cold = FilesCold(LocalStorage(str(tmp_path)), memory=1 << 22, retain=8, deltas=4, fan=2, piece=4)
    home = LayeredHome(cold, memory_limit=1 << 24)
    table = counting(home)
    refs = []
    for version in range(22):
        table.merge(count(range(3 * version, 3 * version + 9)))
        refs.append(home.commit(version, "a"))
        home.tidy(version)
    expected = by_key(table.scan())
    home.restore(refs[18])  # eight versions before it there are changes that later ones need, and nothing else
    for version in range(19, 22):
        table.merge(count(range(3 * version, 3 * version + 9)))
        ref = home.commit(version, "b")
        home.tidy(version)
    home.restore(ref)
    assert by_key(table.scan()) == expected


# ----------------------------------------------------------------------------------------- damage
def test_a_damaged_file_is_named_at_its_first_touch(tmp_path: Path) -> None:
    ref, _ = filled(tmp_path, 12)
    needed = sorted(listing(tmp_path, ref).names() | {ref["name"]})
    for name in needed:
        file = tmp_path / name
        honest = file.read_bytes()
        for place in (0, len(honest) // 2, len(honest) - 1):
            file.write_bytes(honest[:place] + bytes([honest[place] ^ 1]) + honest[place + 1 :])
            with pytest.raises(CorruptRecordError, match=f"(?s){name}.*Restore the file from a backup"):
                counting(small(tmp_path), ref).scan()
        file.unlink()
        with pytest.raises(CheckpointError, match=f"(?s){name}.*is not there. Restore the file from a backup"):
            counting(small(tmp_path), ref).scan()
        file.write_bytes(honest)
    assert len(needed) > 5
    assert counting(small(tmp_path), ref).scan().height == 1200


def test_files_are_sorted_again_when_polars_hashes_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, _ = filled(tmp_path)

    def otherwise(keys: list[pl.Series], height: int, seed: int) -> np.ndarray[Any, Any]:
        return ~hash_rows(keys, height, seed + 1)

    for hashing in (otherwise, hash_rows):
        monkeypatch.setattr("unbounded.state.files.sorting.hash_rows", hashing)
        home = small(tmp_path)
        table = counting(home, ref)
        assert table.lookup(count(range(0, 8000, 2)).select("k")).height == 2000
        assert table.scan().height == 4000
        table.merge(count([7]))
        version = int(ref["name"].split("/")[1].split(".")[0]) + 1
        ref = home.commit(version, "a")
        home.tidy(version)


def test_an_object_store_is_refused_naming_what_to_write_instead() -> None:
    with pytest.raises(CheckpointError, match=r'(?s)state="files".*memory://ckpt.*not on a local disk.*state="memory"'):
        files_home(open_storage("memory://ckpt"), 1 << 24)


def test_a_commit_that_fails_can_be_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, home = filled(tmp_path, 5)
    table = counting(small(tmp_path), ref)
    before = by_key(table.scan())

    def full(self: LocalStorage, name: str, data: bytes) -> None:
        raise OSError("disk full")

    table = home._parts["count"]  # type: ignore[assignment]  # a table, as declared
    table.merge(count(range(1000)))
    table.expire(10)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "put", full)
        with pytest.raises(OSError, match="disk full"):
            home.commit(5, "a")
    home.restore(ref)
    assert by_key(table.scan()) == before
