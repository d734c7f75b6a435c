"""What does a piece of work take that has a process to itself? Its result, and the most memory it held."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

__all__ = ["in_new_process", "peak_memory", "tried", "worker"]

P = ParamSpec("P")
T = TypeVar("T")


def worker() -> ProcessPoolExecutor:
    """One new process, which has imported nothing of this one."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def in_new_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of a module in a new process, which ends with it."""
    with worker() as process:
        return process.submit(work, *args, **kwargs).result()


def tried(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | str:
    """What a function gives, or why it does not: not every error can pass from process to process."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


def peak_memory(pid: int | None = None) -> int:
    """The most bytes a process, by default this one, has held in memory at once, with the files it maps."""
    status = Path(f"/proc/{pid or 'self'}/status")
    if status.exists():  # unlike `getrusage`, this begins anew when a process starts a program
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
