"""How do several rows of one key become one? By the aggregates of its table, or by shorter forms that mean the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from unbounded.state.memory.slots import Slots, Values, frame_of

__all__ = ["Fold"]

_KEY, _NEW = "__key", "__new"
_NO_OPTIMISATION = pl.QueryOptFlags.none()  # one step has nothing to optimise; planning it would be 45 of 210 us

# What an aggregate of two rows is, for a numeric column: (stored, new) of one type to one value of that type.
_Pair = Callable[[pl.Expr, pl.Expr], pl.Expr]
_PAIRS: tuple[tuple[Callable[[pl.Expr], pl.Expr], _Pair], ...] = (
    (pl.Expr.sum, lambda stored, new: pl.sum_horizontal(stored, new)),
    (pl.Expr.min, lambda stored, new: pl.min_horizontal(stored, new)),
    (pl.Expr.max, lambda stored, new: pl.max_horizontal(stored, new)),
    (pl.Expr.first, lambda stored, new: stored),
    (pl.Expr.last, lambda stored, new: new),
)


class Fold:
    """The merge of a table: one aggregate per value column, over any number of rows of one key, in order."""

    def __init__(self, values: pl.Schema, merge: Sequence[pl.Expr]) -> None:
        self._values, self._merge = values, tuple(merge)
        pairs = [_pair(expr, name, values[name]) for expr, name in zip(merge, values, strict=False)]
        self._pairs = [pair for pair in pairs if pair is not None]

    def schema(self) -> pl.Schema:
        """What the aggregates make of the values; a table is only sound if it is the same."""
        return self._grouped(pl.DataFrame(schema={_KEY: pl.Int64, **self._values})).drop(_KEY).schema

    @property
    def has_pairs(self) -> bool:
        """Whether each aggregate has a form for two rows."""
        return len(self._pairs) == len(self._values)

    def pairs(self, stored: Sequence[Values], new: Sequence[pl.Series]) -> list[pl.Series]:
        """Each stored row with the new row beside it. 10,000 pairs of five columns: 0.3 ms, in groups 1.7."""
        left = frame_of(self._values.names(), stored)
        both = left.hstack([column.alias(column.name + _NEW) for column in new])
        return _run(both.lazy().select(self._pairs)).get_columns()

    def groups(
        self, known: Slots, stored: Sequence[Values], slots: Slots, new: Sequence[pl.Series]
    ) -> tuple[Slots, list[pl.Series]]:
        """Rows by slot, which may repeat: every slot once, in any order, and its value."""
        first = frame_of([_KEY, *self._values], [pl.Series(known), *stored])
        folded = self._grouped(first.vstack(pl.DataFrame([pl.Series(_KEY, slots), *new]))).get_columns()
        return folded[0].to_numpy().astype(np.int64, copy=False), folded[1:]

    def _grouped(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows of a group keep their order; the groups do not, which would cost a third more."""
        return _run(rows.lazy().group_by(_KEY).agg(self._merge))


def _run(frame: pl.LazyFrame) -> pl.DataFrame:
    """In memory, for the streaming engine costs 1 ms a call."""
    return frame.collect(engine="in-memory", optimizations=_NO_OPTIMISATION)


def _pair(aggregate: pl.Expr, name: str, dtype: pl.DataType) -> pl.Expr | None:
    """The form of an aggregate for two rows, or None if it has none here."""
    if not dtype.is_numeric() or dtype.is_decimal():
        return None
    bare = aggregate.meta.undo_aliases()
    for whole, pair in _PAIRS:
        if bare.meta.eq(whole(pl.col(name))):
            return pair(pl.col(name), pl.col(name + _NEW)).alias(name)
    return None
