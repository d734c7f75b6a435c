"""How does one get rows without having any? So many a second, each known from its number."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl

from unbounded.connectors import Offset
from unbounded.errors import PlanError

__all__ = ["RateSource"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000  # in microseconds
_TIMESTAMP = pl.Datetime("us", "UTC")
_SCHEMA = pl.Schema([("timestamp", _TIMESTAMP), ("value", pl.Int64)])


class RateSource:
    """`rows_per_second` rows in each full second since `start`: their number `value`, from 0, and when it was due.

    Row v has the timestamp `start + v / rows_per_second`, cut to microseconds. An offset holds the start, the
    rate and the full seconds, so that rows are the same after a restart, whenever that is.

    `start` defaults to now, unless a checkpoint knows it; a naive one is UTC. `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        rows_per_second: int = 1,
        *,
        start: datetime | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(rows_per_second, bool) or not isinstance(rows_per_second, int) or rows_per_second < 1:
            raise PlanError(f"RateSource(rows_per_second={rows_per_second!r}) must be a whole number above 0")
        self._rate, self._clock = rows_per_second, clock
        if start is None:
            self._start = self._now()
        else:
            aware = start if start.tzinfo else start.replace(tzinfo=UTC)
            self._start = (aware - _EPOCH) // timedelta(microseconds=1)

    def _now(self) -> int:
        return int(self._clock() * _SECOND)

    @property
    def schema(self) -> pl.Schema:
        return _SCHEMA

    @property
    def default_name(self) -> str:
        return "rate"

    @property
    def description(self) -> str:
        return f"{self._rate} rows per second"

    def end(self) -> Offset | None:
        return {"time": self._now()}

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        """All full seconds that passed. PlanError if the rate is not the one of `since`: values would jump."""
        start = self._start if since is None else since["start"]
        if since is not None and since["rate"] != self._rate:
            raise PlanError(
                f"RateSource(rows_per_second={self._rate}) continues a checkpoint of {since['rate']} rows per second, "
                f"so its values would jump. Write rows_per_second={since['rate']}, or use a new checkpoint"
            )
        now = self._now() if end is None else end["time"]
        seconds = (now - start) // _SECOND
        if seconds <= (0 if since is None else since["seconds"]):
            return None
        return {"start": start, "rate": self._rate, "seconds": seconds}

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        rate = until["rate"]
        first = 0 if since is None else since["seconds"] * rate
        value = pl.int_range(first, until["seconds"] * rate, dtype=pl.Int64).alias("value")
        # Whole seconds and the rest apart, so that the product stays within 64 bits.
        due = until["start"] + pl.col("value") // rate * _SECOND + pl.col("value") % rate * _SECOND // rate
        return pl.LazyFrame().select(value).select(due.cast(_TIMESTAMP).alias("timestamp"), "value")

    def acknowledge(self, until: Offset) -> None:
        """Rows are made, not kept."""
