"""How fast is it, against plain Polars and Spark in the same run? `make bench`, or `make bench BENCH="--quick"`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

from tests.benchmarks.events import Events, generate
from tests.benchmarks.growth import batch_numbers, powers, seen_files, sheltered, state_keys
from tests.benchmarks.processes import in_new_process, tried
from tests.benchmarks.publishing import publish
from tests.benchmarks.queries import named
from tests.benchmarks.results import LAST_RUN, Results, kind_of, load, machine, save
from tests.benchmarks.small_batches import small_batches
from tests.benchmarks.start_up import start_up
from tests.benchmarks.tables import as_text
from tests.benchmarks.throughput import Say, WrongAnswerError, measure_files, measure_homes, measure_queries

_QUICK = {"events": 1_000_000, "files": 10, "repeats": 3, "keys": 1_000_000, "batches": 2_000, "seen": 100_000}
_FULL = {"events": 10_000_000, "files": 100, "repeats": 3, "keys": 10_000_000, "batches": 100_000, "seen": 1_000_000}
_HOMES = ["memory", "files", "sqlite"]
_HOME_EVENTS, _HOME_FILES = 1_000_000, 10


def main() -> None:
    """Print one table per question; every answer is compared before its time counts."""
    chosen = _options().parse_args()
    if chosen.load is not None:
        results = load(chosen.load)
    else:
        started = time.monotonic()

        def say(what: str) -> None:
            print(f"{time.monotonic() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory(dir=chosen.folder) as work:
            try:
                results = _measure(chosen, Path(work), say)
            except WrongAnswerError as error:
                sys.exit(str(error))
    if chosen.save is not None:
        save(results, chosen.save)
    print(as_text(results))
    if chosen.publish:
        save(results, LAST_RUN)
        publish(load(LAST_RUN))  # as it is kept, to the last digit


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument("--quick", action="store_true", help=f"about two minutes without Spark: {_said(_QUICK)}")
    options.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS), help="the questions to ask")
    options.add_argument("--query", nargs="+", default=[], help="of the queries, only these")
    options.add_argument("--spark", type=int, default=1, metavar="ROUNDS", help="in which Spark takes part, too")
    options.add_argument("--state", nargs="+", default=_HOMES, metavar="HOME", help="homes of state to compare")
    options.add_argument("--folder", type=Path, help="where to work; a temporary folder of the system")
    for name, value in _FULL.items():
        options.add_argument(f"--{name}", type=int, help=f"{_HELP[name]} ({value:,})")
    options.add_argument("--save", type=Path, help="also write the results as JSON")
    options.add_argument("--load", type=Path, help="measure nothing, show the results that were saved here")
    options.add_argument("--publish", action="store_true", help="put the results into README and notebook")
    return options


def _said(sizes: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in sizes.items())


_HELP = {
    "events": "of each kind",
    "files": "read in ten batches",
    "repeats": "rounds of all queries",
    "keys": "of state, at most; in homes but the first, a tenth",
    "batches": "in a row, at most",
    "seen": "files in a folder, at most",
}


def _command(chosen: argparse.Namespace) -> str:
    """What to type for the same run; without paths, and of homes without a URL, that may hold a password."""
    options = ["--quick"] if chosen.quick else []
    asked = {
        "only": [] if chosen.only == list(_PARTS) else chosen.only,
        "query": chosen.query,
        "spark": [] if chosen.spark == 1 else [chosen.spark],
        "state": [] if chosen.state == _HOMES else map(kind_of, chosen.state),
        **{name: [] if getattr(chosen, name) is None else [getattr(chosen, name)] for name in _FULL},
    }
    for name, values in asked.items():
        if texts := [str(value) for value in values]:
            options += [f"--{name}", *texts]
    return f'make bench BENCH="{" ".join(options)}"' if options else "make bench"


class _Suite:
    """What the questions share. Mutable, for the events are written once, and only where they are asked for."""

    def __init__(self, chosen: argparse.Namespace, work: Path, say: Say) -> None:
        defaults = _QUICK if chosen.quick else _FULL
        self.sizes = {name: getattr(chosen, name) or value for name, value in defaults.items()}
        self.chosen, self.work, self.say = chosen, work, say
        self._written: dict[tuple[int, int], Events] = {}
        self.results = Results(machine(), _command(chosen), date.today().isoformat(), self.sizes["events"])

    @property
    def events(self) -> Events:
        return self.write(self.sizes["events"], self.sizes["files"])

    @property
    def small(self) -> Events:
        """For what an engine does once, at its first query."""
        return self.write(10_000, 10, per_second=300)

    def write(self, events: int, files: int, per_second: int = 10_000) -> Events:
        if (events, files) not in self._written:
            self.say(f"writing {events:,} events into {files} files")
            folder = self.work / f"{events}-{files}"
            self._written[events, files] = in_new_process(generate, folder, events, files, per_second=per_second)
        return self._written[events, files]


def _queries(suite: _Suite) -> None:
    measure_queries(
        suite.results,
        named(suite.chosen.query),
        suite.events,
        suite.small,
        suite.work,
        repeats=suite.sizes["repeats"],
        spark_repeats=suite.chosen.spark,
        say=suite.say,
    )


def _small(suite: _Suite) -> None:
    suite.say("batches of 1,000 rows")
    suite.results.batches |= in_new_process(small_batches, suite.work / "small")
    measure_files(suite.results, suite.events, suite.small, suite.work / "one-file", suite.say)


def _start(suite: _Suite) -> None:
    suite.say("starting new processes")
    suite.results.start_up = start_up(suite.work / "start")


def _keys(suite: _Suite) -> None:
    for i, home in enumerate(suite.chosen.state):
        most = suite.sizes["keys"] if i == 0 else suite.sizes["keys"] // 10
        suite.say(f"{most:,} keys of state in {kind_of(home)}")
        found = in_new_process(tried, state_keys, powers(10_000, most), suite.work / f"keys-{i}", home)
        if isinstance(found, str):
            suite.results.leave_out(home, found)
        else:
            suite.results.keys[kind_of(home)] = found


def _numbers(suite: _Suite) -> None:
    place = sheltered(suite.work)
    suite.say(f"{suite.sizes['batches']:,} batches in a row")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        suite.results.numbers = in_new_process(batch_numbers, powers(10, suite.sizes["batches"]), Path(folder))
    if place != suite.work:
        suite.results.remarks.append("The numbered batches had their checkpoint on a disk in memory.")


def _files(suite: _Suite) -> None:
    suite.say(f"{suite.sizes['seen']:,} files seen")
    suite.results.files = in_new_process(seen_files, powers(1_000, suite.sizes["seen"]), suite.work / "files")


def _homes(suite: _Suite) -> None:
    events = suite.write(min(_HOME_EVENTS, suite.sizes["events"]), _HOME_FILES)
    measure_homes(
        suite.results,
        suite.chosen.state,
        events,
        suite.small,
        suite.work / "homes",
        repeats=suite.sizes["repeats"],
        say=suite.say,
    )


_PARTS: dict[str, Callable[[_Suite], None]] = {
    "queries": _queries,
    "small": _small,
    "start": _start,
    "keys": _keys,
    "numbers": _numbers,
    "files": _files,
    "homes": _homes,
}


def _caveats(sizes: Mapping[str, int]) -> list[str]:
    """Why the figures of this run are not yet those that the budgets are about."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    found = []
    if load > cores / 2:
        found.append(
            f"The machine was busy at the start, with a load of {load:.0f} on {cores} cores: no figure of this run, "
            "ratios included, is one to rely on."
        )
    if sizes["events"] < _FULL["events"]:
        found.append(
            f"The budgets of queries are about {_FULL['events']:,} events in ten batches; these were "
            f"{sizes['events']:,}, of which what a batch costs anyway is a larger part."
        )
    return found


def _measure(chosen: argparse.Namespace, work: Path, say: Say) -> Results:
    suite = _Suite(chosen, work, say)
    suite.results.remarks += _caveats(suite.sizes)
    wanted: Sequence[str] = chosen.only
    for name, part in _PARTS.items():
        if name in wanted:
            part(suite)
    return suite.results


if __name__ == "__main__":
    main()
