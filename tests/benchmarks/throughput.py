"""How long does each engine take for each query, one after another in the same minutes, with the same answer?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import TypeAlias

from tests.benchmarks.answers import Answer
from tests.benchmarks.events import Events
from tests.benchmarks.processes import in_new_process, tried, worker
from tests.benchmarks.queries import Query, named
from tests.benchmarks.results import Measured, Results, Times, kind_of
from tests.benchmarks.runs import Run, measured
from tests.benchmarks.spark import STORES, missing, spark_run, start, stop

__all__ = ["Say", "WrongAnswerError", "measure_files", "measure_homes", "measure_queries"]

Say: TypeAlias = Callable[[str], None]


class WrongAnswerError(Exception):
    """Two engines do not agree, so no time means anything."""


def measure_queries(
    results: Results,
    queries: Sequence[Query],
    events: Events,
    small: Events,
    folder: Path,
    *,
    repeats: int,
    spark_repeats: int,
    say: Say,
) -> None:
    """All queries by all engines, round after round; Spark in the first rounds only."""
    runs: dict[str, dict[str, list[Run]]] = {query.name: {} for query in queries}
    with _spark(results, small, folder, wanted=spark_repeats > 0, say=say) as spark:
        for turn in range(max(repeats, spark_repeats)):
            for query in queries:
                engines = ["polars", "unbounded"] if turn < repeats else []
                if spark is not None and turn < spark_repeats:
                    engines += [f"spark {store}" for store in STORES if query.remembers or store == STORES[0]]
                for engine in engines:
                    say(f"round {turn + 1}: {query.name} by {engine}")
                    place = folder / f"{turn}-{query.name}-{engine}"
                    run = _run(query, events, small, place, engine, spark)
                    runs[query.name].setdefault(engine, []).append(run)
                    rmtree(place, ignore_errors=True)
    for query in queries:
        _compare(query, [(engine, run.answer) for engine, each in runs[query.name].items() for run in each])
        results.rows[query.name] = sum(events.rows[name] for name in query.inputs)
        results.engines[query.name] = {engine: _summed_up(each) for engine, each in runs[query.name].items()}


def _run(
    query: Query, events: Events, small: Events, folder: Path, engine: str, spark: ProcessPoolExecutor | None
) -> Run:
    if spark is None or not engine.startswith("spark"):
        return in_new_process(measured, query, events, small, folder, engine)
    store = next(store for store in STORES if engine.endswith(store))
    return spark.submit(spark_run, query, events, folder, store).result()


@contextmanager
def _spark(
    results: Results, small: Events, folder: Path, *, wanted: bool, say: Say
) -> Iterator[ProcessPoolExecutor | None]:
    """The process of Spark's session; None without Spark, which the results then say."""
    lacks = missing()
    if lacks is not None or not wanted:
        results.spark = f"without Spark: {lacks or 'not asked for'}"
        say(results.spark)
        yield None
        return
    with worker() as process:
        say("starting Spark")
        results.spark = process.submit(start, small, folder / "spark").result()
        yield process
        results.spark_memory_mb = process.submit(stop).result()


def _compare(query: Query, answers: Sequence[tuple[str, Answer]]) -> None:
    """WrongAnswerError unless all are the same."""
    (first, expected), *others = answers
    wrong = [(engine, answer) for engine, answer in others if not answer.agrees(expected)]
    if wrong:
        lines = "\n".join(f"  {engine}: {answer}" for engine, answer in [(first, expected), *wrong])
        raise WrongAnswerError(f"the answers to {query.name} differ, so no time is shown:\n{lines}")


def _summed_up(runs: Sequence[Run]) -> Measured:
    batches = [time for run in runs for time in run.batch_ms]
    memory = [run.memory_mb for run in runs if run.memory_mb is not None]
    written = [run.checkpoint_bytes // len(run.batch_ms) for run in runs if run.checkpoint_bytes and run.batch_ms]
    return Measured(
        [run.seconds for run in runs],
        batches,
        max(memory, default=None),
        max(written, default=None),
    )


def measure_files(results: Results, events: Events, small: Events, folder: Path, say: Say) -> None:
    """One file a batch, of about 100,000 rows."""
    for query in named(["group", "ysb"]):
        say(f"one file a batch: {query.name}")
        run = in_new_process(measured, query, events, small, folder, "unbounded", files=1)
        results.batches[f"one file, {query.name}"] = Times.of(run.batch_ms)


def measure_homes(
    results: Results, homes: Sequence[str], events: Events, small: Events, folder: Path, *, repeats: int, say: Say
) -> None:
    """The group query with its state in each home, round after round; a home that fails says why, and is left out."""
    query = named(["group"])[0]
    runs: dict[str, list[Run]] = {}
    failed: set[str] = set()
    for turn in range(repeats):
        for home in homes:
            if home in failed:
                continue
            say(f"round {turn + 1}: state in {home}")
            place = folder / f"{turn}-{kind_of(home)}"
            found = in_new_process(tried, measured, query, events, small, place, "unbounded", state=home)
            if isinstance(found, Run):
                runs.setdefault(home, []).append(found)
            else:
                failed.add(home)
                results.leave_out(home, found)
    if runs:
        _compare(query, [(kind_of(home), run.answer) for home, each in runs.items() for run in each])
    results.homes = {kind_of(home): _summed_up(each) for home, each in runs.items()}
