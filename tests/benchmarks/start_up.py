"""How soon does a new process work: how much later because it imports unbounded, and when is its first commit?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import polars as pl

__all__ = ["start_up"]

_IMPORTS = """
from time import perf_counter
begin = perf_counter()
import polars
middle = perf_counter()
import unbounded
print(middle - begin, perf_counter() - middle)
"""

_QUERY = """
import sys, time
import polars as pl
import unbounded as ub

class Clock:
    def on_query_started(self, id, run_id, name): ...
    def on_query_terminated(self, id, run_id, exception): ...
    def on_query_progress(self, progress): print(time.time())

ub.streams.add_listener(Clock())
files, place = sys.argv[1:]
frame = ub.scan_parquet(files, watermark=("time", "30s"))
frame.group_by_dynamic("time", every="1m", group_by="sensor").agg(pl.len()).sink_parquet(
    place + "/out", checkpoint=place + "/checkpoint", trigger=ub.once()
)
"""


def start_up(folder: Path, repeats: int = 9) -> dict[str, float]:
    """Seconds to import Polars, then unbounded, and from the birth of a process to its first commit: medians.

    The one file it reads is small, and a process before it fills the caches.
    """
    files = folder / "in"
    files.mkdir(parents=True)
    times = pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 1, 1, 1), "1m", eager=True)
    pl.DataFrame({"time": times, "sensor": 1}).write_parquet(files / "1.parquet")
    runs = []
    for i in range(repeats + 1):
        polars, ours = map(float, _started(_IMPORTS).split())
        begin = time.time()
        committed = float(_started(_QUERY, str(files), str(folder / f"{i}")).split()[0])
        runs.append((polars, ours, committed - begin))
    polars, ours, committed = (median(each) for each in zip(*runs[1:], strict=True))
    return {"import polars": polars, "import unbounded": ours, "first commit": committed}


def _started(program: str, *arguments: str) -> str:
    """What a new process prints."""
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as installed: compiled once, not at every start
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    return subprocess.run(command, check=True, text=True, env=compiled, stdout=subprocess.PIPE).stdout
