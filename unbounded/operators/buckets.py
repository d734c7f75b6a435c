"""Under which times must partners be looked up, so that a key with many rows is not read whole?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from unbounded.operators import at_most_milliseconds
from unbounded.plan.pairs import Side, StreamJoin

__all__ = ["BUCKET", "Buckets", "buckets_of"]

BUCKET: Final = "__bucket__"
"""The column of a row's own bucket, which stands beside the keys."""

_NEAR: Final = ("__first_near__", "__last_near__")


@dataclass(frozen=True)
class Buckets:
    """Times in buckets as long as partners can be apart: those of a row are in two buckets at most.

    A partner of a row is at most `before` milliseconds earlier and at most `behind` later, for the left; for the right
    it is the other way round.
    """

    times: Mapping[Side, str]
    before: int
    behind: int

    @property
    def length(self) -> int:
        """Of a bucket, in milliseconds."""
        return self.before + self.behind + 1

    def columns(self, side: Side, dtype: pl.DataType) -> list[pl.Expr]:
        """A row's own bucket, and the first and the last where partners are."""
        time = at_most_milliseconds(pl.col(self.times[side]), dtype).cast(pl.Int64)
        before, behind = (self.before, self.behind) if side == "left" else (self.behind, self.before)
        bounds = {BUCKET: time, _NEAR[0]: time - before, _NEAR[1]: time + behind}
        return [(bound // self.length).alias(name) for name, bound in bounds.items()]

    @property
    def near(self) -> tuple[str, str]:
        """The columns that a new row has beside its own bucket."""
        return _NEAR

    @staticmethod
    def spread(rows: pl.LazyFrame) -> pl.LazyFrame:
        """Each new row once for every bucket where partners are, with that bucket in place of its own."""
        first, last = (pl.col(name) for name in _NEAR)
        again = rows.filter(first < last).with_columns(last.alias(BUCKET))
        return pl.concat([rows.with_columns(first.alias(BUCKET)), again])


def buckets_of(node: StreamJoin) -> Buckets | None:
    """The narrowest buckets that the conditions of a join allow; None if they leave open how far times are apart."""
    ours, theirs = node.columns("left"), node.columns("right")
    found = []
    for later in node.withins:
        for earlier in node.withins:
            meets = (later.later, later.earlier) == (earlier.earlier, earlier.later)
            if meets and later.earlier in ours and later.later in theirs:
                before, behind = (-(-one.nanoseconds // 1_000_000) for one in (earlier, later))
                found.append(Buckets({"left": later.earlier, "right": later.later}, before, behind))
    return min((one for one in found if one.length > 0), key=lambda one: one.length, default=None)
