"""One duration, three spellings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import unbounded as ub
from unbounded.durations import (
    is_positive,
    longest_milliseconds,
    milliseconds,
    most_windows,
    polars_duration,
    shortest,
    times,
)


@pytest.mark.parametrize(
    ("spelt", "length"),
    [
        ("5s", 5_000),
        ("5 seconds", 5_000),
        (timedelta(seconds=5), 5_000),
        ("1h30m", 5_400_000),
        ("1 hour 30 minutes", 5_400_000),
        ("90 min", 5_400_000),
        ("0s", 0),
        ("1us", 1),  # rounded up: a delay is never shorter than asked
        ("2w", 1_209_600_000),
    ],
)
def test_polars_sparks_and_pythons_spelling_mean_the_same(spelt: str | timedelta, length: int) -> None:
    assert milliseconds(spelt, "delay") == length


@pytest.mark.parametrize("told", ["0s", "1ms", "1s", "59s", "1m", "1h30m", "1d", "1d1h1m1s1ms", "400d"])
def test_a_length_is_told_as_people_write_it(told: str) -> None:
    assert shortest(milliseconds(told, "delay")) == told


@pytest.mark.parametrize("spelt", ["", "5", "5 parsecs", "m5", "1h-5m", None, 5, "1mo", "1y", "-1s", timedelta(-1)])
def test_what_is_no_fixed_length_is_refused_by_name(spelt: Any) -> None:
    with pytest.raises(ub.PlanError, match="delay"):
        milliseconds(spelt, "delay")


@pytest.mark.parametrize("spelt", ["106752d", "-106752d", "293y", "9000000000000000000000 s", timedelta.max])
def test_what_is_longer_than_polars_counts_is_refused_by_name(spelt: str | timedelta) -> None:
    with pytest.raises(ub.PlanError, match=r"the gap is .*292 years.*\"106751d\" or less"):
        polars_duration(spelt, "the gap")


def test_windows_keep_the_calendar() -> None:
    assert polars_duration("1 month", "every") == "1mo"
    assert polars_duration("-90 minutes", "offset") == "-90m"
    assert times("1mo", -3) == "-3mo"
    assert times("1h30m", 2) == "2h60m"
    assert longest_milliseconds("1mo") >= 31 * 86_400_000
    assert is_positive("1us")
    assert not is_positive("0s")


@pytest.mark.parametrize(("every", "period", "most"), [("5m", "10m", 3), ("100us", "1ms", 11), ("5m", "3m", 2)])
def test_an_instant_is_in_so_many_windows_at_most(every: str, period: str, most: int) -> None:
    assert most_windows(every, period) == most
