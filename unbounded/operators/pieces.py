"""Which values does each session have? Those of a batch are kept by piece, and a session knows its pieces.

A piece is a session of one batch. Sessions that become one put their pieces together, and no value is touched; they are
read when an answer asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from unbounded.operators import Tables
from unbounded.partials.columns import Values
from unbounded.plan.sessions import ARRIVAL, with_arrival
from unbounded.state import MultimapSpec

__all__ = ["PIECES", "PieceValues"]

PIECES: Final = "__pieces__"
"""The column with the list of a session's pieces."""

_PIECE, _ROW, _VALUE, _COUNT = "__piece__", "__row__", "__value__", "__count__"


class PieceValues:
    """The multimap of one `Values`, from pieces to values; in order of arrival, where all of them are asked for."""

    def __init__(self, values: Values) -> None:
        self._values, self._name = values, f"values{values.name}"
        beside = {ARRIVAL: values.every, _COUNT: "counts" in values.uses}
        self._beside = [name for name, asked in beside.items() if asked]
        kept = pl.Schema({_VALUE: values.dtype, **dict.fromkeys(self._beside, pl.Int64())})
        self.tables: Mapping[str, MultimapSpec] = {
            self._name: MultimapSpec(pl.Schema({_PIECE: pl.Int64()}), kept, expiry=None)
        }

    @property
    def values(self) -> Values:
        """Which values they are."""
        return self._values

    @property
    def _lists(self) -> dict[str, str]:
        """The columns of lists that `wanted` makes, and what their elements are."""
        return {self._values.name: _VALUE} | {name + self._values.name: name for name in self._beside}

    def wanted(self) -> list[pl.Expr]:
        """Of the rows of a piece, the lists to take in."""
        value = self._values.value
        if self._values.every:
            value, arrival = with_arrival(value)
            came = arrival.is_not_null()
            lists = [value.filter(came), arrival.filter(came)]
        elif self._beside:
            lists = [value.unique(maintain_order=True), value.unique_counts().cast(pl.Int64)]
        else:
            lists = [value.unique()]
        return [one.implode().alias(name) for one, name in zip(lists, self._lists, strict=True)]

    def take(self, pieces: pl.DataFrame, tables: Tables) -> pl.DataFrame:
        """Take in the values of pieces, which get their number in place of lists."""
        name, lists = self._values.name, self._lists
        each = pieces.select(
            pl.col(PIECES).list.first().alias(_PIECE), *(pl.col(old).alias(new) for old, new in lists.items())
        )
        tables.multimaps[self._name].append(each.filter(pl.col(_VALUE).list.len() > 0).explode(*lists.values()))
        return pieces.drop(list(lists)[1:]).with_columns(pl.col(name).list.len().cast(pl.Int64))

    def listed(self, sessions: pl.DataFrame, tables: Tables) -> pl.DataFrame:
        """The sessions with their values in columns of lists, and their number."""
        asked = sessions.select(pl.col(PIECES).alias(_PIECE)).with_row_index(_ROW).explode(_PIECE)
        found = tables.multimaps[self._name].probe(asked)
        if self._values.every:
            found = found.sort(ARRIVAL)
        elif self._beside:
            found = found.group_by(_ROW, _VALUE, maintain_order=True).agg(pl.col(_COUNT).sum())
        else:
            found = found.unique([_ROW, _VALUE], maintain_order=True)
        name = self._values.name
        columns = {"values": pl.col(_VALUE), "counts": pl.struct(value=_VALUE, count=_COUNT)}
        uses = [columns[use].alias(self._values.listed(use)) for use in sorted(self._values.uses)]
        lists = found.group_by(_ROW).agg(pl.len().cast(pl.Int64).alias(name), *uses)
        if lists.height < sessions.height:  # sessions without values; not by a join, which would leave room for nulls
            none = [pl.lit(0, pl.Int64).alias(name), *(pl.lit([], of).alias(n) for n, of in self._values.lists.items())]
            rest = sessions.with_row_index(_ROW).join(lists, on=_ROW, how="anti")
            lists = pl.concat([lists, rest.select(_ROW, *none)])
        return sessions.drop(name).hstack(lists.sort(_ROW).drop(_ROW).get_columns())

    def forget(self, sessions: pl.DataFrame, tables: Tables) -> None:
        """Forget the values of sessions that have ended."""
        tables.multimaps[self._name].remove(sessions.select(pl.col(PIECES).explode().alias(_PIECE)))

    def explain(self) -> str:
        """What one row stands for."""
        return f"one row per session and {self._values}"
