"""A row finds the nearest one in time of another stream, as in Polars, however both are cut, shuffled and restarted."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.testing import assert_unified

SCHEMA: dict[str, Any] = {"k": pl.Int64, "f": pl.Float64, "t": pl.Datetime("us"), "v": pl.Int64}
START = datetime(2026, 3, 1)
STRATEGIES = ("backward", "forward", "nearest")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def row(key: int | None, seconds: float | None, value: int = 0, number: float | None = 0.0) -> dict[str, Any]:
    return {"k": key, "f": number, "t": None if seconds is None else at(seconds), "v": value}


def drawn_table(seed: int, height: int = 25) -> pl.DataFrame:
    """Few keys and times, so that many are equal; nulls, NaN and both zeros among them."""
    chance = random.Random(seed)
    rows = [
        row(
            chance.choice([1, 2, None]),
            chance.choice([None, *[chance.randint(0, 99)] * 9]),
            i,  # which row it is: equal times are told apart
            chance.choice([0.0, -0.0, float("nan"), None]),
        )
        for i in range(height)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def nearest(**options: Any) -> Callable[..., Any]:
    def pipeline(left: Any, right: Any) -> Any:
        left, right = (frame.pipe(ub.with_watermark, "t", "10s") for frame in (left, right))
        return left.join_asof(right, **{"on": "t", "by": "k", **options})

    return pipeline


# ----------------------------------------------------------------------------------------- the law
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("tolerance", [None, "0s", "7s", "40s"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_finds_what_polars_finds_in_all_rows_in_time(
    strategy: str, tolerance: str | None, *, exact: bool
) -> None:
    for seed, by in enumerate(["k", None, ["k", "f"], "f"]):
        pipeline = nearest(strategy=strategy, tolerance=tolerance, allow_exact_matches=exact, by=by)
        assert_unified(pipeline, drawn_table(2 * seed), drawn_table(2 * seed + 1), runs=2, output_mode="append")
