"""What does a batch bring to one side of a join of two streams?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from unbounded.operators import FINAL

__all__ = ["AT_THE_END", "LATE", "Taken", "without_late"]

AT_THE_END: Final = FINAL - 1
"""When a row goes for which the watermark never says so while the input goes on, in epoch ms."""

LATE: Final = "__late__"
"""The column of prepared rows that says whether they came too late."""


@dataclass(frozen=True)
class Taken:
    """The rows of one side: those that may find a partner, and those that are `alone` since they cannot.

    How many others were late; and how many of all that are in time have none.
    """

    rows: pl.DataFrame
    alone: pl.DataFrame
    late: int
    without_time: int


def without_late(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Prepared rows without those that are `LATE`, which is never null, and how many these were."""
    late = int(rows[LATE].sum())
    return (rows.filter(~rows[LATE]) if late else rows), late
