"""How much later does a program start because it imports unbounded besides Polars?"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

__all__ = ["import_seconds"]

_PROGRAM = """
from time import perf_counter
begin = perf_counter()
import polars
middle = perf_counter()
import unbounded
print(middle - begin, perf_counter() - middle)
"""


def import_seconds(repeats: int = 9) -> tuple[float, float]:
    """Seconds to import Polars, and then unbounded: medians over new processes, after one that fills the caches."""
    compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as installed: compiled once, not at every start
    command = [sys.executable, "-c", _PROGRAM]
    runs = [subprocess.check_output(command, text=True, env=compiled).split() for _ in range(repeats + 1)]
    polars, ours = zip(*runs[1:], strict=True)
    return median(map(float, polars)), median(map(float, ours))
