"""What did a whole run of the suite find, and where is that kept?"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

__all__ = ["LAST_RUN", "Listing", "Measured", "Results", "Times", "kind_of", "load", "machine", "save"]

LAST_RUN = Path(__file__).parent / "results.json"
"""The run that the README and the notebook show."""


@dataclass(frozen=True)
class Times:
    """Of many times, in milliseconds: the median, the 99th percentile and the worst."""

    p50: float
    p99: float
    worst: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Times:
        p50, p99, worst = np.percentile(times, [50, 99, 100])
        return cls(float(p50), float(p99), float(worst))


@dataclass(frozen=True)
class Measured:
    """All runs of a query by one engine; an engine without batches has neither `batch_ms` nor a checkpoint."""

    seconds: list[float]
    batch_ms: list[float] = field(default_factory=list)
    memory_mb: float | None = None
    checkpoint_bytes: int | None = None
    """Of one batch."""

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)

    @property
    def batches(self) -> Times | None:
        """Of all batches of all runs."""
        return Times.of(self.batch_ms) if self.batch_ms else None


@dataclass(frozen=True)
class Listing:
    """A folder in which all files were read but one a batch; milliseconds."""

    batch: Times
    """Without the listing."""
    listing: float
    scandir: float


@dataclass
class Results:
    """What was not measured is empty. `engines` has queries, then engines: "polars", "unbounded", "spark <store>"."""

    machine: str
    command: str
    day: str
    events: int
    rows: dict[str, int] = field(default_factory=dict)
    engines: dict[str, dict[str, Measured]] = field(default_factory=dict)
    spark: str = ""
    """Its version, or why it is missing."""
    spark_memory_mb: float | None = None
    batches: dict[str, Times] = field(default_factory=dict)
    """Small batches, by what they are; "fsync" is the disk."""
    start_up: dict[str, float] = field(default_factory=dict)
    keys: dict[str, dict[int, Times]] = field(default_factory=dict)
    """By home, then by keys of state."""
    numbers: dict[int, Times] = field(default_factory=dict)
    """By the number of the batch."""
    files: dict[int, Listing] = field(default_factory=dict)
    """By files seen."""
    homes: dict[str, Measured] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave_out(self, home: str, why: str) -> None:
        """Remark, once, that a home of state could not be measured."""
        remark = f"state={kind_of(home)!r} was left out: {why}"
        if remark not in self.remarks:
            self.remarks.append(remark)

    def spark_best(self, query: str) -> float | None:
        """Seconds of the better of Spark's stores."""
        found = [one.median for name, one in self.engines.get(query, {}).items() if name.startswith("spark")]
        return min(found, default=None)


def kind_of(home: str) -> str:
    """The word for a home of state: its URL can have a password in it."""
    return home.partition(":")[0]


def machine() -> str:
    """This one, without its name: processor, memory, versions."""
    cpu = platform.machine()
    if (about := Path("/proc/cpuinfo")).exists() and (model := re.search(r"model name\s*: (.*)", about.read_text())):
        cpu = model[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}, "
        f"Polars {pl.__version__}"
    )


def save(results: Results, path: Path) -> None:
    """Write a run as JSON, for people to compare with another: figures of five digits."""
    rounded = json.loads(json.dumps(asdict(results)), parse_float=lambda text: float(f"{float(text):.5g}"))
    path.write_text(json.dumps(rounded, indent=1) + "\n")


def load(path: Path) -> Results:
    """Read what `save` wrote."""
    found: dict[str, Any] = json.loads(path.read_text())
    return Results(
        **{
            **found,
            "engines": {query: _measured(engines) for query, engines in found["engines"].items()},
            "batches": {name: Times(**times) for name, times in found["batches"].items()},
            "keys": {home: _times(curve) for home, curve in found["keys"].items()},
            "numbers": _times(found["numbers"]),
            "files": {
                int(seen): Listing(**{**one, "batch": Times(**one["batch"])}) for seen, one in found["files"].items()
            },
            "homes": _measured(found["homes"]),
        }
    )


def _measured(found: Mapping[str, Any]) -> dict[str, Measured]:
    return {name: Measured(**one) for name, one in found.items()}


def _times(found: Mapping[str, Any]) -> dict[int, Times]:
    return {int(at): Times(**times) for at, times in found.items()}
