"""How fast is it, against plain Polars in the same run? `make bench`, or `make bench BENCH="--events 1000000"`."""

from __future__ import annotations

import argparse
import logging
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from statistics import median
from time import perf_counter

import polars as pl
from polars.testing import assert_frame_equal

from tests.benchmarks.events import Events, generate
from tests.benchmarks.queries import QUERIES, Query, one_shot, unbounded_run
from tests.benchmarks.small_batches import fsyncs, micro_batches, stateless, windowed, write_small_files
from tests.benchmarks.start_up import import_seconds

RATIO_BOUND = 3.0
BATCH_BOUND_MS = 20.0
IMPORT_BOUND_SECONDS = 0.15

Run = Callable[[Query, Events, Path], pl.LazyFrame]


def main() -> None:
    """Print one table per question; every answer is compared before its time counts."""
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument("--events", type=int, default=10_000_000, help="of each kind")
    options.add_argument("--files", type=int, default=100, help="read in ten batches")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--folder", type=Path, help="where to work; a temporary folder of the system")
    chosen = options.parse_args()
    logging.getLogger("unbounded").setLevel(logging.ERROR)  # windows that stay open are no news here

    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        work = Path(name)
        print(
            f"Python {platform.python_version()}, Polars {pl.__version__} with {pl.thread_pool_size()} threads; "
            f"{chosen.events:,} events in {chosen.files} files, median of {chosen.repeats} interleaved runs\n"
        )
        _print_throughput(generate(work, chosen.events, chosen.files), work, chosen.repeats)
        _print_small_batches(work)
        _print_import()


def _print_throughput(events: Events, work: Path, repeats: int) -> None:
    print(f"{'ten batches':<14}{'rows':>12}{'one-shot s':>12}{'unbounded s':>13}{'ratio':>8}   at most {RATIO_BOUND:g}")
    for query in QUERIES:
        assert_frame_equal(
            unbounded_run(query, events, _fresh(work)).collect(),
            one_shot(query, events, _fresh(work)).collect(),
            check_row_order=False,
        )
    times: dict[tuple[Query, Run], list[float]] = {
        (query, run): [] for query in QUERIES for run in (one_shot, unbounded_run)
    }
    for _ in range(repeats):
        for query, run in times:
            folder = _fresh(work)
            begin = perf_counter()
            run(query, events, folder)
            times[query, run].append(perf_counter() - begin)
            rmtree(folder)
    for query in QUERIES:
        limit, ours = median(times[query, one_shot]), median(times[query, unbounded_run])
        ratio = ours / limit
        print(
            f"{query.name:<14}{events.rows[query.input]:>12,}{limit:>12.3f}{ours:>13.3f}{ratio:>8.2f}"
            f"   {_verdict(ratio, RATIO_BOUND)}"
        )


def _print_small_batches(work: Path) -> None:
    print(f"\n{'1,000 rows':<14}{'p50 ms':>12}{'p99 ms':>12}   p50 at most {BATCH_BOUND_MS:g}")
    files = work / "small"
    write_small_files(files)
    for name, ask in (("stateless", stateless), ("windowed", windowed)):
        found = micro_batches(ask, files, _fresh(work))
        print(f"{name:<14}{found.p50:>12.1f}{found.p99:>12.1f}   {_verdict(found.p50, BATCH_BOUND_MS)}")
    disk = fsyncs(_fresh(work))
    print(f"{'one fsync':<14}{disk.p50:>12.2f}{disk.p99:>12.2f}")


def _print_import() -> None:
    polars, ours = import_seconds()
    print(f"\n{'imports':<14}{'seconds':>12}   at most {IMPORT_BOUND_SECONDS}")
    print(f"{'polars':<14}{polars:>12.3f}")
    print(f"{'and unbounded':<14}{ours:>12.3f}   {_verdict(ours, IMPORT_BOUND_SECONDS)}")


def _fresh(work: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=work))


def _verdict(found: float, bound: float) -> str:
    return "holds" if found <= bound else "MISSED"


if __name__ == "__main__":
    main()
