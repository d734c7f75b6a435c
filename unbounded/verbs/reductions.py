"""What is a whole stream in one row?"""

from __future__ import annotations

from typing import Protocol, TypeVar

import polars as pl
from polars._typing import QuantileMethod

__all__ = ["Reducible"]

FrameT = TypeVar("FrameT", covariant=True)


class _Selects(Protocol[FrameT]):
    def select(self, *exprs: pl.Expr) -> FrameT: ...


class Reducible:
    """The verbs of `pl.LazyFrame` that aggregate every column: each is a `select` of that aggregate."""

    def count(self: _Selects[FrameT]) -> FrameT:
        """The number of values per column, nulls not counted: one row."""
        return self.select(pl.all().count())

    def null_count(self: _Selects[FrameT]) -> FrameT:
        """The number of nulls per column: one row."""
        return self.select(pl.all().null_count())

    def sum(self: _Selects[FrameT]) -> FrameT:
        """The sum of every column: one row."""
        return self.select(pl.all().sum())

    def mean(self: _Selects[FrameT]) -> FrameT:
        """The mean of every column: one row."""
        return self.select(pl.all().mean())

    def min(self: _Selects[FrameT]) -> FrameT:
        """The least value of every column: one row."""
        return self.select(pl.all().min())

    def max(self: _Selects[FrameT]) -> FrameT:
        """The greatest value of every column: one row."""
        return self.select(pl.all().max())

    def median(self: _Selects[FrameT]) -> FrameT:
        """The median of every column: one row."""
        return self.select(pl.all().median())

    def quantile(
        self: _Selects[FrameT], quantile: float | pl.Expr, interpolation: QuantileMethod = "nearest"
    ) -> FrameT:
        """A quantile of every column: one row."""
        return self.select(pl.all().quantile(quantile, interpolation))

    def std(self: _Selects[FrameT], ddof: int = 1) -> FrameT:
        """The standard deviation of every column: one row."""
        return self.select(pl.all().std(ddof))

    def var(self: _Selects[FrameT], ddof: int = 1) -> FrameT:
        """The variance of every column: one row."""
        return self.select(pl.all().var(ddof))
