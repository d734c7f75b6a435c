"""Where can the answer of a query go, and what is found there?"""

from __future__ import annotations

import ast
import errno
import inspect
import io
import itertools
import os
import re
import string
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import fsspec
import polars as pl
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from unbounded import storage
from unbounded.connectors import Identity, Mode, Sink, Tidies
from unbounded.errors import (
    CheckpointError,
    ConcurrentQueryError,
    ConnectorError,
    CorruptRecordError,
    PlanError,
    SinkOwnedError,
    UnknownOptionError,
    UnsupportedOperationError,
)
from unbounded.sinks import (
    ConsoleSink,
    EachBatchSink,
    FileSink,
    MemorySink,
    formats,
    manifest,
    partitions,
    read_sink,
    verify,
)
from unbounded.storage import LocalStorage
from unbounded.testing.contracts.sinks import QUERY, SCHEMA, Batch, Reopen, SinkContract, open_sink, play, table

FORMATS = get_args(formats.Format)
NONE_REMOVED = SCHEMA.to_frame().select("key")
FRESH = itertools.count()


# -------------------------------------------------------------------------------------- contracts
@pytest.mark.parametrize("format", FORMATS)
class TestFileSinkOnALocalDisk(SinkContract):
    @pytest.fixture
    def new_place(self, tmp_path: Path, format: str) -> Callable[[], Reopen]:
        def place() -> Reopen:
            path = tmp_path / f"out {next(FRESH)}"
            return lambda: FileSink(path, format, retain=1)

        return place


@pytest.mark.parametrize("format", FORMATS)
class TestFileSinkOnAnObjectStore(SinkContract):
    @pytest.fixture
    def new_place(self, format: str) -> Callable[[], Reopen]:
        def place() -> Reopen:
            url = f"memory://sinks/{next(FRESH)}/out/"
            return lambda: FileSink(url, format, retain=1)

        return place


class TestPartitionedFileSink(SinkContract):
    keeps_order = False  # only within a partition

    @pytest.fixture(params=["local", "memory"])
    def new_place(self, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Reopen]:
        def place() -> Reopen:
            root = tmp_path if request.param == "local" else "memory://sinks"
            url = f"{root}/partitioned-{next(FRESH)}"
            return lambda: FileSink(url, "parquet", partition_by=["key"], retain=1)

        return place


class TestMemorySink(SinkContract):
    @pytest.fixture
    def new_place(self) -> Callable[[], Reopen]:
        def place() -> Reopen:
            sink = MemorySink()
            return lambda: sink

        return place


# -------------------------------------------------------------------------------------- places
def written_sink(path: Path | str, format: str = "parquet", mode: Mode = "append", **more: Any) -> FileSink:
    """A file sink that holds two batches with rows and one without."""
    sink = open_sink(lambda: FileSink(path, format, **more), mode)
    assert isinstance(sink, FileSink)
    play(sink, mode, [Batch((("a", 1),)), Batch(), Batch((("b", 2), ("c", 3)))])
    return sink


def sink_of(frame: pl.DataFrame, path: Path | str, format: str, **more: Any) -> FileSink:
    """An append sink that holds `frame`, as one batch."""
    sink = FileSink(path, format, **more)
    sink.open(QUERY, frame.schema, (), "append")
    sink.write(0, frame, {}, removed=frame.clear())
    return sink


ROWS = table("append", [Batch((("a", 1), ("b", 2), ("c", 3)))])


@pytest.mark.parametrize("format", FORMATS)
def test_polars_and_pyarrow_find_the_rows_of_an_append_sink_in_its_folder(tmp_path: Path, format: str) -> None:
    written_sink(tmp_path / "out", format)
    assert_frame_equal(getattr(pl, f"scan_{format}")(f"{tmp_path}/out/").collect(), ROWS)
    arrow = {"ndjson": "json"}.get(format, format)
    if format != "ipc":  # pyarrow does not know Polars' string views in files
        found = pyarrow.dataset.dataset(tmp_path / "out", format=arrow).to_table()
        assert_frame_equal(pl.DataFrame(found), ROWS, check_row_order=False)


@pytest.mark.parametrize("format", FORMATS)
def test_a_complete_sink_shows_its_newest_table_as_one_file(tmp_path: Path, format: str) -> None:
    written_sink(tmp_path / "out", format, "complete")
    assert os.listdir(tmp_path / "out") == [f"current.{format}"]
    found = getattr(pl, f"read_{format}")(tmp_path / "out" / f"current.{format}")
    assert_frame_equal(found, ROWS[1:])


@pytest.mark.parametrize(("mode", "by"), [("update", []), ("update", ["key"]), ("complete", ["key"])])
def test_a_folder_that_plain_readers_would_misread_stays_empty(tmp_path: Path, mode: Mode, by: list[str]) -> None:
    written_sink(tmp_path / "out", mode=mode, partition_by=by)
    assert os.listdir(tmp_path / "out") == []


def test_update_without_a_key_is_append(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "out", "parquet")
    sink.open(QUERY, SCHEMA, (), "update")
    for number in range(2):
        sink.write(number, ROWS, {}, removed=SCHEMA.to_frame().select())
    assert_frame_equal(pl.read_parquet(tmp_path / "out"), pl.concat([ROWS, ROWS]))


def test_a_local_url_is_a_path_and_a_relative_path_is_fixed_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_sink(f"file://{tmp_path}/out/")
    monkeypatch.chdir(tmp_path)
    sink = FileSink("out", "parquet")
    monkeypatch.chdir("/")
    assert_frame_equal(sink.read().collect(), ROWS)


def test_a_path_with_signs_of_patterns_is_taken_as_it_stands(tmp_path: Path) -> None:
    for format in FORMATS:
        path = tmp_path / f"[a-z]* ? {format} %41"
        written_sink(path, format)
        assert_frame_equal(read_sink(path).collect(), ROWS)


def test_no_password_is_shown_or_recorded() -> None:
    url = f"memory://me:secret@host/{next(FRESH)}/out"
    sink = open_sink(lambda: FileSink(url, "csv"), "append")
    assert isinstance(sink, FileSink)
    assert sink.description == f"csv files in {sink.location}"
    assert sink.location == url.replace("me:secret@", "")
    other = Identity("query-2", "run-2", None)
    for fail in (lambda: FileSink(url, "csv").open(other, SCHEMA, (), "append"), lambda: read_sink(f"{url}2")):
        with pytest.raises(ConnectorError) as caught:
            fail()
        assert "secret" not in str(caught.value)


def test_a_folder_that_is_a_link_out_of_the_sink_is_refused(tmp_path: Path) -> None:
    sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet", partition_by=["key"]), "append")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "key=a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConnectorError, match="outside of the sink"):
        play(sink, "append", [Batch((("a", 1),))])
    assert os.listdir(tmp_path / "elsewhere") == []


# -------------------------------------------------------------------------------------- refusals
def reopen(path: Path, format: str = "parquet", **changed: Any) -> None:
    arguments: dict[str, Any] = {"query": QUERY, "schema": SCHEMA, "key": (), "mode": "append"} | changed
    by = arguments.pop("partition_by", [])
    FileSink(path, format, partition_by=by, options=arguments.pop("options", {})).open(**arguments)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"format": "csv"}, "format: 'parquet' before, 'csv' now"),
        ({"mode": "complete"}, "mode: 'append' before, 'complete' now"),
        ({"partition_by": ["key"]}, "partition_by: () before, ('key',) now"),
        ({"schema": pl.Schema({"key": pl.String, "value": pl.Int32})}, "column 'value': Int64 before, Int32 now"),
        ({"schema": pl.Schema({"key": pl.String})}, "column 'value': Int64 before, absent now"),
        ({"schema": pl.Schema({"value": pl.Int64, "key": pl.String})}, "order of columns: ['key', 'value'] before"),
    ],
)
def test_a_query_that_changed_how_it_writes_is_refused_with_the_difference(
    tmp_path: Path, changed: dict[str, Any], line: str
) -> None:
    written_sink(tmp_path / "out")
    with pytest.raises(SinkOwnedError) as caught:
        reopen(tmp_path / "out", **changed)
    assert f"\n  {line}" in caught.value.message
    reopen(tmp_path / "out")


def test_an_option_that_changes_how_csv_is_read_may_not_change(tmp_path: Path) -> None:
    written_sink(tmp_path / "out", "csv", options={"separator": ";"})
    with pytest.raises(SinkOwnedError, match=r"reading: \{'separator': ';'\} before, \{\} now"):
        reopen(tmp_path / "out", "csv")


def test_another_key_of_an_update_sink_is_refused(tmp_path: Path) -> None:
    written_sink(tmp_path / "out", mode="update")
    with pytest.raises(SinkOwnedError, match=r"key: \('key',\) before, \('value',\) now"):
        reopen(tmp_path / "out", mode="update", key=("value",))


def test_a_folder_with_files_of_others_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / f"{name}.parquet").touch()
    with pytest.raises(SinkOwnedError, match=r"a\.parquet, b\.parquet, c\.parquet and 1 more"):
        reopen(tmp_path)
    assert len(os.listdir(tmp_path)) == 4
    assert not (tmp_path.parent / f"{tmp_path.name}._unbounded").exists()


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ConnectorError, match="is a file"):
        reopen(tmp_path / "out")


@pytest.mark.parametrize("name", ["out", "out._unbounded"])
def test_a_place_that_cannot_be_made_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out._unbounded").touch()
    path = tmp_path / "file" / "out" if name == "out" else tmp_path / "out"
    with pytest.raises(ConnectorError, match=r"cannot be opened: Not a directory at .*|is a file") as caught:
        reopen(path)
    assert str(path) in str(caught.value)


def test_a_place_without_rights_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(storage, "make_folder", deny)
    with pytest.raises(ConnectorError, match=r"out cannot be opened: Permission denied at .*out._unbounded.*rights"):
        reopen(tmp_path / "out")


def test_how_files_are_packed_may_change_over_a_restart(tmp_path: Path) -> None:
    written_sink(tmp_path / "out", mode="update")
    sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet", options={"compression": "lz4"}), "update")
    sink.write(3, ROWS, {}, removed=NONE_REMOVED)
    assert_frame_equal(sink.read().collect(), ROWS)


def test_a_log_without_its_owner_is_refused(tmp_path: Path) -> None:
    written_sink(tmp_path / "out")
    (tmp_path / "out._unbounded" / "owner").unlink()
    with pytest.raises(SinkOwnedError, match="its file 'owner' is missing"):
        reopen(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"format": "parqet"}, PlanError, "did you mean 'parquet'"),
        ({"format": "parquet", "options": {"compresion": "lz4"}}, UnknownOptionError, "did you mean 'compression'"),
        ({"format": "csv", "options": {"date_format": "%d"}}, UnsupportedOperationError, "dt.to_string"),
        ({"format": "csv", "options": {"quote_style": "never"}}, UnsupportedOperationError, "without quotes"),
        ({"format": "csv", "options": {"quote_style": "always"}}, UnsupportedOperationError, "empty text"),
        ({"format": "csv", "options": {"line_terminator": "|"}}, UnsupportedOperationError, "line_terminator"),
        ({"format": "csv", "options": {"separator": "-"}}, UnsupportedOperationError, "separator='-' of a csv sink"),
        ({"format": "csv", "options": {"separator": '"'}}, UnsupportedOperationError, "of a csv sink"),
        ({"format": "csv", "options": {"quote_char": "e"}}, UnsupportedOperationError, "quote_char='e' of a csv sink"),
        ({"format": "csv", "options": {"null_value": "a,b"}}, UnsupportedOperationError, "without quotes"),
        ({"format": "parquet", "options": {"lazy": True}}, UnsupportedOperationError, "lazy=True of a parquet sink"),
        ({"format": "parquet", "options": {"encryption": "key"}}, UnsupportedOperationError, "write_parquet"),
        ({"format": "ipc", "options": {"engine": "gpu"}}, UnsupportedOperationError, "the sink without it"),
        ({"format": "ipc", "options": {"credential_provider": str}}, UnsupportedOperationError, "storage_options="),
        ({"format": "csv", "partition_by": ["a", "a"]}, PlanError, "names a column twice"),
        ({"format": "csv", "partition_by": ["a/b"]}, PlanError, "Rename the column"),
        ({"format": "csv", "partition_by": ["_a"]}, PlanError, "Rename the column"),
        ({"format": "csv", "retain": 0}, PlanError, "Keep 1 batch"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_when_it_is_made(
    arguments: dict[str, Any], error: type[PlanError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        FileSink("out", **arguments)


@pytest.mark.parametrize(
    ("arguments", "schema", "sentence"),
    [
        ({"format": "csv"}, {"a": pl.List(pl.Int64), "b": pl.Binary}, "'a' .*'b' "),
        ({"format": "ndjson"}, {"a": pl.List(pl.Int8)}, "ndjson file cannot hold 'a'"),
        ({"format": "parquet"}, {"a": pl.Object}, "cannot hold 'a'"),
        ({"format": "csv", "partition_by": ["dey"]}, {"day": pl.Date, "a": pl.Int64}, "did you mean 'day'"),
        ({"format": "csv", "partition_by": ["a"]}, {"a": pl.Float64, "b": pl.Int64}, "no exact text"),
        ({"format": "csv", "partition_by": ["a"]}, {"a": pl.Datetime("us", "UTC"), "b": pl.Int64}, "no exact text"),
        ({"format": "csv", "partition_by": ["a"]}, {"a": pl.String}, "leaves no column"),
    ],
)
def test_columns_that_cannot_be_written_are_refused_at_start(
    tmp_path: Path, arguments: dict[str, Any], schema: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PlanError, match=sentence):
        FileSink(tmp_path / "out", **arguments).open(QUERY, pl.Schema(schema), (), "append")
    assert os.listdir(tmp_path) == []


def test_a_wrong_value_of_an_option_fails_at_start_with_the_error_of_polars(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compression"):
        reopen(tmp_path / "out", options={"compression": "zip"})
    assert os.listdir(tmp_path) == []


def test_there_is_nothing_to_read_where_no_sink_is(tmp_path: Path) -> None:
    for read in (read_sink, verify):
        with pytest.raises(ConnectorError, match="there is no sink at"):
            read(tmp_path / "nowhere")


def test_a_batch_that_does_not_follow_the_last_one_is_refused(tmp_path: Path) -> None:
    sink = written_sink(tmp_path / "out")
    for number in (1, 5):
        with pytest.raises(CheckpointError, match=f"batch {number} cannot follow batch 2"):
            sink.write(number, ROWS, {}, removed=NONE_REMOVED)


def test_a_full_disk_is_left_without_the_files_of_the_failed_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet", partition_by=["key"]), "append")
    original, room = storage.write_file, [2]

    def write_file(path: str, data: bytes) -> None:
        original(path, data[: len(data) * room[0]])
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_file", write_file)
        with pytest.raises(ConnectorError, match=r"cannot be given batch 0: No space left.*it continues"):
            sink.write(0, ROWS, {}, removed=NONE_REMOVED)
    assert os.listdir(tmp_path / "out._unbounded/data") == []
    assert sink.written(0) is None
    sink.write(0, ROWS, {}, removed=NONE_REMOVED)
    assert_frame_equal(sink.read().collect(), ROWS)


def test_a_record_whose_name_may_not_be_durable_is_made_so_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet"), "append")
    synced: list[str] = []

    def fail(path: str) -> None:
        if path.endswith("log"):
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "sync_folder", fail)
        with pytest.raises(ConnectorError, match="Input/output"):
            sink.write(0, ROWS, {"x": 1}, removed=NONE_REMOVED)
        patch.setattr(storage, "sync_folder", synced.append)
        assert sink.written(0) == {"x": 1}
    assert synced == [f"{tmp_path}/out._unbounded/log"]
    assert_frame_equal(pl.read_parquet(tmp_path / "out"), ROWS)


@pytest.mark.parametrize("by", [[], ["key"]])
@pytest.mark.parametrize("mode", get_args(Mode))
def test_on_an_object_store_an_attempt_that_was_not_recorded_is_never_read_and_later_deleted(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, by: list[str]
) -> None:
    url = f"memory://sinks/{next(FRESH)}/out"

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def files() -> list[str]:
        return [path for path in fsspec.filesystem("memory").find(url.rpartition("/")[0]) if path.endswith(".parquet")]

    sink = open_sink(lambda: FileSink(url, "parquet", partition_by=by), mode)
    with monkeypatch.context() as patch:
        patch.setattr(manifest.Log, "append", die)
        with pytest.raises(KeyboardInterrupt):
            sink.write(0, ROWS, {}, removed=NONE_REMOVED)
    assert len(files()) == (3 if by else 1)
    assert read_sink(url).collect().is_empty()
    again = open_sink(lambda: FileSink(url, "parquet", partition_by=by), mode)
    assert again.written(0) is None
    assert len(files()) == (3 if by else 1), "they may belong to a writer that is alive"
    again.write(0, ROWS[:1], {}, removed=NONE_REMOVED)
    assert_frame_equal(again.read().collect(), ROWS[:1])
    assert len(files()) == 1


# -------------------------------------------------------------------------------------- two writers
def test_of_two_writers_of_one_batch_the_second_shows_nothing(tmp_path: Path) -> None:
    slow, fast = (open_sink(lambda: FileSink(tmp_path / "out", "parquet"), "append") for _ in range(2))
    fast.write(0, ROWS, {"writer": "fast"}, removed=NONE_REMOVED)
    with pytest.raises(ConcurrentQueryError, match="batch 0 was recorded"):
        slow.write(0, ROWS[:1], {"writer": "slow"}, removed=NONE_REMOVED)
    for rows in (read_sink(tmp_path / "out").collect(), pl.read_parquet(tmp_path / "out")):
        assert_frame_equal(rows, ROWS)
    assert slow.written(0) == {"writer": "fast"}


def test_a_writer_that_slept_while_its_batch_was_merged_away_shows_nothing(tmp_path: Path) -> None:
    slow, fast = (open_sink(lambda: FileSink(tmp_path / "out", "parquet"), "append") for _ in range(2))
    for number in range(20):
        fast.write(number, ROWS[:1], {}, removed=NONE_REMOVED)
    assert isinstance(fast, Tidies)
    fast.tidy(19)
    with pytest.raises(ConcurrentQueryError, match="while this one slept"):
        slow.write(0, ROWS, {}, removed=NONE_REMOVED)
    for rows in (read_sink(tmp_path / "out").collect(), pl.read_parquet(tmp_path / "out")):
        assert_frame_equal(rows, pl.concat([ROWS[:1]] * 20))


# -------------------------------------------------------------------------------------- damage
def data_files(path: Path) -> list[Path]:
    return [*sorted(path.rglob("*.parquet")), *sorted((path.parent / f"{path.name}._unbounded/data").iterdir())]


def test_a_damaged_file_is_found_by_verify_and_a_short_one_by_every_reader(tmp_path: Path) -> None:
    written_sink(tmp_path / "out")
    verify(tmp_path / "out")
    last = sorted((tmp_path / "out").iterdir())[-1]  # its staged name is the same file
    content = last.read_bytes()
    last.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(ConnectorError, match=rf"{last.name} of batch 2 .* crc32"):
        verify(tmp_path / "out")
    last.write_bytes(content[:-1])
    with pytest.raises(ConnectorError, match=f"{len(content) - 1} bytes where {len(content)} were written"):
        read_sink(tmp_path / "out")
    for name in data_files(tmp_path / "out"):
        name.unlink()
    with pytest.raises(ConnectorError, match="is missing"):
        read_sink(tmp_path / "out")


def test_a_damaged_or_missing_record_is_an_error_and_never_fewer_rows(tmp_path: Path) -> None:
    written_sink(tmp_path / "out")
    record = tmp_path / "out._unbounded/log/000000000001"
    content = record.read_bytes()
    for at in range(len(content)):
        record.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(CorruptRecordError):
            read_sink(tmp_path / "out")
    record.write_bytes((record.parent / "000000000000").read_bytes())
    with pytest.raises(CorruptRecordError, match="does not start with"):
        read_sink(tmp_path / "out")
    record.unlink()
    with pytest.raises(CorruptRecordError, match="has no entry of batch 1"):
        read_sink(tmp_path / "out")


# -------------------------------------------------------------------------------------- history
class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_long_history_costs_few_files_and_loses_nothing(tmp_path: Path, mode: Mode) -> None:
    script = [Batch(((f"{n % 7}", n),), removed=(f"{n % 5}",)) for n in range(300)]
    clock = Clock()
    sink = open_sink(lambda: FileSink(tmp_path / "out", "ipc", retain=10, clock=clock), mode)
    assert isinstance(sink, FileSink)
    for number in range(len(script)):
        play(sink, mode, script[: number + 1], since=number)
        sink.tidy(number)
        clock.now += 60
    beside = tmp_path / "out._unbounded"
    assert len(os.listdir(beside / "log")) < 4 * 16
    assert mode == "update" or len(os.listdir(beside / "data")) < 10 + 2 * 16
    again = open_sink(lambda: FileSink(tmp_path / "out", "ipc", retain=10, clock=clock), mode)
    assert isinstance(again, FileSink)
    assert_frame_equal(again.read().collect(), table(mode, script))
    verify(tmp_path / "out")
    assert again.written(299) is not None
    assert again.written(300) is None
    with pytest.raises(CheckpointError, match="the checkpoint is older than its output"):
        again.written(7)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_batch_lists_no_folder_and_files_that_wait_are_listed_once_a_start(
    tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(lambda: FileSink(tmp_path / "out", "ipc", retain=10, clock=Clock()), mode)
    assert isinstance(sink, FileSink)
    sink.tidy(0)
    listed: list[str] = []
    names_in = os.listdir

    def noting(path: str) -> list[str]:
        listed.append(os.path.basename(path))
        return names_in(path)

    monkeypatch.setattr(os, "listdir", noting)
    script = [Batch(((f"{n % 7}", n),)) for n in range(100)]
    play(sink, mode, script)
    assert listed == []
    for number in range(100):
        sink.tidy(number)
    assert listed.count("data") <= 1


def test_a_table_stays_readable_for_some_batches_and_ten_minutes_after_it_was_replaced(tmp_path: Path) -> None:
    clock = Clock()
    staged = tmp_path / "out._unbounded/data"

    def write(numbers: range) -> pl.LazyFrame:
        """A run of its own; what a reader sees behind the first batch of it."""
        sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet", retain=20, clock=clock), "complete")
        assert isinstance(sink, FileSink)
        for number in numbers:
            sink.write(number, ROWS[:1].with_columns(value=pl.lit(number, pl.Int64)), {}, removed=NONE_REMOVED)
            if number == numbers[0]:
                seen = sink.read()
        sink.tidy(numbers[-1])
        return seen

    first = write(range(1))
    clock.now = 10_000.0  # the table of batch 0 is old, but it is replaced only now
    second = write(range(1, 40))
    assert len(os.listdir(staged)) == 40, "ten minutes are not over"
    assert [frame.collect()["value"].item() for frame in (first, second)] == [0, 1]
    clock.now += 601
    third = write(range(40, 60))
    kept = sorted(int(name[:12]) for name in os.listdir(staged))
    assert kept == list(range(39, 60)), "20 batches stay, and batch 39, which was replaced just now"
    assert third.collect()["value"].item() == 40
    with pytest.raises(FileNotFoundError):
        first.collect()


def test_a_settled_batch_survives_without_its_staged_name(tmp_path: Path) -> None:
    clock = Clock()
    sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet", retain=1, clock=clock), "append")
    assert isinstance(sink, FileSink)
    for number in range(32):
        sink.write(number, ROWS, {}, removed=NONE_REMOVED)
    clock.now = 1000.0
    sink.tidy(31)
    assert len(os.listdir(tmp_path / "out._unbounded/data")) == 1
    assert_frame_equal(sink.read().collect(), pl.concat([ROWS] * 32))
    assert_frame_equal(pl.read_parquet(tmp_path / "out"), pl.concat([ROWS] * 32))


def test_opening_reads_only_the_entries_that_were_not_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = open_sink(lambda: FileSink(tmp_path / "out", "ipc"), "append")
    assert isinstance(sink, FileSink)
    for number in range(200):
        sink.write(number, ROWS, {}, removed=NONE_REMOVED)
        sink.tidy(number)
    read: list[str] = []
    original = LocalStorage.read

    def counted(self: LocalStorage, name: str) -> bytes:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(LocalStorage, "read", counted)
    open_sink(lambda: FileSink(tmp_path / "out", "ipc"), "append")
    assert len(read) <= 1 + 2 * 16


@pytest.mark.parametrize(("mode", "syncs"), [("append", 4), ("update", 4), ("complete", 4)])
def test_a_batch_costs_two_syncs_for_its_file_and_two_for_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode, syncs: int
) -> None:
    sink = open_sink(lambda: FileSink(tmp_path / "out", "parquet"), mode)
    play(sink, mode, [Batch()])
    done: list[str] = []
    for act in ("sync_file", "sync_folder"):
        monkeypatch.setattr(storage, act, lambda path, act=act: done.append(act))
    play(sink, mode, [Batch(), Batch((("a", 1),))], since=1)
    assert len(done) == syncs


# -------------------------------------------------------------------------------------- formats
EVERYTHING = pl.DataFrame(
    {
        "int8": pl.Series([1, None, -3], dtype=pl.Int8),
        "uint16": pl.Series([65535, None, 0], dtype=pl.UInt16),
        "uint64": pl.Series([2**64 - 1, None, 0], dtype=pl.UInt64),
        "int128": pl.Series([2**100, None, -(2**100)], dtype=pl.Int128),
        "float32": pl.Series([0.1, None, -0.0], dtype=pl.Float32),
        "float64": [0.1 + 0.2, None, 5e-324],
        "bool": [True, None, False],
        "text": ['a\r\n,"b', None, ""],
        "date": [date(2024, 1, 1), None, date(1, 1, 1)],
        "us": pl.Series([datetime(2024, 1, 1, 1, 2, 3, 4), None, datetime(1900, 1, 1)], dtype=pl.Datetime("us")),
        "ns": pl.Series([datetime(2024, 1, 1, 1, 2, 3, 4), None, datetime(1969, 1, 1)], dtype=pl.Datetime("ns")),
        "zoned": pl.Series([datetime(2024, 10, 27, 0, 30), None, datetime(2024, 10, 27, 1, 30)])
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone("Europe/Berlin"),  # both at 02:30 o'clock
        "time": [time(1, 2, 3, 4), None, time(0)],
        "decimal": pl.Series([Decimal("1.10"), None, Decimal(-3)], dtype=pl.Decimal(10, 2)),
        "category": pl.Series(["a", None, "b"], dtype=pl.Categorical),
        "enum": pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
        "binary": [b"\x00\xff", None, b""],
        "duration": [timedelta(1, 2, 3), None, timedelta(-1)],
        "list": [[1, None], None, []],
        "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int64, 2)),
        "struct": [{"a": date(2024, 1, 1), "b": ["x"]}, None, {"a": None, "b": None}],
        "null": [None, None, None],
    }
)
NOT_HELD = {
    "csv": ["binary", "duration", "list", "array", "struct", "null"],
    "ndjson": ["binary", "duration"],
    "parquet": [],
    "ipc": [],
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_type_comes_back_as_it_was_or_is_refused(tmp_path: Path, format: str) -> None:
    held = EVERYTHING.drop(NOT_HELD[format])
    for column in NOT_HELD[format]:
        with pytest.raises(PlanError, match=column):
            sink_of(EVERYTHING.select("int8", column), tmp_path / column, format)
    for column in held.columns:
        frame = held.select(column)
        assert_frame_equal(sink_of(frame, tmp_path / column, format).read().collect(), frame, check_exact=True)
    assert_frame_equal(sink_of(held, tmp_path / "all", format).read().collect(), held, check_exact=True)
    assert read_sink(tmp_path / "all").collect_schema() == held.schema


@given(st.lists(st.tuples(st.text(), st.none() | st.text()), max_size=4), st.sampled_from(["csv", "ndjson"]))
def test_any_text_comes_back_from_a_text_format(rows: list[tuple[str, str | None]], format: formats.Format) -> None:
    frame = pl.DataFrame(rows, {"a": pl.String, "b": pl.String}, orient="row")
    for columns in (["a"], ["b"], ["a", "b"]):
        chosen = frame.select(columns)
        if chosen.height:
            back = formats.scan([formats.encode(chosen, format, {})], format, chosen.schema, {})
            assert_frame_equal(back.collect(), chosen)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("csv", {"separator": "|", "quote_char": "'", "null_value": "NA", "decimal_comma": True}),
        ("csv", {"include_header": False, "include_bom": True, "line_terminator": "\r\n"}),
        ("csv", {"compression": "gzip"}),
        ("csv", {"compression": "zstd", "quote_style": "always", "null_value": "-"}),
        ("ndjson", {"compression": "gzip"}),
        ("parquet", {"compression": "lz4", "statistics": False, "row_group_size": 1, "data_page_size": 1000}),
        ("ipc", {"compression": "zstd", "record_batch_size": 1}),
    ],
)
def test_files_written_with_options_are_read_back(tmp_path: Path, format: str, options: dict[str, Any]) -> None:
    rows = pl.DataFrame({"a": ["x|'y'", None, "", "z\n"], "b": [1.5, None, -2.0, 3.25]})
    assert_frame_equal(sink_of(rows, tmp_path / "out", format, options=options).read().collect(), rows)
    packed = {"gzip": ".gz", "zstd": ".zst"}.get(options.get("compression", ""), "") if format != "ipc" else ""
    assert [path.name.partition(".")[2] for path in (tmp_path / "out").iterdir()] == [format + packed]


def options_of_polars(format: str) -> dict[str, Any]:
    """The options of Polars' own sink, and their defaults."""
    found = inspect.signature(getattr(pl.LazyFrame, f"sink_{format}")).parameters
    return {name: one.default for name, one in found.items() if name[0] != "_" and one.kind == one.KEYWORD_ONLY}


@pytest.mark.parametrize("format", FORMATS)
def test_every_option_of_polars_is_taken_or_refused(format: formats.Format) -> None:
    theirs = set(options_of_polars(format)) - {"storage_options"}
    assert theirs == formats.OPTIONS[format] | (formats.REFUSED.keys() & theirs)


@pytest.mark.parametrize("format", FORMATS)
def test_what_an_option_is_without_us_changes_nothing_and_is_documented(format: formats.Format) -> None:
    theirs = {name: default for name, default in options_of_polars(format).items() if name != "optimizations"}
    del theirs["storage_options"]
    formats.checked(format, theirs)
    documented = inspect.getdoc(getattr(ub.StreamFrame, f"sink_{format}")) or ""
    listed = dict(re.findall(r"(\w+)=('[^']*'|\w+)", documented))
    said = formats.OPTIONS[format] - {"maintain_order", "mkdir", "sync_on_close"}
    assert {name: ast.literal_eval(listed[name]) for name in said} == {name: theirs[name] for name in said}


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("parquet", {"compression": "lz4", "statistics": "full", "row_group_size": 1, "metadata": {"who": "we"}}),
        ("csv", {"separator": ";", "include_header": False, "null_value": "NULL", "decimal_comma": True}),
        ("csv", {"compression": "gzip", "compression_level": 1, "check_extension": True, "quote_style": "non_numeric"}),
        ("ndjson", {"compression": "zstd", "mkdir": True, "sync_on_close": "all"}),
        ("ipc", {"compression": "zstd", "compat_level": pl.CompatLevel.oldest(), "maintain_order": False}),
    ],
)
@pytest.mark.parametrize("mode", ["append", "update"])
def test_a_verb_hands_options_on_and_what_it_writes_is_read_back(
    tmp_path: Path, format: str, options: dict[str, Any], mode: Mode
) -> None:
    feed = ub.MemorySource({"key": pl.String, "value": pl.Float64})
    sink = getattr(
        ub.scan_memory(feed).group_by("key").max() if mode == "update" else ub.scan_memory(feed), f"sink_{format}"
    )
    for value in range(20):
        feed.add([{"key": "a;b", "value": value + 0.5}, {"key": None, "value": None}])
        sink(tmp_path / "out", checkpoint=tmp_path / "ckpt", output_mode=mode, trigger=ub.available_now(), **options)
    rows = ub.read_sink(tmp_path / "out").collect()
    expected = [("a;b", 19.5), (None, None)]
    assert sorted(rows.rows()[-2:], key=str) == expected
    assert rows.height == (2 if mode == "update" else 40)


def test_a_parquet_file_has_the_metadata_it_was_given(tmp_path: Path) -> None:
    sink_of(ROWS, tmp_path / "out", "parquet", options={"metadata": {"who": "we"}})
    [file] = (tmp_path / "out").iterdir()
    assert pl.read_parquet_metadata(file)["who"] == "we"


@pytest.mark.parametrize(
    ("null", "column", "sentence"),
    [
        ("NA", pl.Series(["NA"]), "holds the text 'NA', which null_value='NA' would turn into null"),
        ("b", pl.Series(["b"], dtype=pl.Enum(["b"])), "holds the text 'b'"),
        ("1", pl.Series([1]), r"null_value='1' is also how a value of 'a' \(Int64\) is spelled"),
        ("inf", pl.Series([1.0]), "is also how a value of 'a'"),
        ("2024-01-01", pl.Series([date(2024, 1, 1)]), "is also how a value of 'a'"),
    ],
)
def test_a_text_for_null_that_is_also_a_value_is_refused(
    tmp_path: Path, null: str, column: pl.Series, sentence: str
) -> None:
    with pytest.raises(PlanError, match=sentence):
        sink_of(pl.DataFrame({"a": column}), tmp_path / "out", "csv", options={"null_value": null})


@pytest.mark.parametrize("null", ["NULL", "", "-", "it's null"])
def test_any_other_text_for_null_is_read_back(tmp_path: Path, null: str) -> None:
    held = EVERYTHING.drop(NOT_HELD["csv"])
    assert_frame_equal(sink_of(held, tmp_path / "out", "csv", options={"null_value": null}).read().collect(), held)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (pl.PartitionBy("out/", key="day"), r'partition_by=\["day"\]'),
        (io.BytesIO(), "Write its path or URL"),
        (3, "not 3"),
    ],
)
def test_what_is_no_folder_is_refused_with_the_line_to_write(path: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        FileSink(path, "parquet")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ndjson_refuses_a_number_that_json_cannot_spell(tmp_path: Path, value: float) -> None:
    with pytest.raises(PlanError, match=r"column 'b' holds NaN or infinity.*fill_nan"):
        sink_of(pl.DataFrame({"a": [1.0], "b": [value]}), tmp_path / "out", "ndjson")
    assert read_sink(tmp_path / "out").collect().is_empty()
    assert os.listdir(tmp_path / "out._unbounded/data") == []


# -------------------------------------------------------------------------------------- partitions
TEXTS = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.sampled_from(
        ["", ".", "..", "../x", "a/b", "a=b", "%2F", "~", "__HIVE_DEFAULT_PARTITION__", "x" * 300, "ä" * 99]
    ),
    st.text("a./%~=\0", max_size=300),
)


@given(TEXTS, TEXTS)
def test_two_values_never_share_a_folder(one: str | None, other: str | None) -> None:
    folders = [partitions.folder(["day"], (value,)) for value in (one, other)]
    assert (one == other) == (folders[0] == folders[1])


@given(TEXTS)
def test_a_value_is_one_folder_that_any_disk_can_hold(value: str | None) -> None:
    name, _, spelled = partitions.folder(["day"], (value,)).partition("=")
    assert name == "day"
    assert set(spelled) <= set(string.ascii_letters + string.digits + "_.-%~")
    assert spelled not in (".", "..")
    assert len(spelled) <= 200
    if value is not None and "~" not in spelled:
        assert unquote(spelled) == value


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXTS, st.integers(0, 9)), min_size=1, max_size=6))
def test_partitioned_rows_stay_below_the_folder_and_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, int]]
) -> None:
    root = tmp_path_factory.mktemp("partitions")
    frame = pl.DataFrame(rows, {"key": pl.String, "value": pl.Int64}, orient="row")
    sink = sink_of(frame, root / "out", "parquet", partition_by=["key"])
    assert_frame_equal(sink.read().collect(), frame, check_row_order=False)
    assert sorted(os.listdir(root)) == ["out", "out._unbounded"]
    assert all(path.name.startswith("key=") for path in (root / "out").iterdir())
    assert len(list((root / "out").rglob("*.parquet"))) == frame["key"].n_unique()
    for found in (pl.read_parquet(root / "out", hive_partitioning=False), pyarrow_table(root / "out")):
        assert_frame_equal(found.select("key", "value"), frame, check_row_order=False)


def pyarrow_table(path: Path) -> pl.DataFrame:
    return pl.DataFrame(pyarrow.dataset.dataset(path).to_table())


@pytest.mark.parametrize(
    "values",
    [
        pl.Series(["007", "1", "2024-01-01", "", None, ".", "ä / b%2F=~", "true"]),
        pl.Series([date(2024, 2, 29), None]),
        pl.Series([datetime(2024, 2, 29, 1, 2, 3), None]),
        pl.Series([True, False, None]),
        pl.Series([-1, 3, None], dtype=pl.Int8),
        pl.Series(["a", None], dtype=pl.Enum(["b", "a"])),
    ],
    ids=lambda values: str(values.dtype),
)
def test_polars_reads_the_true_partition_values_from_the_path_too(tmp_path: Path, values: pl.Series) -> None:
    frame = pl.DataFrame({"key": values, "value": range(len(values))})
    sink_of(frame, tmp_path / "out", "parquet", partition_by=["key"])
    for hive in (None, True, False):
        found = pl.scan_parquet(tmp_path / "out", hive_partitioning=hive).select("key", "value").collect()
        assert_frame_equal(found, frame, check_row_order=False)
    pruned = pl.scan_parquet(tmp_path / "out").filter(pl.col("key") == values[0]).select("value").collect()
    assert pruned["value"].to_list() == [0]


def test_partitions_nest_in_the_order_they_are_named(tmp_path: Path) -> None:
    frame = pl.DataFrame({"b": [1, 1, 2], "x": [1, 2, 3], "a": ["p", "q", "q"]})
    sink = sink_of(frame, tmp_path / "out", "csv", partition_by=["a", "b"])
    folders = {str(path.parent.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.csv")}
    assert folders == {"a=p/b=1", "a=q/b=1", "a=q/b=2"}
    assert_frame_equal(sink.read().collect(), frame, check_row_order=False)


# -------------------------------------------------------------------------------------- memory
def test_a_memory_sink_finds_the_receipt_of_a_batch_again() -> None:
    sink = open_sink(MemorySink, "append")
    sink.write(0, ROWS, {"x": 1}, removed=NONE_REMOVED)
    sink.open(QUERY, SCHEMA, (), "append")
    assert sink.written(0) == {"x": 1}
    assert sink.written(1) is None


def test_a_batch_moves_few_rows_of_a_large_table_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = 0
    original = pl.concat

    def counting(frames: list[pl.DataFrame], **options: Any) -> pl.DataFrame:
        nonlocal moved
        result = original(frames, **options)
        moved += result.height
        return result

    sink = open_sink(MemorySink, "update")
    sink.write(
        0, pl.DataFrame({"key": [str(n) for n in range(20_000)], "value": range(20_000)}), {}, removed=NONE_REMOVED
    )
    monkeypatch.setattr(pl, "concat", counting)
    for number in range(1, 257):
        sink.write(number, pl.DataFrame({"key": [f"{number % 9}"], "value": [number]}), {}, removed=NONE_REMOVED)
    assert moved < 257 * 2 * 10
    monkeypatch.undo()
    rows = sink.read().collect()
    assert rows.height == 20_000
    assert rows["value"].to_list()[-9:] == list(range(248, 257))


# -------------------------------------------------------------------------------------- console
def test_the_console_shows_a_count_and_the_first_rows_of_each_batch() -> None:
    stream = io.StringIO()
    sink = open_sink(lambda: ConsoleSink(rows=2, stream=stream), "append")
    play(sink, "append", [Batch(), Batch((("a", 1),)), Batch((("b", 2), ("c", 3), ("d", 4)))])
    text = stream.getvalue()
    assert [line for line in text.splitlines() if line.startswith("--")] == [
        "-- batch 0: 0 rows",
        "-- batch 1: 1 row",
        "-- batch 2: 3 rows",
    ]
    assert [sign in text for sign in "abcd"] == [True, True, True, False]


def test_the_console_is_the_standard_output_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    play(open_sink(ConsoleSink, "complete"), "complete", [Batch()])
    assert capsys.readouterr().out == "-- batch 0: 0 rows\n"


@pytest.mark.parametrize("sink", [ConsoleSink(), EachBatchSink(print)])
def test_a_sink_that_keeps_nothing_cannot_be_read(sink: Sink) -> None:
    with pytest.raises(UnsupportedOperationError, match="memory or file sink"):
        sink.read()


# -------------------------------------------------------------------------------------- each batch
def test_a_function_gets_every_batch_in_order_also_without_rows() -> None:
    seen: list[tuple[int, int]] = []
    sink = open_sink(lambda: EachBatchSink(lambda rows, batch: seen.append((batch, rows.height))), "append")
    play(sink, "append", [Batch((("a", 1),)), Batch(), Batch((("b", 2), ("c", 3)))])
    assert seen == [(0, 1), (1, 0), (2, 2)]
    assert sink.guarantee == "at-least-once"
    assert sink.written(0) is None


def test_an_error_of_the_function_comes_out_as_it_is() -> None:
    class Oh(BaseException): ...

    def fail(rows: pl.DataFrame, batch: int) -> None:
        raise Oh

    with pytest.raises(Oh):
        play(open_sink(lambda: EachBatchSink(fail), "append"), "append", [Batch()])


def test_a_function_that_returns_rows_is_told_that_nobody_takes_them() -> None:
    sink = EachBatchSink(lambda rows, batch: rows)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(PlanError, match="returned a DataFrame for batch 0"):
        play(open_sink(lambda: sink, "append"), "append", [Batch()])


async def waits(rows: pl.DataFrame, batch: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (3, "needs a function"),
        (waits, "async"),
        (lambda rows: None, r"cannot be called as"),
        (lambda rows, batch, more: None, r"\(rows, batch, more\) cannot be called as"),
        (lambda *, rows, batch: None, "cannot be called as"),
    ],
)
def test_what_cannot_be_called_with_rows_and_a_number_is_refused_at_once(function: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        EachBatchSink(function)


@pytest.mark.parametrize("function", [lambda rows, batch: None, lambda *a: None, lambda rows, batch=0, c=1: None, max])
def test_what_can_be_called_so_is_taken(function: Any) -> None:
    EachBatchSink(function)
