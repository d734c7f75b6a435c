"""Do two engines give the same answer? Compared by what fits in a line, since each ran in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

__all__ = ["MODULUS", "Answer", "answer_of", "weight_of"]

MODULUS = 1_000_003  # a prime, so that what is multiplied below stays far from 2**63


def weight_of(place: int) -> int:
    """By what the value in a column is multiplied: another number for each."""
    return 7_919 * (2 * place + 1)


@dataclass(frozen=True)
class Answer:
    """How many rows, a sum over them in which every exact value counts with its row, and of floats the sums."""

    rows: int
    checksum: int
    floats: Mapping[str, float] = field(default_factory=dict)

    def agrees(self, other: Answer) -> bool:
        """Whether both are the same answer; floats to nine digits, since engines add them up in their own order."""
        return (
            (self.rows, self.checksum, self.floats.keys()) == (other.rows, other.checksum, other.floats.keys())
        ) and all(math.isclose(value, other.floats[name], rel_tol=1e-9) for name, value in self.floats.items())


def answer_of(rows: pl.LazyFrame) -> Answer:
    """What rows, in any order, come down to; integers of any width are the same, and times in milliseconds."""
    schema = rows.collect_schema()
    floats = [name for name, dtype in schema.items() if dtype.is_float()]
    exact = [
        _number(name, dtype) % MODULUS * weight_of(place)
        for place, (name, dtype) in enumerate(sorted(schema.items()))
        if name not in floats
    ]
    each = pl.sum_horizontal(exact) % MODULUS  # of a row; squared, so that no value can change its row unseen
    found = rows.select(
        pl.len().alias("__rows"),
        (each * each % MODULUS).sum().alias("__checksum"),
        *((pl.col(name) * (each % 97 + 1)).sum() for name in floats),
    ).collect(engine="streaming")
    values = found.row(0, named=True)
    return Answer(int(values["__rows"]), int(values["__checksum"]), {name: float(values[name]) for name in floats})


def _number(name: str, dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.String:
        return (pl.col(name).hash(0) % MODULUS).cast(pl.Int64)
    if dtype.is_temporal():
        return pl.col(name).dt.epoch("ms")
    return pl.col(name).cast(pl.Int64)
