"""Which rows came so lately that looking through them costs less than it costs to let them be found by their key?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import polars as pl

from unbounded.state import MultimapSpec
from unbounded.state.memory.expiry import NEVER
from unbounded.state.memory.slots import Slots, where

__all__ = ["Arrived", "Young"]

_OLD = 8  # looks at rows that together cost half of what it costs to index them


_Bounds: TypeAlias = tuple[Any, Any] | None


@dataclass
class Arrived:
    """Rows that were appended together, slots in front. Mutable: they leave, are looked at and become durable."""

    rows: pl.DataFrame
    soonest: int
    bounds: tuple[_Bounds, ...]
    """Of each ordered key column the least and the greatest value; None where a key is null."""
    version: int | None = None
    """Of the commit that wrote them; None before it."""
    looks: int = 0

    @property
    def slots(self) -> Slots:
        """The slot of each row."""
        return self.rows[:, 0].cast(pl.Int64).to_numpy()


class Young:
    """Rows in the frames in which they came, the oldest first: kept, expired and written for next to nothing.

    Of a join on windows most rows go with the batch behind theirs. To index one and to forget it again takes as long as
    to look at it twenty times, so rows are handed over to be indexed when they were looked at a few times. Columns that
    are ordered say first which rows may be meant at all: mostly few, for what comes together is about one time.
    """

    def __init__(self, spec: MultimapSpec) -> None:
        self._spec, self._key = spec, spec.key.names()
        self._ordered = [name for name, dtype in spec.key.items() if _ordered(dtype)]
        self._came: list[Arrived] = []

    @property
    def takes(self) -> bool:
        """Whether rows expire, are in no order of their own, and have keys that Polars compares as state does."""
        plain = (pl.String, pl.Binary, pl.Boolean)
        keys = self._spec.key.dtypes()
        exact = all(dtype.is_integer() or dtype.is_temporal() or dtype in plain for dtype in keys)
        return exact and self._spec.expiry is not None and not self._spec.order

    def __len__(self) -> int:
        return sum(each.rows.height for each in self._came)

    def __iter__(self) -> Iterator[Arrived]:
        return iter(self._came)

    @property
    def nbytes(self) -> int:
        """An estimate of the bytes in memory."""
        return sum(int(each.rows.estimated_size()) for each in self._came)

    def add(self, rows: pl.DataFrame) -> None:
        """Keep rows, with their slots in front."""
        self._came.append(Arrived(rows, self._soonest(rows), tuple(map(_bounds, self._physical(rows)))))

    def older(self) -> list[Arrived]:
        """Let go of those that were looked at often enough; asking is a look, too."""
        for each in self._came:
            each.looks += 1
        count = sum(each.looks > _OLD for each in self._came)  # the first ones: whoever came earlier was looked at more
        gone, self._came = self._came[:count], self._came[count:]
        return gone

    def all(self) -> list[Arrived]:
        """Let go of all of them."""
        gone, self._came = self._came, []
        return gone

    def settle(self, version: int) -> None:
        """All rows are durable, the new ones in this version."""
        for each in self._came:
            each.version = version if each.version is None else each.version

    @property
    def since(self) -> int | None:
        """The version that wrote the oldest rows; None if there are none, or none was written."""
        return self._came[0].version if self._came else None

    def near(self, keys: pl.DataFrame) -> list[pl.DataFrame]:
        """All rows of these keys, and others whose keys lie between them."""
        bounds = [(least, most) for each in self._physical(keys) for least, most in [(each.min(), each.max())]]
        frames = [each.rows for each in self._came if all(map(_meet, each.bounds, bounds))]
        if not frames or not bounds:
            return frames
        between = (
            pl.col(name).to_physical().is_between(*pair).fill_null(value=True)
            for name, pair in zip(self._ordered, bounds, strict=True)
        )
        return [pl.concat(frames).filter(*between)]

    def _physical(self, rows: pl.DataFrame) -> Iterator[pl.Series]:
        for name in self._ordered:
            yield rows[name].cast(pl.Int64) if self._spec.key[name].is_temporal() else rows[name]

    def expire(self, watermark: int) -> list[pl.DataFrame]:
        """Let go of what is due."""
        gone = []
        for each in self._came:
            if each.soonest <= watermark:
                due, stays = self._split(each.rows, watermark)
                gone.append(due)
                self._keep(each, stays)
        self._came = [each for each in self._came if each.rows.height]
        return gone

    def _split(self, rows: pl.DataFrame, watermark: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows that are due, and the others."""
        expiries = self._expiries(rows)
        due = expiries <= watermark
        due = due.fill_null(value=False) if due.has_nulls() else due
        if due.all():
            return rows, rows.clear()
        # As they came from a source in order, a slice will do. What stays is copied, or it would keep all in memory.
        first = rows.head(int(due.sum())) if expiries.is_sorted(nulls_last=True) else where(rows, due)
        return first, where(rows, ~due)

    def remove(self, keys: pl.DataFrame) -> list[Arrived]:
        """Let go of the rows of these keys."""
        gone = []
        for each in self._came:
            rows = each.rows.join(keys, on=self._key, how="semi", nulls_equal=True)
            if rows.height:
                gone.append(replace(each, rows=rows))
                stays = each.rows.join(keys, on=self._key, how="anti", nulls_equal=True, maintain_order="left")
                self._keep(each, stays)
        self._came = [each for each in self._came if each.rows.height]
        return gone

    def _keep(self, each: Arrived, rows: pl.DataFrame) -> None:
        each.rows, each.soonest = rows, self._soonest(rows)

    def _soonest(self, rows: pl.DataFrame) -> int:
        soonest = self._expiries(rows).min()
        return soonest if isinstance(soonest, int) else NEVER

    def _expiries(self, rows: pl.DataFrame) -> pl.Series:
        assert self._spec.expiry is not None, "what never expires is indexed"
        return rows[self._spec.expiry]


def _ordered(dtype: pl.DataType) -> bool:
    """Whether bounds tell where values lie. Of UInt128 they do not: Polars takes no such number as a literal."""
    return dtype.is_temporal() or (dtype.is_integer() and dtype != pl.UInt128)


def _bounds(values: pl.Series) -> _Bounds:
    return None if values.has_nulls() else (values.min(), values.max())


def _meet(one: _Bounds, other: tuple[Any, Any]) -> bool:
    """Whether a value can lie in both; of keys that are all null, only a null."""
    if one is None:
        return True
    return None not in other and bool(one[0] <= other[1] and other[0] <= one[1])
