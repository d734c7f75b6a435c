"""Does state in memory grow, shrink and collect garbage without a batch that pays for all of it?"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbounded.state import TableSpec
from unbounded.state.memory import arrays, expiry, index, numbers, slots, stored
from unbounded.state.memory.arrays import Elastic
from unbounded.state.memory.expiry import Calendar
from unbounded.state.memory.index import Index
from unbounded.state.memory.numbers import Numbers
from unbounded.state.memory.stored import VERSION
from unbounded.state.memory.table import SlotTable
from unbounded.testing.contracts.tables import Model, content

SPEC = TableSpec(
    pl.Schema({"k": pl.String()}),
    pl.Schema({"n": pl.Int64(), "last": pl.List(pl.Int64), "until": pl.Int64()}),
    (pl.col("n").sum(), pl.col("last").last(), pl.col("until").last()),
    "until",
)


def rows(keys: Sequence[int], until: Sequence[int | None]) -> pl.DataFrame:
    """Rows of SPEC."""
    number = pl.Series("n", keys, dtype=pl.Int64)
    return pl.DataFrame([number, pl.Series("until", until, dtype=pl.Int64)]).select(
        k=pl.lit("a key that is too long for its view ") + pl.col("n").cast(pl.String),
        n="n",
        last=pl.concat_list("n", "until"),
        until="until",
    )


@dataclass
class Slices:
    """How large the slices are; the smallest make every batch one in the midst of moving."""

    array: int
    cells: int
    values: int
    rows: int

    def cut(self, patch: pytest.MonkeyPatch) -> None:
        for module, names, size in (
            (arrays, ("_PLAIN",), self.array),
            (arrays, ("_FEWEST", "_STEP"), self.rows),
            (index, ("_LEAST", "_AT_ONCE", "_WORTH_A_PASS", "_BLOCK"), self.cells),
            (index, ("_ALWAYS",), max(self.cells // 16, 1)),
            (slots, ("_JOINED",), self.values),
            (slots, ("_ALWAYS",), max(self.values // 16, 1)),
            (expiry, ("_JOINED",), self.values),
            (numbers, ("_CUT", "_ALWAYS"), self.rows),
            (stored, ("_SLACK",), self.rows),
            (SlotTable, ("_movable",), self.rows),
        ):
            for name in names:
                patch.setattr(module, name, size)


TINY = Slices(array=1 << 8, cells=8, values=8, rows=4)
SMALL = Slices(array=1 << 12, cells=1 << 8, values=1 << 10, rows=1 << 8)


# ---------------------------------------------------------------------------------------- the law
@st.composite
def _batches(draw: st.DrawFn) -> list[tuple[str, list[int], int]]:
    """Verbs, with their keys and a time; some of a burst stay, so that there are many slots with few rows."""
    burst = [("merge", list(range(400)), 0), ("commit", [], 0), ("expire", [], 18)]
    verbs = st.sampled_from(["merge", "merge", "insert", "remove", "expire", "commit", "commit"])
    keys = st.builds(
        lambda low, height, step: list(range(low, low + height * step, step)),
        st.integers(0, 400),
        st.sampled_from([1, 2, 5, 20, 300]),
        st.integers(1, 3),
    )
    return burst + draw(st.lists(st.tuples(verbs, keys, st.integers(0, 60)), min_size=10, max_size=60))


@given(batches=_batches(), reserved=st.booleans())
def test_a_table_is_exact_in_the_midst_of_moving_and_what_it_commits_restores_it(
    batches: list[tuple[str, list[int], int]], reserved: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        TINY.cut(patch)
        if not reserved:
            patch.setattr(arrays, "_reserved", lambda size: None)
        table, model, committed = SlotTable("table", SPEC), Model.of(SPEC), Committed()
        for verb, keys, time in batches:
            new = rows(keys, [None if key % 7 == 0 else time + key % 20 for key in keys])
            match verb:
                case "commit":
                    committed.take(table)
                case "expire":
                    assert content(table.expire(time)) == content(model.expire(time))
                case "remove":
                    table.remove(new.select("k"))
                    model.remove(new.select("k"))
                case _:
                    assert content(getattr(table, verb)(new)) == content(getattr(model, verb)(new))
            assert content(table.lookup(model.rows.select("k"))) == content(model.rows)
        assert content(table.scan()) == content(model.rows)
        committed.take(table)
        assert content(committed.restored(table).scan()) == content(model.rows)


class Committed:
    """The changes of every commit."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []

    def take(self, table: SlotTable) -> None:
        version = len(self.frames)
        changes = table.changes()
        table.settle(version)
        self.frames.append(pl.DataFrame() if changes is None else changes.with_columns(pl.lit(version).alias(VERSION)))

    def restored(self, table: SlotTable) -> SlotTable:
        again = SlotTable(table.name, table.spec)
        again.load((frame for frame in self.frames if frame.height), table.watermark, table.expired_at)
        return again


@pytest.mark.parametrize("homes", [2**64 - 1, 0xFFFF_FFFF_0000_003F, 0xFFFF_FFFF_0000_0000])
@pytest.mark.parametrize("seed", range(3))
def test_the_index_finds_every_slot_once_while_entries_move(
    homes: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few homes make long clusters; the last home makes clusters that go on with the first cell."""
    TINY.cut(monkeypatch)
    generator, table, held = np.random.default_rng(seed), Index(), dict[int, np.uint64]()
    free = list(range(4000 if homes == 2**64 - 1 else 300, 0, -1))
    table.resize(4001)
    for _ in range(100):
        count = int(generator.choice([1, 30, 150]))
        chosen = generator.permutation(np.array(list(held), np.int64))[:count]
        match generator.choice(["insert", "insert", "remove", "move"]):
            case "insert" if len(free) > count:
                hashes = generator.integers(0, 2**64, count, np.uint64) & np.uint64(homes)
                hashes[-1] |= np.uint64(0xFFFF_FFFF)
                taken = np.array([free.pop() for _ in range(count)])
                table.reserve(count)
                table.insert(hashes, taken, _probed(table, hashes, None))
                held |= dict(zip(taken.tolist(), hashes, strict=True))
            case "remove":
                table.remove(chosen)
                free += chosen.tolist()
                for slot in chosen.tolist():
                    del held[slot]
            case "move" if len(free) > len(chosen):
                taken = np.array([free.pop() for _ in chosen], np.int64)
                table.move(chosen, taken)
                free += chosen.tolist()
                for slot, target in zip(chosen.tolist(), taken.tolist(), strict=True):
                    held[target] = held.pop(slot)
        here = np.array(list(held), np.int64)
        _probed(table, np.array(list(held.values()), np.uint64), here)
        absent = generator.integers(0, 2**63, 20).astype(np.uint64) & np.uint64(homes)
        _probed(table, absent, None)


def _probed(table: Index, hashes: npt.NDArray[np.uint64], wanted: slots.Slots | None) -> slots.Slots:
    """Search on until the wanted slots are found, or nothing is; the cells where that was."""
    found, cells = table.find(hashes)
    while len(wrong := np.flatnonzero(found != wanted if wanted is not None else found >= 0)):
        assert (found[wrong] >= 0).all(), "a slot was lost"
        found[wrong], cells[wrong] = table.find(hashes[wrong], cells[wrong] + 1)
    return cells


# --------------------------------------------------------------------------------------- the cost
@dataclass
class Work:
    """Items that were copied, moved or looked at for the sake of growing, shrinking and collecting."""

    items: int = 0

    def watch(self, patch: pytest.MonkeyPatch, owner: Any, name: str, cost: Callable[..., int]) -> None:
        """Count what each call costs: `cost` of its result and arguments."""
        original = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            self.items += cost(result, *arguments)
            return result

        patch.setattr(owner, name, counted)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """With small slices, so that a state of a thousand times their size is soon there."""
    SMALL.cut(monkeypatch)
    work = Work()
    work.watch(monkeypatch, Elastic, "_move", lambda _, array, length: min(length, len(array.items)))
    work.watch(monkeypatch, Index, "_move_last", lambda passed, *_: int(passed) // 8)  # a cell is a word, often empty
    work.watch(monkeypatch, pl, "concat", lambda joined, *_: len(joined))
    work.watch(monkeypatch, expiry, "_sorted", lambda run, *_: len(run[0]))
    work.watch(monkeypatch, Calendar, "collect", lambda _, calendar, limit, count: count)
    work.watch(monkeypatch, slots._Referenced, "_pass_by", lambda _, column, count: count)
    work.watch(monkeypatch, Numbers, "shrink", lambda moved, *_: len(moved[0]))
    return work


def _costs(work: Work, table: SlotTable, calls: Sequence[Callable[[], object]]) -> list[int]:
    """The work of each call with its commit."""
    costs = []
    for version, call in enumerate(calls):
        work.items = 0
        call()
        table.changes()
        table.settle(version)
        costs.append(work.items)
    return costs


@pytest.mark.parametrize("size", [10**3, 10**4, 10**5, 10**6])
def test_no_call_does_more_than_its_rows_and_a_slice_pay_for_while_the_table_grows(work: Work, size: int) -> None:
    """What one call may do is the same at every size."""
    spec = TableSpec(SPEC.key, pl.Schema({"until": pl.Int64}), (pl.col("until").max(),), "until")
    table, height = SlotTable("table", spec), max(1000, size // 250)
    batches = (
        rows(range(low, low + height), range(low, low + height)).select("k", "until") for low in range(0, size, height)
    )
    costs = _costs(work, table, [lambda batch=batch: table.merge(batch) for batch in batches])  # type: ignore[misc]  # a default has no type
    assert len(table) == size
    assert max(costs) <= 40 * height


def test_no_call_does_more_than_its_rows_and_a_slice_pay_for_while_values_change_and_a_burst_goes(work: Work) -> None:
    table, height, generator = SlotTable("table", SPEC), 100, random.Random(1)
    table.merge(rows(range(100_000), [key if key % 100 else None for key in range(100_000)]))
    table.changes()
    table.settle(0)

    def some() -> pl.DataFrame:
        return rows(generator.sample(range(0, 100_000, 100), height), [None] * height)

    costs = _costs(work, table, [lambda: table.merge(some()) for _ in range(100)])
    table.expire(100_000)
    costs += _costs(work, table, [lambda: table.merge(some()) for _ in range(400)])
    assert len(table) == 1000
    assert table.size < 6_000
    assert max(costs) <= 40 * height + 10_000


@pytest.mark.parametrize("reserved", [True, False])
def test_memory_goes_back_after_a_burst(reserved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not reserved:
        monkeypatch.setattr(arrays, "_reserved", lambda size: None)
    table, committed = SlotTable("table", SPEC), Committed()
    table.merge(rows(range(300_000), [None if key % 1000 == 999 else 5 for key in range(300_000)]))
    most = table.nbytes
    table.expire(5)
    for step in range(150):
        table.merge(rows(range(999, 300_000, 6_000), [None] * 50))
        committed.take(table)
        table.expire(step)
    table.merge(rows(range(999, 300_000, 1000), [None] * 300))  # where they are now: twice, if a move was not noted
    committed.take(table)
    assert table.nbytes < most / 20
    assert table.size < 10_000
    assert sorted(table.scan()["k"]) == sorted(rows(range(999, 300_000, 1000), [None] * 300)["k"])
    assert content(committed.restored(table).scan()) == content(table.scan())


def test_a_row_that_moved_to_another_slot_expires_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    SMALL.cut(monkeypatch)
    table, committed = SlotTable("table", SPEC), Committed()
    table.merge(rows(range(5_000), [5 if key < 4_900 else 50 for key in range(5_000)]))
    table.expire(5)
    for _ in range(30):
        committed.take(table)
    assert table.size < 1_000
    for each in (table, committed.restored(table)):
        assert each.expire(49).height == 0
        assert each.expire(50).height == 100


def test_slots_that_lie_idle_are_few_while_rows_come_and_go() -> None:
    table, generator = SlotTable("table", SPEC), random.Random(2)
    for step in range(100):
        table.merge(rows(range(300 * step, 300 * step + 300), [generator.randrange(step, step + 30)] * 300))
        table.expire(step)
    assert table.size < 1.3 * len(table) + 1000


# ------------------------------------------------------------------------------------- the arrays
@pytest.mark.parametrize("reserved", [True, False])
def test_an_array_keeps_its_items_while_it_grows_and_shrinks(reserved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_PLAIN", 1 << 12)
    if not reserved:
        monkeypatch.setattr(arrays, "_reserved", lambda size: None)
    generator, array, model = random.Random(3), Elastic[np.int64](np.int64, np.int64(-1)), list[int]()
    for _ in range(200):
        length = generator.choice([0, 1, 500, 5_000, 600_000, generator.randrange(1_000_000)])
        items = array.resize(length)
        model = model[:length] + [-1] * (length - len(model))
        assert items.tolist() == model if length < 10_000 else (items[:: length // 99] == model[:: length // 99]).all()
        for place in (generator.randrange(length) for _ in range(min(length, 100))):
            items[place] = model[place] = place


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere an array that shrinks is copied")
def test_an_array_that_shrinks_gives_its_memory_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    array: Elastic[np.int64] = Elastic(np.int64)
    array.resize(1 << 23)[:] = 1
    full = resident()
    array.resize(1 << 18)
    assert resident() < full - (1 << 25)
    assert array.items.all()
