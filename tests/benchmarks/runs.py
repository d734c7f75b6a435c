"""How is a query run once, by plain Polars and by unbounded, and what did that take?"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from time import perf_counter

import polars as pl

import unbounded as ub
from tests.benchmarks.answers import Answer, answer_of
from tests.benchmarks.events import Events
from tests.benchmarks.processes import peak_memory
from tests.benchmarks.queries import DELAY, Query, scan, scan_unbounded

__all__ = ["BATCHES", "Batches", "Run", "limit_run", "measured", "size_of", "unbounded_run"]

BATCHES = 10

_MEGABYTE = 1e6


@dataclass(frozen=True)
class Run:
    """One run of a query: `seconds` from its first line to its last row, milliseconds of its batches."""

    seconds: float
    answer: Answer
    memory_mb: float | None = None
    """Of its process, at most; None of a peer that answers all queries in one process."""
    batch_ms: list[float] = field(default_factory=list)
    checkpoint_bytes: int | None = None


def measured(
    query: Query,
    events: Events,
    small: Events,
    folder: Path,
    engine: str,
    *,
    files: int | None = None,
    state: str | None = None,
) -> Run:
    """Run a query in this process, which it may have to itself; first over few events, for what happens once.

    `engine` is "polars" or "unbounded"; a batch of the latter reads so many `files`, by default a tenth of them.
    """
    logging.getLogger("unbounded").setLevel(logging.ERROR)  # windows that stay open are no news here
    warnings.simplefilter("ignore", ub.UnboundedStateWarning)
    for name, data in (("warm-up", small), ("run", events)):
        place = folder / name
        place.mkdir(parents=True)
        found = (
            limit_run(query, data, place)
            if engine == "polars"
            else unbounded_run(query, data, place, files=files or data.per_batch(query.input, BATCHES), state=state)
        )
        rmtree(place)
    return found


def limit_run(query: Query, events: Events, folder: Path) -> Run:
    """Plain Polars over all files at once, in the streaming engine. The limit."""
    begin = perf_counter()
    asked: pl.LazyFrame = (query.limit or query.ask)(*scan(query, events))
    if query.to == "files":
        asked.sink_parquet(folder / "out.parquet", engine="streaming")
        rows = pl.scan_parquet(folder / "out.parquet")
    else:
        rows = asked.collect(engine="streaming").lazy()
    seconds, memory = perf_counter() - begin, peak_memory() / _MEGABYTE
    if query.closes is not None:
        column, period = query.closes
        watermark = pl.lit(events.last(query.input)).dt.offset_by(f"-{DELAY}")
        rows = rows.filter(pl.col(column) + period <= watermark)
    return Run(seconds, _answer(query, rows), memory)


def unbounded_run(query: Query, events: Events, folder: Path, *, files: int, state: str | None = None) -> Run:
    """The same in micro-batches of so many files, with a durable checkpoint, until everything there is read."""
    batches = Batches()
    ub.streams.add_listener(batches)
    changes: list[pl.DataFrame] = []
    checkpoint, out = folder / "checkpoint", folder / "out"
    begin = perf_counter()
    frame: ub.StreamFrame = query.ask(*scan_unbounded(query, events, files))
    if query.to == "files":
        frame.sink_parquet(out, checkpoint=checkpoint, trigger=ub.available_now(), state=state)
        rows = pl.scan_parquet(out)
    else:
        frame.foreach_batch(
            lambda new, _: changes.append(new),
            checkpoint=checkpoint,
            output_mode=query.mode,
            trigger=ub.available_now(),
            state=state,
        )
        rows = pl.concat(changes).lazy()
    seconds, memory = perf_counter() - begin, peak_memory() / _MEGABYTE
    ub.streams.remove_listener(batches)
    if query.mode == "update":
        rows = rows.unique(query.keys, keep="last", maintain_order=True) if query.keys else rows.tail(1)
    return Run(seconds, _answer(query, rows), memory, batches.with_rows("triggerExecution"), size_of(checkpoint))


def _answer(query: Query, rows: pl.LazyFrame) -> Answer:
    return answer_of(rows if query.compared is None else rows.select(query.compared))


def size_of(folder: Path) -> int:
    """The bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Batches:
    """A listener that keeps what every batch reports."""

    def __init__(self) -> None:
        self.progress: list[ub.Progress] = []

    def with_rows(self, phase: str) -> list[float]:
        """The milliseconds of a phase, of all batches that had rows."""
        return [each.duration_ms[phase] for each in self.progress if each.num_input_rows]

    def on_query_started(self, id: str, run_id: str, name: str | None) -> None: ...

    def on_query_progress(self, progress: ub.Progress) -> None:
        self.progress.append(progress)

    def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None: ...
