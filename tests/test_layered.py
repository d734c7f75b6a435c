"""Does a home over a larger place answer as if everything were in memory, and stay within its limit?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from unbounded.errors import CheckpointError, MemoryLimitError
from unbounded.state import Home, MultimapSpec, StateRef, Table, TableSpec
from unbounded.state.databases.sqlite import sqlite_home
from unbounded.state.files.home import files_home
from unbounded.state.layered.cold import Changes, Layout
from unbounded.state.layered.home import LayeredHome
from unbounded.storage import open_storage
from unbounded.testing.contracts.homes import HomeContract
from unbounded.testing.contracts.tables import in_order

COUNT = TableSpec(
    pl.Schema({"k": pl.Int64()}),
    pl.Schema({"n": pl.Int64(), "until": pl.Int64()}),
    (pl.col("n").sum(), pl.col("until").max()),
    "until",
)


# ----------------------------------------------------------------------------------------- place
@dataclass
class Sheet:
    """Rows of one table as a frame, found by comparing all of them."""

    layout: Layout
    rows: pl.DataFrame = field(init=False)
    found: int = 0

    def __post_init__(self) -> None:
        self.rows = pl.DataFrame(schema=self.layout.schema)

    def _mask(self, keys: pl.DataFrame, names: list[str]) -> pl.Series:
        if not names:
            return pl.Series([keys.height > 0] * self.rows.height, dtype=pl.Boolean)
        wanted = set(in_order(keys.select(names)))
        assert len(wanted) == keys.height, "a key was asked for twice"
        return pl.Series([key in wanted for key in in_order(self.rows.select(names))], dtype=pl.Boolean)

    def find(self, keys: pl.DataFrame) -> pl.DataFrame:
        self.found += keys.height
        return self.rows.filter(self._mask(keys, self.layout.key.names()))

    def due(self, watermark: int) -> pl.DataFrame:
        return self.rows.filter(pl.col(str(self.layout.expiry)) <= watermark)

    def scan(self) -> Iterator[pl.DataFrame]:
        yield from self.rows.iter_slices(3)

    @property
    def nbytes(self) -> int:
        return 0

    def apply(self, changes: Changes) -> None:
        names = self.layout.identity.names()
        assert changes.written.schema == self.layout.schema
        for keys in (changes.removed, changes.written):
            self.rows = self.rows.filter(~self._mask(keys, names))
        self.rows = pl.concat([self.rows, changes.written])


class Binder:
    """Every version of some sheets: the simplest place there is."""

    kind, description = "binder", "binder"

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept = kept
        self.sheets: dict[str, Sheet] = {}
        self.logs: dict[str, pl.DataFrame] = {}

    def rows(self, name: str, layout: Layout) -> Sheet:
        self.sheets[name] = Sheet(layout)
        return self.sheets[name]

    def log(self, name: str, schema: pl.Schema) -> None:
        self.logs[name] = pl.DataFrame(schema=schema)

    def logged(self, name: str) -> Iterator[pl.DataFrame]:
        yield self.logs[name]

    def restore(self, ref: StateRef | None) -> Mapping[str, Any]:
        if ref is not None and not self.verify(ref):
            raise CheckpointError(f"{ref['name']} is not there")
        rows, logs, note = self.kept[ref["name"]] if ref is not None else ({}, {}, {})
        for name, sheet in self.sheets.items():
            sheet.rows = rows.get(name, sheet.rows.clear())
        self.logs = {name: logs.get(name, log.clear()) for name, log in self.logs.items()}
        return note  # type: ignore[no-any-return]  # kept as it came

    def look(self, ref: StateRef) -> Mapping[str, Any]:
        return self.restore(ref)

    def commit(
        self,
        version: int,
        attempt: str,
        changes: Mapping[str, Changes],
        added: Mapping[str, pl.DataFrame],
        note: Mapping[str, Any],
    ) -> StateRef:
        for name, each in changes.items():
            self.sheets[name].apply(each)
        self.logs |= {name: pl.concat([self.logs[name], rows]) for name, rows in added.items()}
        name = f"state/{version}.{attempt}"
        self.kept[name] = ({name: sheet.rows for name, sheet in self.sheets.items()}, dict(self.logs), note)
        return {"name": name, "digest": "-"}

    def verify(self, ref: StateRef) -> bool:
        return ref["name"] in self.kept and ref["digest"] == "-"

    def destroy(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""

    def tidy(self, committed: int) -> None:
        return


class Forgetful(LayeredHome):
    """Ages after some commits and forgets after others, so that rows come from everywhere."""

    def commit(self, version: int, attempt: str) -> StateRef:
        ref = super().commit(version, attempt)
        for part in self._parts.values():
            if version % 3 != 2:
                part.age()
            if version % 3 == 1:
                part.shrink()
        return ref


class TestLayeredHome(HomeContract):
    """Rows come from memory, from the old generation and from the place, in turn."""

    @pytest.fixture(autouse=True)
    def empty(self) -> None:
        self.kept: dict[Path, dict[str, Any]] = {}

    def open(self, place: Path) -> Home:
        return Forgetful(Binder(self.kept.setdefault(place, {})), memory_limit=1 << 24)


# --------------------------------------------------------------------------------------- memory
def counting(kept: dict[str, Any], memory_limit: int = 1 << 20) -> tuple[LayeredHome, Table, Sheet]:
    place = Binder(kept)
    home = LayeredHome(place, memory_limit=memory_limit)
    table = home.table("count", COUNT)
    home.restore(None)
    return home, table, place.sheets["count"]


def count(low: int, high: int) -> pl.DataFrame:
    keys = pl.int_range(low, high, eager=True).alias("k")
    return keys.to_frame().with_columns(n=pl.lit(1, pl.Int64), until=pl.lit(None, pl.Int64))


def test_what_was_used_lately_is_not_fetched_again() -> None:
    home, table, sheet = counting({})
    for version in range(40):
        table.merge(count(0, 500))
        table.merge(count(1000 * version + 1000, 1000 * version + 2000))
        home.commit(version, "a")
    assert sheet.found == 40 * 1000 + 500


def test_what_is_removed_or_expired_does_not_come_back_from_the_old_generation() -> None:
    home, table, _ = counting({})
    table.merge(count(0, 4).with_columns(until=pl.lit(5, pl.Int64)))
    home.commit(0, "a")
    home._parts["count"].age()
    table.remove(count(0, 2).select("k"))
    assert table.expire(5)["k"].to_list() == [2, 3]
    home.commit(1, "a")
    assert table.lookup(count(0, 4).select("k")).height == 0
    assert len(table) == 0


def test_a_limit_that_the_tables_cannot_work_with_is_refused_before_the_first_batch() -> None:
    home = LayeredHome(Binder({}), memory_limit=1 << 20)
    home.table("one", COUNT)
    home.table("two", COUNT)
    with pytest.raises(
        MemoryLimitError, match=r"memory_limit=1048576 is too low.*one, two.*memory_limit=2000000 or more"
    ):
        home.restore(None)


def test_the_least_limit_that_is_named_is_enough_where_the_place_needs_memory_too() -> None:
    for asked in (10, 1_999_999):
        home = LayeredHome(Binder({}), memory_limit=asked, beside=asked // 8)
        home.table("one", COUNT)
        home.table("two", COUNT)
        with pytest.raises(MemoryLimitError, match=rf"memory_limit={asked} is too low.*memory_limit=2000000 or more"):
            home.restore(None)
    home = LayeredHome(Binder({}), memory_limit=2_000_000, beside=250_000)
    home.table("one", COUNT)
    home.table("two", COUNT)
    home.restore(None)


def test_a_batch_that_touches_more_than_the_limit_is_refused_and_nothing_is_lost() -> None:
    kept: dict[str, Any] = {}
    home, table, _ = counting(kept)
    table.merge(count(0, 10))
    ref = home.commit(0, "a")
    with pytest.raises(MemoryLimitError, match=r"(?s)'count'.*memory_limit=1048576.*max_files_per_trigger="):
        table.merge(count(0, 100_000))
    home.restore(ref)
    assert table.scan().sort("k").equals(count(0, 10))
    larger, again, _ = counting(kept, 1 << 26)
    larger.restore(ref)
    again.merge(count(0, 100_000))
    assert len(again) == 100_000


MANY = MultimapSpec(COUNT.key, pl.Schema({"until": pl.Int64()}), "until")


@pytest.mark.parametrize("place", ["files", "sqlite"])
def test_a_watermark_may_close_more_than_the_limit_holds(place: str, tmp_path: Path) -> None:
    limit, storage = 3_000_000, open_storage(tmp_path)
    homes: dict[str, Callable[[], Home]] = {
        "files": lambda: files_home(storage, limit),
        "sqlite": lambda: sqlite_home(storage, limit),
    }
    home = homes[place]()
    table, other, many = home.table("one", COUNT), home.table("other", COUNT), home.multimap("many", MANY)
    home.restore(None)
    for version in range(10):
        rows = count(4_000 * version, 4_000 * version + 4_000).with_columns(until=pl.col("k"))
        table.merge(rows)
        other.merge(rows)
        many.append(rows.select("k", "until"))
        ref = home.commit(version, "a")
        home.tidy(version)
    closed = [each.expire(35_999) for each in (table, other, many)]
    assert [each["k"].sort().to_list() for each in closed] == [list(range(36_000))] * 3
    told = sum(each["bytes"] for each in home.metrics().values())
    assert told > limit  # so the limit was not what kept it from being refused
    other.merge(rows)  # what does not expire still counts
    with pytest.raises(MemoryLimitError):
        table.merge(count(200_000, 240_000))
    home.restore(ref)
    assert len(table) == 40_000
    for each in (table, other, many):
        each.expire(35_999)
    ref = home.commit(10, "a")
    assert sum(each["bytes"] for each in home.metrics().values()) <= limit
    home.restore(ref)
    assert [len(each) for each in (table, other, many)] == [4_000] * 3
    assert table.scan().sort("k").equals(rows)
