"""Is `ub.current_timestamp()` the time of the batch, the same for all its rows and whenever the batch is run?"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import unbounded as ub
from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Mode, Receipt
from unbounded.expressions import canonical
from unbounded.query import MicroBatches
from unbounded.sinks.memory import MemorySink
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import open_storage

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
T = pl.Datetime("us", "UTC")
EVENTS: dict[str, Any] = {"k": pl.String, "t": T}


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class BrokenPipe(MemorySink):
    """A sink whose first write of one batch fails, before anything is kept."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.seen = at, dict[int, list[pl.DataFrame]]()

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        self.seen.setdefault(batch, []).append(rows)
        if batch == self.at and len(self.seen[batch]) == 1:
            raise OSError("the disk is full")
        super().write(batch, rows, receipt, removed=removed)


def started(frame: ub.StreamFrame, sink: BrokenPipe, place: str, clock: Clock, mode: Mode) -> MicroBatches:
    storage = open_storage(place)
    batches = MicroBatches(
        frame._plan,
        sink,
        mode=mode,
        checkpoint=Checkpoint(storage),
        home=MemoryHome(storage),
        wall_clock=clock,
    )
    batches.open()
    return batches


def told(
    pipeline: Any, *batches: list[dict[str, Any]], mode: Mode = "append", fail_at: int | None = None
) -> BrokenPipe:
    """Run batches of events, an hour apart; with `fail_at`, lose one, and start again with a frame made anew."""
    MemoryFileSystem.store.clear()
    feed, sink, place, clock = ub.MemorySource(EVENTS), BrokenPipe(fail_at), f"memory://{uuid.uuid4()}", Clock()
    query = started(pipeline(ub.scan_memory(feed)), sink, place, clock, mode)
    for rows in batches:
        feed.add(rows)
        try:
            query.run_once()
        except OSError:
            query.close()
            clock.now += HOUR
            query = started(pipeline(ub.scan_memory(feed)), sink, place, clock, mode)
            query.run_once()
        clock.now += HOUR
    query.close()
    return sink


A, B = {"k": "a", "t": START - HOUR}, {"k": "b", "t": START + HOUR / 2}


def stamped(frame: Any) -> Any:
    return frame.with_columns(ub.current_timestamp().alias("at"))


def test_all_rows_of_a_batch_have_its_time_and_the_next_batch_has_its_own() -> None:
    sink = told(stamped, [A, B], [A])
    assert sink.read().collect()["at"].to_list() == [START, START, START + HOUR]


PIPELINES: dict[str, Any] = {
    "with_columns": stamped,
    "select": lambda frame: frame.select("k", age=ub.current_timestamp() - pl.col("t")),
    "filter": lambda frame: frame.filter(pl.col("t") < ub.current_timestamp()),
    "remove": lambda frame: frame.remove(pl.col("t") < ub.current_timestamp()),
    "fill_null": lambda frame: frame.fill_null(ub.current_timestamp()),
    "deep inside": lambda frame: frame.select(
        x=pl.when(pl.col("t").is_between(ub.current_timestamp(), ub.current_timestamp() + HOUR))
        .then(pl.struct(a=ub.current_timestamp()).struct.field("a"))
        .otherwise(pl.coalesce(pl.lit(None, T), ub.current_timestamp().dt.offset_by("1d")))
    ),
}


@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_every_step_means_on_a_batch_what_it_means_with_the_time_written_out(pipeline: str) -> None:
    rows: list[dict[str, Any]] = [A, B, {"k": None, "t": None}]
    sink = told(PIPELINES[pipeline], rows, rows)
    for batch, time in enumerate([START, START + HOUR]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ub, "current_timestamp", lambda time=time: pl.lit(time, T).alias("current_timestamp"))
            assert sink.seen[batch][0].equals(PIPELINES[pipeline](pl.LazyFrame(rows, EVENTS)).collect())


@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_a_batch_run_again_after_a_crash_gives_the_same_rows(pipeline: str) -> None:
    first, second = told(PIPELINES[pipeline], [A], [A, B], fail_at=1).seen[1]
    assert first.equals(second)


def youngest(frame: Any) -> Any:
    return frame.group_by("k").agg(
        age=(ub.current_timestamp() - pl.col("t")).min(),
        since=ub.current_timestamp() - pl.col("t").max(),
        distinct=(ub.current_timestamp() - pl.col("t")).n_unique(),
    )


def test_an_aggregate_takes_rows_at_the_time_of_their_batch_and_answers_at_the_time_of_its_own() -> None:
    sink = told(youngest, [A], [A], mode="update")
    expected = {"k": "a", "age": HOUR, "since": 2 * HOUR, "distinct": 2}
    assert sink.read().collect().to_dicts() == [expected]


def test_a_key_made_of_the_time_opens_a_group_per_batch_and_fits_its_checkpoint_again() -> None:
    sink = told(lambda f: f.group_by(h=ub.current_timestamp().dt.hour()).len(), [A], [A, B], mode="update", fail_at=1)
    assert sink.read().collect().sort("h").rows() == [(0, 1), (1, 2)]


def test_a_global_aggregate_knows_the_time() -> None:
    sink = told(lambda f: f.select(n=pl.len(), at=ub.current_timestamp()), [A], [A], mode="update")
    assert sink.read().collect().rows() == [(2, START + HOUR)]


def test_a_bounded_frame_knows_the_time_of_the_call() -> None:
    before = datetime.now(UTC)
    found = pl.LazyFrame({"k": ["a", "b"]}).select("k", ub.current_timestamp()).collect()
    assert found.schema["current_timestamp"] == T
    assert found["current_timestamp"].n_unique() == 1
    assert before <= found["current_timestamp"][0] <= datetime.now(UTC)


@pytest.mark.parametrize(
    "make",
    [
        ub.current_timestamp,
        lambda: ub.current_timestamp().alias("x"),
        lambda: (pl.col("t") - ub.current_timestamp()).dt.total_hours().round(2),
        lambda: pl.col("t").list.eval(pl.element() < ub.current_timestamp()),
        lambda: pl.col("t").filter(pl.col("t") < ub.current_timestamp()).max(),
    ],
)
def test_it_is_the_same_expression_whenever_it_is_written(make: Any) -> None:
    first = canonical(make())
    assert "current_timestamp()" in first
    assert canonical(make()) == first


def test_the_plan_shows_it_by_name() -> None:
    events = ub.scan_memory(ub.MemorySource(EVENTS))
    assert "current_timestamp()" in stamped(events).explain()
    assert (
        'filter [(current_timestamp()) > (col("t"))]' in events.filter(ub.current_timestamp() > pl.col("t")).explain()
    )
