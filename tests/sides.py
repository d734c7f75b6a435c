"""Which rows stand on both sides of a join of streams in tests? A key, a key of floats, event time, and a value."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import polars as pl

__all__ = ["SCHEMA", "START", "at", "row"]

SCHEMA: dict[str, Any] = {"k": pl.Int64, "f": pl.Float64, "t": pl.Datetime("us"), "v": pl.Int64}
START = datetime(2026, 3, 1)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def row(key: int | None, seconds: float | None, value: int = 0, number: float | None = 0.0) -> dict[str, Any]:
    return {"k": key, "f": number, "t": None if seconds is None else at(seconds), "v": value}
