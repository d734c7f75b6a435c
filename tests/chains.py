"""Which chains of operators are there? Each link takes rows of the same columns and gives rows of them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal, TypeAlias

import polars as pl

import unbounded as ub

__all__ = ["SCHEMA", "Chain", "drawn_chain", "drawn_table"]

SCHEMA: dict[str, Any] = {"k": pl.String, "f": pl.Float64, "n": pl.Int64, "t": pl.Datetime("us")}
"""A key, a key of floats, a value, and event time: what goes into every link, and comes out of it."""

START = datetime(2026, 3, 1)
Frame: TypeAlias = Any  # of either kind

_VALUES: dict[str, pl.Expr] = {
    "rows": pl.len().cast(pl.Int64),
    "sum": pl.col("n").sum(),
    "most": pl.col("n").max(),
    "spread": pl.col("n").max() - pl.col("n").min(),
    "values": pl.col("n").n_unique().cast(pl.Int64),
    "median": pl.col("n").median().floor().cast(pl.Int64),
}
_KEYS: dict[str, pl.Expr] = {"k": pl.col("k").max(), "f": pl.col("f").min()}
_RIGHT = {name: pl.col(f"{name}_right") for name in SCHEMA}
k, f, n, t = map(pl.col, SCHEMA)


def _bounded(frame: Frame) -> bool:
    return isinstance(frame, pl.LazyFrame)


def _timed(frame: Frame) -> Frame:
    return frame.filter(t.is_not_null())


def _with_keys(by: tuple[str, ...], value: str) -> list[pl.Expr]:
    """What an aggregate makes of the columns that it does not group by."""
    return [*(expr for name, expr in _KEYS.items() if name not in by), _VALUES[value].alias("n")]


# ------------------------------------------------------------------------------------------- links
@dataclass(frozen=True)
class Windows:
    """Windows of event time; `time` is what the next link takes for it."""

    every: str
    period: str
    closed: Any
    by: tuple[str, ...]
    value: str
    time: Literal["left", "right", "lower", "upper", "last"]

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        if _bounded(frame):  # in which a time may be null, and rows come in any order behind an operator
            frame = _timed(frame).sort("t")
        windows = frame.group_by_dynamic(
            "t",
            every=self.every,
            period=self.period,
            closed=self.closed,
            label="right" if self.time == "right" else "left",
            include_boundaries=True,
            group_by=self.by,
        ).agg(_with_keys(self.by, self.value))
        time = {
            "lower": pl.col("_lower_boundary"),
            "upper": pl.col("_upper_boundary"),
            "last": ub.window_time(),
        }.get(self.time, t)
        return windows.select("k", "f", "n", time.alias("t"))


@dataclass(frozen=True)
class Groups:
    """Groups by the time itself, or by what it is cut to."""

    every: str | None
    by: tuple[str, ...]
    value: str

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        time = t if self.every is None else t.dt.truncate(self.every)
        return _timed(frame).group_by(time, *self.by).agg(_with_keys(self.by, self.value)).select(*SCHEMA)


@dataclass(frozen=True)
class Sessions:
    """Sessions of one gap for all, or of a gap per row; they tell event time by their end."""

    gap: str | None
    by: tuple[str, ...]
    value: str

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        gap = pl.duration(seconds=n * 40) if self.gap is None else self.gap
        groups = ub.group_by_session(frame, "t", gap=gap, include_boundaries=True, group_by=self.by)
        sessions = groups.agg(_with_keys(self.by, self.value))
        return sessions.select("k", "f", "n", pl.col("_upper_boundary").alias("t"))


@dataclass(frozen=True)
class Distinct:
    """The first of equal rows. What stands beside these columns is one value, for which row comes first is chance."""

    by: tuple[str, ...]
    within: bool

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        if self.within:
            rows = ub.unique_within_watermark(frame, list(self.by))
        else:
            rows = frame.unique(list(self.by), keep="first")
        other = {"k": pl.lit("one"), "f": pl.lit(1.0), "n": pl.lit(1, pl.Int64)}
        return rows.with_columns(**{name: expr for name, expr in other.items() if name not in self.by})


@dataclass(frozen=True)
class Sorted:
    """In the order of event time, merged with the stream beside or with itself."""

    itself: bool

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        both = [_timed(one) for one in (frame, frame if self.itself else beside)]
        if _bounded(frame):
            both = [one.sort("t") for one in both]
        return both[0].merge_sorted(both[1], key="t")


@dataclass(frozen=True)
class Joined:
    """Joined with the stream beside, or with itself; `time` is whose event time goes on."""

    how: Literal["inner", "left", "right", "full", "semi", "anti"]
    kind: Literal["near", "near on floats", "before", "at one time", "in one window", "by columns"]
    itself: bool
    theirs: bool

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        other = frame if self.itself else beside
        their_k, their_f, their_t = (_RIGHT[name] for name in "kft")
        near = their_t.is_between(t - pl.duration(minutes=2), t + pl.duration(minutes=4))
        match self.kind:
            case "near":
                asked = [k == their_k, near]
            case "near on floats":
                asked = [f == their_f, near, n.is_null() | (n > 1)]
            case "before":
                asked = [k.eq_missing(their_k), their_t < t, their_t >= t - pl.duration(seconds=90)]
            case "at one time":
                asked = [k == their_k, t == their_t]
            case "in one window":
                asked = [k.eq_missing(their_k), t.dt.truncate("3m") == their_t.dt.truncate("3m")]
            case "by columns":
                return self._by_columns(frame, other)
        joined = frame.ub.join_where(other, *asked, how=self.how)
        if self.how in ("semi", "anti"):
            return joined
        theirs = self.theirs or self.how == "right"
        rows = joined.select(
            (their_k if theirs else k).alias("k"),
            (their_f if theirs else f).alias("f"),
            (n.fill_null(0) + _RIGHT["n"].fill_null(0)).alias("n"),
            (their_t if theirs else t).alias("t"),
        )
        return _timed(rows)

    def _by_columns(self, frame: Frame, other: Frame) -> Frame:
        joined = frame.join(other, on=["k", "t"], how=self.how, coalesce=True if self.how == "full" else None)
        if self.how in ("semi", "anti"):
            return joined
        return joined.select("k", f=_RIGHT["f"] if self.theirs else f, n=n.fill_null(0) + _RIGHT["n"], t="t")


@dataclass(frozen=True)
class Rolled:
    """What came within some time of each row."""

    period: str
    offset: str | None
    by: tuple[str, ...]
    value: str

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        frame = _timed(frame)
        if _bounded(frame):
            frame = frame.sort("t")
        rows = frame.rolling("t", period=self.period, offset=self.offset, group_by=self.by or None)
        return rows.agg(_with_keys(self.by, self.value)).select(*SCHEMA)


@dataclass(frozen=True)
class Nearest:
    """With how far the nearest row beside is, or of its own. Which one of a time that is, where they come out of an
    operator, would be chance."""

    strategy: Literal["backward", "forward", "nearest"]
    by: tuple[str, ...]
    tolerance: str | None
    exact: bool
    itself: bool

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        other = frame if self.itself else beside
        if _bounded(frame):
            frame, other = frame.sort("t"), other.sort("t")
        found = frame.join_asof(
            other,
            on="t",
            by=self.by or None,
            strategy=self.strategy,
            tolerance=self.tolerance,
            allow_exact_matches=self.exact,
            coalesce=False,
            check_sortedness=False,
        )
        away = (_RIGHT["t"] - t).dt.total_seconds()
        return found.select("k", "f", (n.fill_null(0) + away.fill_null(-1)).alias("n"), "t")


@dataclass(frozen=True)
class Together:
    """Behind the stream beside, or in two parts of its own rows."""

    itself: bool

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        if self.itself:
            wanted = n.is_null() | (n < 3)
            return ub.concat([frame.filter(wanted), frame.filter(~wanted)])
        return ub.concat([frame, beside])


@dataclass(frozen=True)
class RowWise:
    """What each row decides alone."""

    step: Literal["filter", "time filter", "rename", "lookup", "anti", "compute"]

    def __call__(self, frame: Frame, beside: Frame) -> Frame:
        match self.step:
            case "filter":
                return frame.filter(n.is_null() | (n != 2))
            case "time filter":
                return frame.filter(t.is_null() | (t.dt.second() != 30))
            case "rename":
                return frame.rename({"t": "time", "k": "key"}).select("f", "n", k="key", t="time").select(*SCHEMA)
            case "lookup":
                return frame.join(_NAMES, on="k", how="left").drop("name")
            case "anti":
                return frame.join(_NAMES, on="k", how="anti", nulls_equal=True)
        return frame.with_columns((n * 2 - 1).alias("n"))


_NAMES = pl.LazyFrame({"k": ["a", "z"], "name": ["Ann", "Zoe"]})

Link: TypeAlias = Windows | Groups | Sessions | Distinct | Sorted | Joined | Rolled | Nearest | Together | RowWise


@dataclass(frozen=True)
class Chain:
    """Links behind one another, over a stream with a watermark and another one beside it."""

    delay: str
    first: Literal["one", "two", "sequential", "sequential apart"]
    """Whether the first link takes the first feed, both in any order, or one after the other; `apart` have a watermark
    each, which goes on from one to the other."""
    links: tuple[Link, ...]
    besides: tuple[Link, ...]
    """What becomes of the second feed before the first meets it."""

    def __call__(self, one: Frame, other: Frame) -> Frame:
        match self.first:
            case "sequential":
                frame = ub.concat_sequential(one, other).pipe(ub.with_watermark, "t", self.delay)
                beside = frame
            case "sequential apart":
                one, beside = (each.pipe(ub.with_watermark, "t", self.delay) for each in (one, other))
                frame = ub.concat_sequential(one, beside)
            case "two":
                one, beside = (each.pipe(ub.with_watermark, "t", self.delay) for each in (one, other))
                frame = ub.concat([one, beside])
            case _:
                frame, beside = (each.pipe(ub.with_watermark, "t", self.delay) for each in (one, other))
        for link in self.besides:
            beside = link(beside, frame)
        for link in self.links:
            frame = link(frame, beside)
        return frame


# ------------------------------------------------------------------------------------------- drawn
def drawn_chain(chance: Random) -> Chain:
    """One to three operators behind one another, with row-wise steps between some."""
    links: list[Link] = []
    for _ in range(chance.choice((1, 2, 2, 3, 3))):
        links += [_between(chance)] if chance.random() < 0.25 else []
        looks_ahead = any(isinstance(link, Nearest) for link in links)  # when it knows is its own affair
        links.append(chance.choice(_KEEPING if looks_ahead else _OPERATORS)(chance))
    return Chain(
        delay=chance.choice(("0s", "1m", "3m")),
        first=chance.choice(("one", "one", "two", "sequential", "sequential apart")),
        links=tuple(links),
        besides=(chance.choice((_windows, _groups, _sessions, _distinct))(chance),) if chance.random() < 0.25 else (),
    )


def drawn_table(chance: Random) -> pl.DataFrame:
    """Few keys and times, so that many meet, and some times are exactly that of a watermark."""
    ticks = chance.choice(((0,), (0, 0, 1, -1, 500), (0, 1000, -1000)))
    rows = [
        {
            "k": chance.choice(("a", "a", "b", None)),
            "f": chance.choice((0.0, -0.0, 1.5, float("nan"), None)),
            "n": chance.choice((1, 2, 3, 5, -1, None)),
            "t": None if chance.random() < 0.1 else _drawn_time(chance, ticks),
        }
        for _ in range(chance.choice((0, 1, 4, 12, 12, 24, 24)))
    ]
    return pl.DataFrame(rows, SCHEMA)


def _drawn_time(chance: Random, ticks: Sequence[int]) -> datetime:
    return START + timedelta(seconds=30 * chance.randint(0, 24), microseconds=chance.choice(ticks))


_BY = ((), ("k",), ("k",), ("f",), ("k", "f"))
_EVERY = ("2m", "3m", "5m")


def _value(chance: Random) -> str:
    return chance.choice(list(_VALUES))


def _windows(chance: Random) -> Link:
    every = chance.choice(_EVERY)
    tumbling = chance.random() < 0.5
    return Windows(
        every=every,
        period=every if tumbling else chance.choice(("2m", "5m", "1m")),
        closed="left" if tumbling else chance.choice(("left", "right", "both", "none")),
        by=chance.choice(_BY),
        value=_value(chance),
        time=chance.choice(("left", "right", "lower", "upper", "last")),
    )


def _groups(chance: Random) -> Link:
    return Groups(chance.choice((None, *_EVERY)), chance.choice(_BY), _value(chance))


def _sessions(chance: Random) -> Link:
    return Sessions(chance.choice((None, "1m", "3m")), chance.choice(_BY), _value(chance))


def _distinct(chance: Random) -> Link:
    return Distinct(chance.choice((("t",), ("k", "t"), ("f", "t"), ("k", "f", "n", "t"))), within=False)


def _distinct_within(chance: Random) -> Link:
    return Distinct(chance.choice((("k",), ("f",), ("k", "f"), ("n",), ("k", "t"))), within=True)


def _sorted(chance: Random) -> Link:
    return Sorted(itself=chance.random() < 0.3)


def _joined(chance: Random) -> Link:
    return Joined(
        how=chance.choice(("inner", "left", "right", "full", "semi", "anti")),
        kind=chance.choice(("near", "near", "near on floats", "before", "at one time", "in one window", "by columns")),
        itself=chance.random() < 0.3,
        theirs=chance.random() < 0.5,
    )


def _rolled(chance: Random) -> Link:
    offset = chance.choice((None, None, "0s", "-30s", "-5m"))
    return Rolled(chance.choice(("1m", "3m")), offset, chance.choice(_BY), _value(chance))


def _nearest(chance: Random) -> Link:
    strategies: tuple[Literal["backward", "forward", "nearest"], ...] = ("backward", "forward", "nearest")
    strategy = chance.choice(strategies)
    tolerances = ("0s", "1m", "3m", None if strategy == "backward" else "10m")  # without one, no time goes on
    return Nearest(
        strategy=strategy,
        by=chance.choice(_BY),
        tolerance=chance.choice(tolerances),
        exact=chance.random() < 0.7,
        itself=chance.random() < 0.3,
    )


def _between(chance: Random) -> Link:
    if chance.random() < 0.3:
        return Together(itself=chance.random() < 0.5)
    return RowWise(chance.choice(("filter", "time filter", "rename", "lookup", "anti", "compute")))


_KEEPING: tuple[Callable[[Random], Link], ...] = (
    *(_windows, _windows, _groups, _sessions, _sessions),
    *(_distinct, _sorted, _rolled, _nearest, _joined, _joined, _joined),
)
_OPERATORS = (*_KEEPING, _distinct_within)
