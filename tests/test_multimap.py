"""Does a multimap in memory cost what is asked of it, whatever it holds and however many rows one key has?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.datatypes.classes import NumericType

from unbounded.errors import CheckpointError, PlanError
from unbounded.state import Multimap, MultimapSpec, TableSpec
from unbounded.state.memory.home import MemoryHome
from unbounded.state.memory.lists import Lists
from unbounded.state.memory.multimap import SlotMultimap
from unbounded.state.memory.slots import Slots
from unbounded.state.memory.stored import SLOT
from unbounded.storage import LocalStorage
from unbounded.testing.contracts.tables import KEYS, Many, content, in_order, rows_of

SPEC = MultimapSpec(pl.Schema({"k": pl.Int64()}), pl.Schema({"n": pl.Int64(), "until": pl.Int64()}), "until")


def rows(keys: Iterable[int], until: int | None = None) -> pl.DataFrame:
    """Rows of SPEC, numbered."""
    frame = pl.DataFrame({"k": list(keys)}, schema={"k": pl.Int64})
    return frame.select("k", n=pl.int_range(pl.len()), until=pl.lit(until, pl.Int64))


# ------------------------------------------------------------------------------------------ lists
def _filled(lists: Lists, owners: Slots, batch: int) -> None:
    """Slot i to the i-th owner, so many at a time."""
    lists.make_room(int(owners.max()) + 1, len(owners))
    for low in range(0, len(owners), batch):
        slots = np.arange(low, min(low + batch, len(owners)))
        lists.append(owners[slots], slots)


@pytest.mark.parametrize("seed", range(4))
def test_lists_are_as_lists_of_python(seed: int) -> None:
    generator, lists = random.Random(seed), Lists()
    expected: dict[int, list[int]] = {owner: [] for owner in range(5)}
    free = list(range(4000))
    lists.make_room(5, 4000)
    for _ in range(300):
        listed = [slot for each in expected.values() for slot in each]
        if len(free) > 200 and generator.random() < 0.6:
            slots = [free.pop() for _ in range(generator.choice([1, 2, 40, 200]))]
            owners = [generator.choice([0, 0, 0, 1, 2, 3]) for _ in slots]
            lists.append(np.array(owners), np.array(slots))
            for owner, slot in zip(owners, slots, strict=True):
                expected[owner].append(slot)
        elif listed:
            oldest_first = generator.random() < 0.5
            gone = expected[0][:50] if oldest_first else generator.sample(listed, generator.randrange(len(listed)) + 1)
            if not gone:
                continue
            freed, empty = lists.remove(np.array(gone))
            free += freed.tolist()
            expected = {owner: [slot for slot in each if slot not in set(gone)] for owner, each in expected.items()}
            assert {owner for owner in empty.tolist() if expected[owner]} == set()
        asked, slots_of = lists.of(np.array([4, 0, 2, 0]))
        assert asked.tolist() == [place for place, owner in enumerate([4, 0, 2, 0]) for _ in expected[owner]]
        assert slots_of.tolist() == [slot for owner in [4, 0, 2, 0] for slot in expected[owner]]


def test_a_list_of_many_slots_is_read_in_few_rounds() -> None:
    lists = Lists()
    _filled(lists, np.zeros(1_000_000, np.int64), batch=7_000)
    chain, _ = lists._chains(np.array([0]))
    assert len(chain) < 16 + 1_000_000 / 2**16


@pytest.mark.parametrize("held", [1_000, 100_000])
def test_appending_and_removing_move_no_more_than_they_change(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owner 0 has half of everything; what is looked at is counted by the entries that are listed again."""
    lists, moved = Lists(), 0
    owners = np.arange(held) % 2 * np.arange(held)
    _filled(lists, owners, batch=500)
    written = lists.append

    def counted(owners: Slots, slots: Slots) -> None:
        nonlocal moved
        moved += len(slots)
        written(owners, slots)

    monkeypatch.setattr(lists, "append", counted)
    removed = 0
    for low in range(0, held - 100, 100):
        lists.remove(np.arange(low, low + 100))
        removed += 100
        assert moved <= removed
    assert lists.of(np.array([0]))[1].tolist() == list(range(held - 100, held, 2))


# --------------------------------------------------------------------------------------- multimap
@pytest.mark.parametrize("kind", ["int64", "datetime", "string", "integer and string", "float64", "list of floats"])
@pytest.mark.parametrize("asks", ["probe", "under"])
def test_a_multimap_that_grows_and_shrinks_stays_exact(kind: str, asks: str) -> None:
    generator = random.Random(5)
    model = Many.of(KEYS[kind], order=())
    multimap = SlotMultimap("many", model.spec)
    for step in range(120):
        draws = [(generator.randrange(8), step + place, generator.choice([None, step + 3])) for place in range(90)]
        batch = rows_of(KEYS[kind], draws[: generator.choice([1, 20, 90])])
        verb = generator.choice(["append", "append", "append", "remove", "expire"])
        if verb == "append":
            multimap.append(batch)
            model.append(batch)
        elif verb == "remove":
            multimap.remove(batch.select(model.spec.key.names()).head(2))
            model.remove(batch.select(model.spec.key.names()).head(2))
        else:
            assert content(multimap.expire(step)) == content(model.expire(step))
        asked = batch.select(model.spec.key.names()).head(3)
        if asks == "probe":
            assert in_order(multimap.probe(asked)) == in_order(model.probe(asked))
        else:
            texts = model._texts(asked).to_list()
            found = multimap.under(asked)
            found = found.filter(model._texts(found).is_in(texts))
            assert content(found) == content(model.under(asked))
        assert len(multimap) == model.rows.height
    assert content(multimap.scan()) == content(model.rows)


@pytest.mark.parametrize(("lasts", "share"), [(2, 0), (50, 0.9)])
def test_rows_that_go_soon_are_never_listed_by_key_and_those_that_stay_are(
    lasts: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = 0

    def counted(lists: Lists, owners: Slots, slots: Slots) -> None:
        nonlocal listed
        listed += len(slots)
        written(lists, owners, slots)

    written = Lists.append
    monkeypatch.setattr(Lists, "append", counted)
    multimap = SlotMultimap("many", SPEC)
    for step in range(100):
        came = rows(range(100 * step, 100 * step + 100), until=step + lasts)
        assert multimap.under(came.select("k")).height == 0  # no key lies between those that came before
        multimap.append(came)
        multimap.expire(step)
    assert listed == 0 if not share else listed > share * 100 * 100
    assert multimap.under(rows([9_900]).select("k"))["k"].to_list() == [9_900]


def test_rows_that_never_expire_stay_where_others_come_behind_them() -> None:
    multimap = SlotMultimap("many", SPEC)
    came = pl.concat([rows([1]), rows([2, 3], until=5), rows([4], until=9)])
    multimap.under(came.select("k"))
    multimap.append(came)
    assert multimap.expire(5)["k"].to_list() == [2, 3]
    assert sorted(multimap.scan()["k"]) == [1, 4]


@pytest.mark.parametrize("dtype", [pl.Int128, pl.UInt128, pl.UInt64])
def test_any_integer_may_be_a_key_of_rows_that_are_looked_through(dtype: type[NumericType]) -> None:
    spec = MultimapSpec(pl.Schema({"k": dtype()}), SPEC.values, SPEC.expiry)
    multimap, most = SlotMultimap("many", spec), pl.select(dtype.max()).item()
    keys = pl.Series("k", [most - 2, most - 1, most], dtype)
    came = rows([0, 0, 0], until=5).with_columns(keys)
    multimap.under(came.select("k"))
    multimap.append(came)
    assert 2 in multimap.under(came.select("k").tail(1))["n"]


@pytest.mark.parametrize("arrive", [lambda step: [0] * 10, lambda step: range(10 * step, 10 * step + 10)])
def test_slots_and_keys_of_rows_that_went_are_used_again(arrive: Callable[[int], Iterable[int]]) -> None:
    """Under one key, and each under its own."""
    multimap = SlotMultimap("many", SPEC)
    for step in range(200):
        multimap.append(rows(arrive(step), until=step))
        assert multimap.expire(step - 2).height == (10 if step >= 2 else 0)
        if step == 100:
            size = multimap.nbytes
    assert len(multimap) == 20
    assert multimap.size <= 50
    assert multimap.nbytes == size


def test_a_part_of_a_multimap_is_not_reached_by_what_comes_later() -> None:
    multimap = SlotMultimap("many", SPEC)
    multimap.append(rows([1, 2, 1, 3], until=5))
    part, before = multimap.part(0, multimap.size), content(multimap.scan())
    multimap.expire(9)
    multimap.append(rows([7, 8, 9, 7, 7]))
    assert content(part.frame().select("k", "n", "until")) == before
    assert part.frame()[SLOT].to_list() == [0, 1, 2, 3]


@pytest.mark.parametrize("lasts", [1, 3, 40])
def test_what_is_looked_through_is_durable_as_what_is_found_by_key(lasts: int, tmp_path: Path) -> None:
    """In a base of small segments, and with slots that are used again within a batch."""

    def opened() -> tuple[MemoryHome, Multimap]:
        home = MemoryHome(LocalStorage(str(tmp_path)), fan=4, segment=16)
        return home, home.multimap("many", SPEC)

    home, multimap = opened()
    home.restore(None)
    for step in range(30):
        came = rows(range(7 * step, 7 * step + 9), until=step + lasts)
        multimap.under(came.select("k"))
        multimap.append(came)
        multimap.remove(came.select("k").head(2 + step % 3))
        multimap.append(came.head(1 + step % 4))
        multimap.expire(step)
        ref = home.commit(step, "attempt")
        home.tidy(step)
        again, restored = opened()
        again.restore(ref)
        assert content(restored.scan()) == content(multimap.scan())
        assert restored.expire(step + lasts - 1).height == sum(u <= step + lasts - 1 for u in multimap.scan()["until"])


# ---------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (MultimapSpec(pl.Schema(), SPEC.values, None), "needs a key"),
        (MultimapSpec(SPEC.key, SPEC.key, None), "different names"),
        (MultimapSpec(SPEC.key, SPEC.values, "k"), "Int64 among its values"),
        (MultimapSpec(SPEC.key, SPEC.values, "until", order=("n", "time")), r"\['time'\], not among"),
    ],
)
def test_a_multimap_that_cannot_be_kept_is_refused_when_declared(spec: MultimapSpec, words: str) -> None:
    with pytest.raises(PlanError, match=f"multimap 'wrong'.*{words}"):
        SlotMultimap("wrong", spec)


def test_rows_of_another_type_are_refused() -> None:
    with pytest.raises(PlanError, match=r"multimap 'many'.*Int64.*Int8"):
        SlotMultimap("many", SPEC).append(rows([1]).cast({"n": pl.Int8}))


def test_a_multimap_is_not_restored_as_a_table(tmp_path: Path) -> None:
    home = MemoryHome(LocalStorage(str(tmp_path)))
    home.multimap("rows", SPEC)
    home.restore(None)
    ref = home.commit(0, "a")
    other = MemoryHome(LocalStorage(str(tmp_path)))
    other.multimap("rows", MultimapSpec(SPEC.key, SPEC.values, None, order=("n",)))  # orders are the query's own
    other.restore(ref)
    other = MemoryHome(LocalStorage(str(tmp_path)))
    other.table("rows", TableSpec(SPEC.key, SPEC.values, (pl.col("n").sum(), pl.col("until").max()), "until"))
    with pytest.raises(CheckpointError, match="'rows' was"):
        other.restore(ref)
