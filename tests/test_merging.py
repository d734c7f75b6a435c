"""Does an update sink stay small, whatever its history, and is it still read right?"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from unbounded.connectors import Mode, Sink
from unbounded.errors import ConnectorError
from unbounded.sinks import FileSink, files, levels, manifest, merging, read_sink, verify
from unbounded.sinks.changes import changes_of
from unbounded.sinks.levels import Levels, newest
from unbounded.sinks.manifest import FANOUT, Log
from unbounded.sinks.slices import hashes, slices
from unbounded.storage import open_storage
from unbounded.testing.contracts.sinks import KEY, QUERY, SCHEMA, Batch, Reopen, SinkContract, batches, open_sink, table
from unbounded.testing.contracts.sinks import play as play_batches

FRESH = itertools.count()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches make a run and two rows a slice, so that few batches go through everything a long history does."""
    for module in (manifest, files, merging):
        monkeypatch.setattr(module, "FANOUT", 2)
    monkeypatch.setattr(merging, "_SLICE", 2)
    monkeypatch.setattr(levels, "_PAGE", 4)
    monkeypatch.setattr(merging, "_FEW", 3)


class _UpdateSink(FileSink):
    """The contract of other modes is tested elsewhere."""

    @property
    def modes(self) -> frozenset[Mode]:
        return frozenset({"update"})


@pytest.mark.usefixtures("small")
class TestMergedFileSink(SinkContract):
    @pytest.fixture(params=["local parquet", "local csv", "local ndjson", "memory ipc"])
    def new_place(self, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Reopen]:
        where, format = request.param.split()

        def place() -> Reopen:
            root = tmp_path if where == "local" else "memory://merging"
            url = f"{root}/out-{next(FRESH)}"
            return lambda: _UpdateSink(url, format, retain=1)

        return place


def update_sink(path: Path | str, **more: Any) -> FileSink:
    sink = open_sink(lambda: FileSink(path, "ipc", **more), "update")
    assert isinstance(sink, FileSink)
    return sink


def levels_of(path: Path | str) -> Levels:
    return newest(open_storage(f"{path}._unbounded"))


def live_rows(path: Path | str) -> int:
    """Rows and removed keys in all files that a reader opens."""
    levels = levels_of(path)
    entries = Log(open_storage(f"{path}._unbounded")).entries(levels.until + 1)
    return levels.rows + sum(file.rows for entry in entries for file in entry.all_files())


def play(sink: Sink, script: Sequence[Batch], *, since: int = 0) -> None:
    """Write batches, and tidy behind each as the engine does."""
    assert isinstance(sink, FileSink)
    for number in range(since, len(script)):
        play_batches(sink, "update", script[: number + 1], since=number)
        sink.tidy(number)


# -------------------------------------------------------------------------------------- the bound
def test_many_batches_over_few_keys_stay_few_rows_and_few_files(tmp_path: Path) -> None:
    clock = Clock()
    sink = update_sink(tmp_path / "out", retain=1, clock=clock)
    script = [Batch(((f"{n % 7}", n), (f"{n % 5}-", n)), removed=(f"{n % 3}",)) for n in range(160)]
    for number in range(len(script)):
        play(sink, script[: number + 1], since=number)
        clock.now += 1000
        keys = table("update", script[: number + 1]).height
        waiting = FANOUT * 3  # rows of the batches that were not merged yet
        assert live_rows(tmp_path / "out") <= 2 * keys + waiting
        assert len(os.listdir(tmp_path / "out._unbounded/data")) <= 4 * FANOUT + 1
    assert_frame_equal(sink.read().collect(), table("update", script))


def test_a_table_of_which_all_keys_leave_holds_no_row_any_more(tmp_path: Path) -> None:
    sink = update_sink(tmp_path / "out")
    keys = [f"{n}" for n in range(64)]
    script = [Batch(tuple((key, 1) for key in keys))]
    script += [Batch(removed=(key,)) for key in keys]
    script += [Batch()] * (FANOUT - len(script) % FANOUT)
    play(sink, script)
    assert sink.read().collect().is_empty()
    assert live_rows(tmp_path / "out") == 0
    back = [*script, Batch((("7", 2),)), *[Batch()] * FANOUT]
    play(sink, back, since=len(script))
    assert sink.read().collect().rows() == [("7", 2)]
    assert live_rows(tmp_path / "out") == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("slice_rows", [2, 1000])
def test_after_every_batch_what_is_merged_is_below_twice_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    monkeypatch.setattr(merging, "_SLICE", slice_rows)
    keys = st.integers(0, 40).map(str)
    rows = st.lists(st.tuples(keys, st.integers(0, 9)), unique_by=lambda row: row[0], max_size=20).map(tuple)
    removed = st.lists(keys, unique=True, max_size=20).map(tuple)

    @settings(max_examples=20)
    @given(st.lists(st.builds(Batch, rows, removed), min_size=4, max_size=20))
    def law(script: list[Batch]) -> None:
        path = tmp_path / f"out{next(FRESH)}"
        sink = update_sink(path)
        for number in range(len(script)):
            play(sink, script[: number + 1], since=number)
            levels = levels_of(path)
            assert levels.rows <= 2 * table("update", script[: levels.until + 1]).height
            assert number - levels.until < 2
        assert_frame_equal(sink.read().collect(), table("update", script))

    law()


@pytest.mark.usefixtures("small")
def test_slices_of_a_run_do_not_meet_and_every_key_lies_in_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_SLICE", 20)
    sink = update_sink(tmp_path / "out")
    chance = np.random.default_rng(1)
    for number in range(40):
        values = chance.choice(200, 20, replace=False)
        rows = pl.DataFrame({"key": [str(one) for one in values], "value": values})
        sink.write(number, rows, {}, removed=rows.head(3).select("key"))
        sink.tidy(number)
        for run in levels_of(tmp_path / "out").runs:
            assert all(one.high < other.low for one, other in itertools.pairwise(run))
            for slice in run:
                found = hashes(pl.read_ipc(tmp_path / "out._unbounded/data" / slice.file.name).select("key"))
                assert (int(found.min()), int(found.max())) == (slice.low, slice.high)


def test_a_large_table_is_merged_a_slice_at_a_time_and_a_row_is_rewritten_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_SLICE", 100)
    monkeypatch.setattr(merging, "_FEW", 40)
    read: list[int] = []
    original = changes_of

    def counted(owner: Any, place: Any, slices: Any, entries: Any) -> pl.LazyFrame:
        changes = original(owner, place, slices, entries)
        read.append(changes.select(pl.len()).collect().item())
        return changes

    sink = update_sink(tmp_path / "out")
    keys = 10_000
    everything = pl.DataFrame({"key": [str(n) for n in range(keys)], "value": range(keys)})
    sink.write(0, everything, {}, removed=everything.select("key").clear())
    sink.tidy(0)
    monkeypatch.setattr(merging, "changes_of", counted)
    count, size = 600, 20
    for number in range(1, count + 1):
        rows = everything.sample(size, seed=number)
        sink.write(number, rows, {}, removed=rows.select("key").clear())
        sink.tidy(number)
    assert max(read) < 10 * 100, "a step reads a slice and what it meets"
    assert sum(read) < 40 * count * size, "and there are few steps"
    assert live_rows(tmp_path / "out") < 2 * keys
    assert sink.read().collect().height == keys
    assert len(list(levels_of(tmp_path / "out").slices())) < 4 * keys / 100


# -------------------------------------------------------------------------------------- readers
def test_a_frame_of_merged_files_can_be_read_for_some_batches_and_ten_minutes(tmp_path: Path) -> None:
    clock = Clock()
    sink = update_sink(tmp_path / "out", retain=40, clock=clock)
    script = [Batch(((f"{n % 3}", n),)) for n in range(200)]
    play(sink, script[:20])
    before = sink.read()
    play(sink, script[:40], since=20)
    clock.now = 601
    play(sink, script[:59], since=40)
    assert_frame_equal(before.collect(), table("update", script[:20]))
    clock.now = 10_000  # what is replaced from now on is kept for its ten minutes
    play(sink, script[:100], since=59)
    with pytest.raises(FileNotFoundError):
        before.collect()
    fresh = sink.read()
    play(sink, script, since=100)
    assert_frame_equal(fresh.collect(), table("update", script[:100]))


@pytest.mark.usefixtures("small")
def test_a_step_writes_no_more_when_many_replaced_files_wait_and_all_are_deleted_in_time(tmp_path: Path) -> None:
    clock = Clock()
    script = [Batch(((f"{n % 3}", n),)) for n in range(300)]
    beside = tmp_path / "out._unbounded"
    sizes, waiting = [], []
    for number in range(len(script)):
        if number % 100 == 0:  # a start, which knows by the pages alone what waits
            sink = update_sink(tmp_path / "out", retain=1, clock=clock)
        if number >= 200:
            clock.now = 601.0
        play(sink, script[: number + 1], since=number)
        sizes.append(sum(path.stat().st_size for path in beside.glob("levels/*")))
        waiting.append(len(os.listdir(beside / "data")))
    assert waiting[199] > 300, "ten minutes are not over"
    assert max(sizes[160:200]) <= 1.1 * max(sizes[20:60])
    assert waiting[299] < waiting[100] + 10, "what was replaced in the first 200 batches is gone"
    held = levels_of(tmp_path / "out")
    assert len(os.listdir(beside / "replaced")) == held.next_page - held.first_page
    assert_frame_equal(sink.read().collect(), table("update", script))


def test_a_reader_looks_again_when_the_levels_change_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = update_sink(tmp_path / "out")
    script = [Batch(((f"{n % 3}", n),)) for n in range(33)]
    play_batches(sink, "update", script)
    looks: list[int] = []
    original = Log.entries

    def merged_meanwhile(self: Log, since: int = 0, until: int | None = None) -> Any:
        if not looks:
            looks.append(since)
            sink.tidy(32)
        return original(self, since, until)

    monkeypatch.setattr(Log, "entries", merged_meanwhile)
    found = read_sink(tmp_path / "out")
    assert looks == [0]
    assert_frame_equal(found.collect(), table("update", script))


def test_a_damaged_merged_file_is_found_by_verify(tmp_path: Path) -> None:
    sink = update_sink(tmp_path / "out")
    play(sink, [Batch(((f"{n % 3}", n),)) for n in range(20)])
    verify(tmp_path / "out")
    [slice] = levels_of(tmp_path / "out").slices()
    path = tmp_path / "out._unbounded/data" / slice.file.name
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(ConnectorError, match=r"merged-0.* of batch up to 7 .* crc32"):
        verify(tmp_path / "out")


# -------------------------------------------------------------------------------------- writers
def test_of_two_writers_that_merge_one_wins_and_no_row_is_lost(tmp_path: Path) -> None:
    script = [Batch(((f"{n % 3}", n),)) for n in range(60)]
    one = update_sink(tmp_path / "out", retain=1)
    play_batches(one, "update", script[:40])
    other = update_sink(tmp_path / "out", retain=1)
    other.tidy(39)
    one.tidy(39)
    play(other, script, since=40)
    one.tidy(39)
    assert_frame_equal(read_sink(tmp_path / "out").collect(), table("update", script))
    verify(tmp_path / "out")


def test_a_sink_without_levels_is_merged_when_it_is_opened_again(tmp_path: Path) -> None:
    script = [Batch(((f"{n % 3}", n),)) for n in range(100)]
    play_batches(update_sink(tmp_path / "out"), "update", script)
    assert live_rows(tmp_path / "out") == 100
    again = update_sink(tmp_path / "out")
    again.tidy(99)
    assert live_rows(tmp_path / "out") <= 3 + FANOUT
    assert_frame_equal(again.read().collect(), table("update", script))


@given(batches(), st.data())
@settings(max_examples=10)
def test_a_table_of_several_partitions_and_key_columns_is_merged_right(
    tmp_path_factory: pytest.TempPathFactory, script: list[Batch], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("merged") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("FANOUT", 2), ("_SLICE", 2), ("_FEW", 1)):
            patch.setattr(merging, name, value)
        sink = FileSink(path, "parquet", partition_by=["key"])
        sink.open(QUERY, SCHEMA, KEY, "update")
        play(sink, script)
    assert_frame_equal(sink.read().collect(), table("update", script), check_row_order=False)


# -------------------------------------------------------------------------------------- hashes
EQUAL = {
    "floats": pl.Series([0.0, -0.0], dtype=pl.Float32),
    "nans": pl.Series([float("nan"), -float("nan")]),
    "texts": pl.Series(["ä", "ä"]),
    "enums": pl.Series(["b", "b"], dtype=pl.Enum(["a", "b"])),
    "nulls": pl.Series([None, None], dtype=pl.Date),
    "structs": pl.DataFrame({"a": [0.0, -0.0], "b": ["x", "x"]}).to_struct(),
    "lists": pl.Series([[1], [1]]),
}


@pytest.mark.parametrize("what", EQUAL)
def test_equal_keys_have_one_hash(what: str) -> None:
    one, other = hashes(pl.DataFrame({"key": EQUAL[what]}))
    assert one == other


def test_the_hash_of_a_text_is_its_own_wherever_it_stands() -> None:
    texts = pl.Series(["", "a", "b", "ab", "ba", None, "a\0", "Ω" * 50, "a"])
    whole = hashes(pl.DataFrame({"key": texts}))
    for at in range(len(texts)):
        assert hashes(pl.DataFrame({"key": texts[at : at + 1]}))[0] == whole[at]
    assert len(set(whole.tolist())) == len(texts) - 1
    pieces = pl.concat([texts[:3], texts[3:]], rechunk=False)
    assert hashes(pl.DataFrame({"key": pieces})).tolist() == whole.tolist()


def test_a_hash_never_changes_for_files_are_older_than_programs() -> None:
    keys = pl.DataFrame({"text": ["a", None], "number": [1, -2], "share": [0.5, None], "day": ["x", "y"]})
    assert hashes(keys).tolist() == [1745892418313353799, 13223902938510235668]


def test_hashes_are_spread_evenly() -> None:
    for keys in (pl.Series(range(10_000)), pl.Series([f"user-{n}" for n in range(10_000)])):
        top = hashes(pl.DataFrame({"key": keys})) >> np.uint64(60)
        assert np.bincount(top.astype(np.int64), minlength=16).min() > 500


@given(st.lists(st.integers(0, 20), max_size=50), st.integers(1, 9))
def test_slices_hold_every_row_and_keep_equal_hashes_together(values: list[int], most: int) -> None:
    found = np.sort(np.array(values, np.uint64))
    cut = slices(found, most)
    assert [row for begin, end in cut for row in range(begin, end)] == list(range(len(values)))
    assert all(found[end - 1] < found[end] for _, end in cut[:-1])
    if len(set(values)) == len(values):
        assert all(end - begin <= most for begin, end in cut)
