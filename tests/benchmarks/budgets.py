"""What must be held, what is the goal, and was it reached?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.benchmarks.results import Measured, Results, Times

__all__ = ["LIMIT", "PEER", "Finding", "findings"]

LIMIT, PEER = "time of Polars at once", "faster than Spark"
"""The two figures of a query."""

# Ratios to one-shot Polars (at most), then to the better of Spark's stores (at least): must and goal of each.
_QUERIES = {
    "q1": ((1.25, 1.1), (9, 11)),
    "q2": ((1.25, 1.1), (9, 11)),
    "ysb": ((3, 1.5), (20, 40)),
    "group": ((3, 1.5), (20, 40)),
    "q5": ((2, 1.2), (20, 40)),
    "q8": ((5, 2), (15, 40)),
    "dedup": ((1.2, 1), (8, 15)),
    "within": ((1.2, 1), (8, 15)),
    "session": ((3, 2), (5, 15)),
    "global": ((3, 1.5), (20, 40)),
    "ndjson": ((2, 1.2), None),
}
_MEMORY_MB = {
    "ysb": 200,
    "group": 250,
    "q5": 400,
    "dedup": 1000,
    "within": 1000,
}  # the goal is what one-shot Polars takes


@dataclass(frozen=True)
class Finding:
    """A figure beside its budget. `beside` is what it is to be read with."""

    measure: str
    unit: str
    found: float
    must: float
    goal: float
    at_least: bool = False
    beside: str = ""

    @property
    def verdict(self) -> str:
        """ "goal", "must" or "MISSED": the best that the figure holds."""
        held = [name for name, bound in (("goal", self.goal), ("must", self.must)) if self._holds(bound)]
        return held[0] if held else "MISSED"

    def _holds(self, bound: float) -> bool:
        return self.found >= bound if self.at_least else self.found <= bound


def findings(results: Results) -> list[Finding]:
    """Every budget for which something was measured."""
    return [
        *_of_queries(results),
        *_of_memory(results),
        *_of_batches(results),
        *_of_growth(results),
        *_of_start(results),
    ]


def _of_queries(results: Results) -> Iterator[Finding]:
    for name, engines in results.engines.items():
        limit, spark = _QUERIES[name]
        ours = engines["unbounded"].median
        yield Finding(f"{name}: {LIMIT}", "x", ours / engines["polars"].median, *limit)
        best = results.spark_best(name)
        if best is not None and spark is not None:
            yield Finding(f"{name}: {PEER}", "x", best / ours, *spark, at_least=True)


def _of_memory(results: Results) -> Iterator[Finding]:
    for name, must in _MEMORY_MB.items():
        engines = results.engines.get(name, {})
        ours, limit = (engines.get(engine, Measured([])).memory_mb for engine in ("unbounded", "polars"))
        if ours is not None and limit is not None:
            yield Finding(f"{name}: most memory", "MB", ours, must, limit)


def _of_batches(results: Results) -> Iterator[Finding]:
    fsync = results.batches.get("fsync")
    beside = f"one fsync: {fsync.p50:.2f} / {fsync.p99:.2f} ms" if fsync is not None else ""
    for name in ("stateless", "windowed"):
        if (times := results.batches.get(name)) is not None:
            yield Finding(f"1,000 rows, {name}: p50", "ms", times.p50, 12, 4, beside=beside)
            yield Finding(f"1,000 rows, {name}: p99", "ms", times.p99, 30, 10, beside=beside)
    for name in ("group", "ysb"):
        if (times := results.batches.get(f"one file, {name}")) is not None:
            yield Finding(f"one file of 100,000 rows, {name}: p50", "ms", times.p50, 20, 8)


def _of_growth(results: Results) -> Iterator[Finding]:
    for home, curve in results.keys.items():
        yield from _ratio(f"1,000 keys, state in {home}", curve, "keys", 10_000, (2, 1.2))
    yield from _ratio("a batch", results.numbers, "batches before it", 100, (1.5, 1.1))
    seen = {size: listing.batch for size, listing in results.files.items()}
    yield from _ratio("a batch", seen, "files seen", 1_000, (1.5, 1.1))
    if results.files:
        most = max(results.files)
        ratio = results.files[most].listing / results.files[most].scandir
        yield Finding(f"listing {most:,} files: time of a bare scandir", "x", ratio, 1.5, 1.1)


def _ratio(what: str, curve: dict[int, Times], grown: str, base: int, bounds: tuple[float, float]) -> Iterator[Finding]:
    """What the median costs at the end of a curve, in what it costs at `base`."""
    most = max(curve, default=0)
    if base in curve and most > base:
        name = f"{what}: {most:,} {grown} against {base:,}"
        yield Finding(name, "x", curve[most].p50 / curve[base].p50, *bounds, beside=f"worst {curve[most].worst:.0f} ms")


def _of_start(results: Results) -> Iterator[Finding]:
    if "first commit" in results.start_up:
        own = f"imports: Polars {results.start_up['import polars']:.2f} s, "
        beside = f"{own}then unbounded {results.start_up['import unbounded']:.2f} s"
        yield Finding("spawn to first commit", "s", results.start_up["first commit"], 0.8, 0.4, beside=beside)
