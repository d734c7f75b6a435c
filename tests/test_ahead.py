"""While a batch becomes durable the one behind it is computed, and nobody can tell but by the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.test_crash import Late
from unbounded import storage
from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Receipt, Sink
from unbounded.errors import SchemaMismatchError
from unbounded.query import MicroBatches
from unbounded.running.beside import Beside
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.sinks.files import FileSink
from unbounded.sinks.memory import MemorySink
from unbounded.state.memory.home import MemoryHome

ORDERS = pytest.mark.parametrize("beside", [Beside, Late], ids=["written at once", "written at last"])


def arrive(where: Path, count: int) -> ub.StreamFrame:
    """One row a file, one file a batch."""
    (where / "in").mkdir()
    for n in range(count):
        pl.DataFrame({"v": [n]}).write_parquet(where / "in" / f"{n}.parquet")
    return ub.scan_parquet(where / "in", max_files_per_trigger=1)


def told(frame: ub.StreamFrame, tell: Callable[[int], object]) -> ub.StreamFrame:
    """The same rows; each value is told when it is computed."""

    def one(value: int) -> int:
        tell(value)
        return value

    return frame.with_columns(pl.col("v").map_elements(one, return_dtype=pl.Int64))


def opened(where: Path, frame: ub.StreamFrame, sink: Sink, beside: Beside, mode: Any = "append") -> MicroBatches:
    records = storage.open_storage(where / "ckpt")
    batches = MicroBatches(
        frame._plan, sink, mode=mode, checkpoint=Checkpoint(records), home=MemoryHome(records), beside=beside
    )
    batches.open()
    return batches


def written(where: Path) -> list[int]:
    return sorted(ub.read_sink(where / "out").collect()["v"])


@ORDERS
def test_a_call_commits_one_batch_and_leaves_one_computed(beside: type[Beside], tmp_path: Path) -> None:
    computed: list[int] = []
    frame = told(arrive(tmp_path, 3), computed.append)
    batches = opened(tmp_path, frame, FileSink(tmp_path / "out", "parquet"), beside())
    for n in range(3):
        progress = batches.run_once(ahead=lambda: True)
        assert progress is not None
        assert (progress.batch_id, progress.num_input_rows) == (n, 1)
        assert written(tmp_path) == list(range(n + 1))
        assert len(list((tmp_path / "ckpt" / "commits").iterdir())) == n + 1
        assert computed == [0, 1, 2][: n + 2]
        assert batches.is_ahead == (n < 2)
    assert batches.run_once(ahead=lambda: True) is None
    batches.close()


@ORDERS
def test_a_batch_computed_ahead_can_be_left_and_comes_again(beside: type[Beside], tmp_path: Path) -> None:
    frame = arrive(tmp_path, 3)
    for n in range(3):
        batches = opened(tmp_path, frame, FileSink(tmp_path / "out", "parquet"), beside())
        assert batches.run_once(ahead=lambda: True) is not None
        batches.close()
        assert written(tmp_path) == list(range(n + 1))


@ORDERS
def test_progress_tells_of_its_own_batch(beside: type[Beside], tmp_path: Path) -> None:
    frame = arrive(tmp_path, 3).group_by("v").len()
    batches = opened(tmp_path, frame, FileSink(tmp_path / "out", "parquet"), beside(), "update")
    for n in range(3):
        progress = batches.run_once(ahead=lambda: True)
        assert progress is not None
        assert progress.state_operators[0].num_rows_total == n + 1
        assert progress.sources[0].metrics["seen"] == n + 1
        assert progress.sources[0].metrics["backlog_files"] == 2 - n
        assert progress.duration_ms.keys() == {
            *("latestOffset", "addBatch", "walCommit", "commitOffsets", "triggerExecution")
        }
    batches.close()


@ORDERS
def test_an_error_of_the_batch_ahead_waits_until_the_one_before_is_committed(
    beside: type[Beside], tmp_path: Path
) -> None:
    def two_is_bad(value: int) -> None:
        if value == 2:
            raise ZeroDivisionError("user code")

    frame = told(arrive(tmp_path, 3), two_is_bad)
    batches = opened(tmp_path, frame, FileSink(tmp_path / "out", "parquet"), beside())
    for n in range(2):
        progress = batches.run_once(ahead=lambda: True)
        assert progress is not None
        assert progress.batch_id == n
    with pytest.raises(ZeroDivisionError, match="user code"):
        batches.run_once(ahead=lambda: True)
    assert batches.describe_pending().startswith("in batch 2 (offsets")
    batches.close()
    assert written(tmp_path) == [0, 1]


def test_a_file_that_does_not_fit_is_named_when_its_turn_comes(tmp_path: Path) -> None:
    frame = arrive(tmp_path, 2)
    pl.DataFrame({"v": ["text"]}).write_parquet(tmp_path / "in" / "1.parquet")
    batches = opened(tmp_path, frame, FileSink(tmp_path / "out", "parquet"), Beside())
    assert batches.run_once(ahead=lambda: True) is not None
    with pytest.raises(SchemaMismatchError, match=r"1\.parquet"):
        batches.run_once(ahead=lambda: True)
    assert batches.describe_pending() == "between batches, before batch 1"
    batches.close()


class FullSink(FileSink):
    """A disk on which the second batch finds no room."""

    def write(self, batch: int, rows: pl.DataFrame, receipt: Any, *, removed: pl.DataFrame) -> None:
        if batch == 1:
            raise OSError("no space left")
        super().write(batch, rows, receipt, removed=removed)


@ORDERS
def test_an_error_of_the_disk_names_the_batch_that_was_written(beside: type[Beside], tmp_path: Path) -> None:
    frame = arrive(tmp_path, 4)
    batches = opened(tmp_path, frame, FullSink(tmp_path / "out", "parquet"), beside())
    batches.run_once(ahead=lambda: True)
    with pytest.raises(OSError, match="no space left"):
        batches.run_once(ahead=lambda: True)
    assert batches.describe_pending().startswith("in batch 1 (offsets")
    batches.close()
    assert written(tmp_path) == [0]
    batches = opened(tmp_path, frame, FileSink(tmp_path / "out", "parquet"), beside())
    while batches.run_once(ahead=lambda: True) is not None:
        continue
    batches.close()
    assert written(tmp_path) == [0, 1, 2, 3]


def test_what_was_begun_behind_a_failure_is_not_done() -> None:
    done: list[int] = []

    def fails() -> None:
        raise OSError("no space left")

    beside = Beside("a thread")
    beside.begin(lambda: done.append(1))
    beside.begin(fails)
    beside.begin(lambda: done.append(2))
    with pytest.raises(OSError, match="no space left"):
        beside.settle()
    beside.begin(lambda: done.append(3))
    beside.close()
    assert done == [1, 3]


@ORDERS
def test_a_function_sees_a_batch_before_the_next_is_computed(beside: type[Beside], tmp_path: Path) -> None:
    told_in_order: list[tuple[str, int]] = []
    frame = told(arrive(tmp_path, 3), lambda value: told_in_order.append(("computed", value)))
    sink = EachBatchSink(lambda rows, batch: told_in_order.append(("seen", batch)))
    batches = opened(tmp_path, frame, sink, beside())
    while batches.run_once(ahead=lambda: True) is not None:
        continue
    batches.close()
    assert told_in_order == [(what, n) for n in range(3) for what in ("computed", "seen")]


@pytest.mark.parametrize("sink", [MemorySink, lambda: EachBatchSink(lambda rows, batch: None)])
def test_nothing_is_computed_once_the_sink_has_seen_enough(sink: Callable[[], Sink], tmp_path: Path) -> None:
    computed: list[int] = []
    written_to, seen = sink(), list[int]()
    write = written_to.write

    def noting(batch: int, rows: pl.DataFrame, *receipt: Any, **removed: Any) -> None:
        write(batch, rows, *receipt, **removed)
        seen.append(batch)

    written_to.write = noting  # type: ignore[method-assign]  # it may stop the query, as this test does
    batches = opened(tmp_path, told(arrive(tmp_path, 3), computed.append), written_to, Beside())
    assert batches.run_once(ahead=lambda: not seen) is not None
    assert not batches.is_ahead
    assert computed == [0]
    batches.close()


class Kept(ub.MemorySource):
    """A source that notes what the sink held when it was told that a batch is durable."""

    where: Path
    heard: list[tuple[int, int]]

    def acknowledge(self, until: int) -> None:
        self.heard.append((until, len(written(self.where))))


@ORDERS
def test_a_source_is_told_of_a_batch_when_it_is_durable(beside: type[Beside], tmp_path: Path) -> None:
    feed = Kept({"v": pl.Int64})
    feed.where, feed.heard = tmp_path, []
    feed.add([{"v": 0}])

    def more(value: int) -> None:
        if value < 2 and len(feed._added) == value + 1:
            feed.add([{"v": value + 1}])

    batches = opened(tmp_path, told(ub.scan_memory(feed), more), FileSink(tmp_path / "out", "parquet"), beside())
    while batches.run_once(ahead=lambda: True) is not None:
        continue
    batches.close()
    assert feed.heard == [(1, 1), (2, 2), (3, 3)]


def test_a_function_that_stops_its_query_sees_its_batch_committed(tmp_path: Path) -> None:
    running: list[ub.StreamingQuery] = []
    ready = threading.Event()

    def stop_at_one(value: int) -> None:
        if value == 1:
            ready.wait(30)
            running[0]._stopping.set()  # as stop() does, which would wait for the thread that is here

    frame = told(arrive(tmp_path, 4), stop_at_one)
    running.append(
        frame.sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.available_now(), wait=False)
    )
    ready.set()
    assert running[0].await_termination(30)
    assert written(tmp_path) == [0, 1]


def test_a_batch_of_an_interval_is_not_begun_before_its_tick(tmp_path: Path) -> None:
    computed: list[int] = []
    first = threading.Event()

    class Ear:
        def on_query_started(self, id: str, run_id: str, name: str | None) -> None: ...

        def on_query_progress(self, progress: ub.Progress) -> None:
            first.set()

        def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None: ...

    ear = Ear()
    ub.streams.add_listener(ear)
    try:
        query = told(arrive(tmp_path, 3), computed.append).sink_parquet(
            tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.processing_time("1h")
        )
        assert first.wait(30)
        query.stop()
    finally:
        ub.streams.remove_listener(ear)
    assert computed == [0]
    assert written(tmp_path) == [0]


class TellingSink(EachBatchSink):
    """At least once, and yet it remembers which batches it saw."""

    def __init__(self, function: Callable[[pl.DataFrame, int], None]) -> None:
        super().__init__(function)
        self._receipts: dict[int, Receipt] = {}

    def written(self, batch: int) -> Receipt | None:
        return self._receipts.get(batch)

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        super().write(batch, rows, receipt, removed=removed)
        self._receipts[batch] = receipt


def test_a_sink_that_is_at_least_once_is_never_taken_at_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it saw came before the state was durable, so a restart computes the batch again."""
    seen: list[tuple[int, list[int]]] = []
    sink = TellingSink(lambda rows, batch: seen.append((batch, rows["n"].to_list())))
    frame = arrive(tmp_path, 3).group_by(k=pl.lit("all")).agg(n=pl.col("v").sum())
    batches = opened(tmp_path, frame, sink, Beside(), "update")
    batches.run_once()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "commit", fails)
        with pytest.raises(OSError, match="no space left"):
            batches.run_once()
    batches.close()
    batches = opened(tmp_path, frame, sink, Beside(), "update")
    while batches.run_once() is not None:
        pass
    batches.close()
    assert seen == [(0, [0]), (1, [1]), (1, [1]), (2, [3])]


def fails(*_: object) -> None:
    raise OSError("no space left")


def test_what_is_written_beside_is_nothing_that_others_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polars deadlocks where one thread writes a frame into memory while another takes a column of it."""
    written: list[pl.DataFrame] = []

    def write(frame: pl.DataFrame, *arguments: Any, **options: Any) -> Any:
        written.append(frame)
        return write_ipc_stream(frame, *arguments, **options)

    write_ipc_stream = pl.DataFrame.write_ipc_stream
    monkeypatch.setattr(pl.DataFrame, "write_ipc_stream", write)
    memory = MemoryHome(storage.open_storage("memory://written-beside"))
    log = memory.log("names", pl.Schema({"name": pl.String()}))
    memory.restore(None)
    rows = pl.DataFrame({"name": ["a", "b"]})
    log.append(rows)
    memory.commit(0, "first")
    assert [frame.rows() for frame in written] == [rows.rows()]
    assert written[0] is not rows
