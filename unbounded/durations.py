"""How long is "5s", "5 seconds" or a timedelta? Fixed lengths for delays, calendar lengths for windows."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from unbounded.errors import PlanError

__all__ = [
    "divides_the_hour",
    "fixed_nanoseconds",
    "has_hours",
    "is_calendar",
    "is_positive",
    "longest_milliseconds",
    "milliseconds",
    "most_windows",
    "polars_duration",
    "shortest",
    "times",
]

_MICROSECONDS = {
    "ns": 0.001,
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_WORDS = {
    "nanosecond": "ns",
    "microsecond": "us",
    "millisecond": "ms",
    "second": "s",
    "sec": "s",
    "minute": "m",
    "min": "m",
    "hour": "h",
    "day": "d",
    "week": "w",
    "month": "mo",
    "quarter": "q",
    "year": "y",
}
# The longest a calendar unit can be; a day has 25 hours where the clocks go back.
_LONGEST_DAYS = {"mo": 31, "q": 92, "y": 366}
_SHORTEST_DAYS = {"mo": 28, "q": 90, "y": 365}
_MOST = 106_751 * _MICROSECONDS["d"]  # whole days of which an Int64 holds the nanoseconds, as Polars counts
_CLOCK_CHANGE = 7_200_000  # ms by which a span of days can differ from 24 h each, in any zone
_PART = re.compile(r"(\d+)\s*(ns|us|µs|ms|mo|s|m|h|d|w|q|y)")
_SPARK = re.compile(r"(-?\d+)\s*([a-z]+?)s?(?=\s|$)")


def _parts(duration: str, what: str) -> list[tuple[int, str]]:
    found = _read(duration, what)
    length = sum(
        abs(n) * (_LONGEST_DAYS[unit] * _MICROSECONDS["d"] if unit in _LONGEST_DAYS else _MICROSECONDS[unit])
        for n, unit in found
    )
    if length > _MOST:
        raise PlanError(
            f'{what} is {duration!r}, and lengths are counted in nanoseconds, up to 292 years. Write "106751d" or less'
        )
    return found


def _read(duration: str, what: str) -> list[tuple[int, str]]:
    text = duration.strip().lower()
    sign = -1 if text.startswith("-") else 1
    found = _PART.findall(text)
    if found and "".join(f"{n}{unit}" for n, unit in found) == text.lstrip("+-").replace(" ", ""):
        return [(sign * int(n), unit) for n, unit in found]
    words = _SPARK.findall(text)
    if words and all(unit in _WORDS for _, unit in words) and _SPARK.sub("", text).strip() == "":
        return [(int(n), _WORDS[unit]) for n, unit in words]
    raise PlanError(f'{what} is {duration!r}, which is no duration. Write "10m", "1h30m", "10 minutes" or a timedelta')


def milliseconds(duration: str | timedelta, what: str) -> int:
    """A fixed, non-negative length in milliseconds; `what` names the argument in errors.

    Accepts Polars' grammar ("1h30m"), Spark's ("90 minutes") and `timedelta`. Raises PlanError for
    anything else, for months, quarters and years (no fixed length) and for negative lengths.
    """
    if isinstance(duration, timedelta):
        total = duration / timedelta(microseconds=1)
    elif isinstance(duration, str):
        parts = _parts(duration, what)
        if any(unit in _LONGEST_DAYS for _, unit in parts):
            raise PlanError(f'{what} is {duration!r}, and months and years have no fixed length. Write days: "31d"')
        total = sum(n * _MICROSECONDS[unit] for n, unit in parts)
    else:
        raise PlanError(f'{what} is {duration!r}. Write "10m", "10 minutes" or a timedelta')
    if total < 0:
        shown = repr(f"-{shortest(int(-total // 1_000))}" if isinstance(duration, timedelta) else duration)
        raise PlanError(f'{what} is {shown}, and it cannot be negative. Write "0s" or more, such as "10m"')
    return -int(-total // 1_000)


def polars_duration(duration: str | timedelta, what: str) -> str:
    """A duration in Polars' grammar, calendar units allowed; "10 minutes" becomes "10m"."""
    if isinstance(duration, timedelta):
        duration = f"{duration // timedelta(microseconds=1)}us"
    if not isinstance(duration, str):
        raise PlanError(f'{what} is {duration!r}. Write "10m", "10 minutes" or a timedelta')
    parts = _parts(duration, what)
    sign = "-" if any(n < 0 for n, _ in parts) else ""
    if sign and any(n > 0 for n, _ in parts):
        raise PlanError(f"{what} is {duration!r}, which mixes signs. Write one sign for the whole")
    return sign + "".join(f"{abs(n)}{unit}" for n, unit in parts)


def is_calendar(duration: str) -> bool:
    """Whether a Polars duration depends on the calendar: days, weeks, months, quarters, years."""
    return any(unit in ("d", "w", *_LONGEST_DAYS) for _, unit in _parts(duration, "the duration"))


def fixed_nanoseconds(duration: str) -> int | None:
    """A Polars duration of either sign where days have 24 hours; None for months, quarters and years."""
    parts = _parts(duration, "the duration")
    if any(unit in _LONGEST_DAYS for _, unit in parts):
        return None
    return sum(n * round(1_000 * _MICROSECONDS[unit]) for n, unit in parts)


def times(duration: str, n: int) -> str:
    """A Polars duration n times, n of either sign; the calendar is respected ("1mo" times 3 is "3mo")."""
    parts = [(n * count, unit) for count, unit in _parts(duration, "the duration")]
    sign = "-" if any(count < 0 for count, _ in parts) else ""
    return sign + "".join(f"{abs(count)}{unit}" for count, unit in parts)


def longest_milliseconds(duration: str) -> int:
    """An upper bound of a Polars duration, for time that must not be forgotten too early."""
    return _total(duration, _LONGEST_DAYS) + (_CLOCK_CHANGE if is_calendar(duration) else 0)


def shortest(milliseconds: int) -> str:
    """So many milliseconds, which are not negative, as people write them: 5400000 is "1h30m", and 0 is "0s"."""
    found, left = "", milliseconds
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, int(_MICROSECONDS[unit]) // 1_000)
        found += f"{count}{unit}" if count else ""
    return found or "0s"


def is_positive(duration: str) -> bool:
    """Whether a Polars duration is above zero."""
    return _microseconds(duration, _SHORTEST_DAYS) > 0


def has_hours(duration: str) -> bool:
    """Whether a Polars duration has a part shorter than a day."""
    return any(unit not in ("d", "w", *_LONGEST_DAYS) for _, unit in _parts(duration, "the duration"))


def divides_the_hour(duration: str) -> bool:
    """Whether windows of a Polars duration tile every hour, so that a change of the clocks moves no bound."""
    return not is_calendar(duration) and 3_600_000_000 % _microseconds(duration, {}) == 0


def most_windows(every: str, period: str) -> int:
    """How many windows of `period` that start `every` so long can hold one instant, at most."""
    longest = _microseconds(period, _LONGEST_DAYS) + (_CLOCK_CHANGE * 1_000 if is_calendar(period) else 0)
    shortest = _microseconds(every, _SHORTEST_DAYS) - (_CLOCK_CHANGE * 1_000 if is_calendar(every) else 0)
    return math.ceil(longest / shortest) + 1  # one more where both bounds belong to a window


def _microseconds(duration: str, days: dict[str, int]) -> float:
    return sum(
        n * (days[unit] * _MICROSECONDS["d"] if unit in days else _MICROSECONDS[unit])
        for n, unit in _parts(duration, "the duration")
    )


def _total(duration: str, days: dict[str, int]) -> int:
    return math.ceil(_microseconds(duration, days) / 1_000)
