"""Which values does each group have? They are kept beside the groups, and enumerated when an answer asks for them.

    known     (group, value) -> how often     distinct values: tells a new one from one that was there
    listed    group -> value, value, ...      values in order of arrival, so that those of one group can be asked for

A batch writes its own values only, and an answer reads those of its own groups only; a list in a column of the group
would be written anew with each batch.
"""

from __future__ import annotations

import polars as pl

from unbounded.operators import Tables
from unbounded.partials.columns import Values
from unbounded.state import MultimapSpec, TableSpec

__all__ = ["ValueTables"]

_ROW, _VALUE, _COUNT, _ALL = "__row__", "__value__", "__count__", "__all__"
_EVERYTHING = pl.lit(value=True).alias(_ALL)


class ValueTables:
    """The tables and multimaps of one `Values`. Groups have the columns `key`, and `expiry` where they close."""

    def __init__(self, values: Values, key: pl.Schema, expiry: str | None) -> None:
        self._values, self._key, self._expiry = values, key, [expiry] if expiry else []
        self._counts = "counts" in values.uses
        shared = pl.Schema(dict.fromkeys(self._expiry, pl.Int64()))
        latest = tuple(pl.col(name).max() for name in self._expiry)
        self.tables: dict[str, TableSpec | MultimapSpec] = {}
        self._known, self._listed = f"values{values.name}", f"lists{values.name}"
        if not values.every:
            counted = {_COUNT: pl.Int64()} if self._counts else {}
            self.tables[self._known] = TableSpec(
                key=pl.Schema({**key, _VALUE: values.dtype}),
                values=pl.Schema({**counted, **shared}),
                merge=(*(pl.col(name).sum() for name in counted), *latest),
                expiry=expiry,
            )
        if values.uses:
            group = key or pl.Schema({_ALL: pl.Boolean()})  # without keys there is one group
            self.tables[self._listed] = MultimapSpec(group, pl.Schema({_VALUE: values.dtype, **shared}), expiry)

    @property
    def values(self) -> Values:
        """Which values they are."""
        return self._values

    def wanted(self) -> list[pl.Expr]:
        """Of the rows of a group, the list of values to take in: one or two columns of lists in `agg`."""
        value, name = self._values.value, self._values.name
        if self._values.every:
            return [value.implode().alias(name)]
        if not self._values.uses:
            return [value.unique().implode().alias(name)]
        listed = [value.unique(maintain_order=True).implode().alias(name)]
        return (
            [*listed, value.unique_counts().cast(pl.Int64).implode().alias(_COUNT + name)] if self._counts else listed
        )

    def take(self, rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
        """Take in the values of partial rows, which get the number of new ones in place of lists."""
        name = self._values.name
        rows = rows.with_row_index(_ROW)
        lists = {name: _VALUE} | ({_COUNT + name: _COUNT} if self._counts else {})
        one_each = (
            rows.select(*self._key, *(pl.col(old).alias(new) for old, new in lists.items()), *self._expiry, _ROW)
            .filter(pl.col(_VALUE).list.len() > 0)
            .explode(*lists.values())
        )
        fresh = self._fresh(one_each, tables)
        if self._values.uses and fresh.height:
            tables.multimaps[self._listed].append(fresh if self._key else fresh.with_columns(_EVERYTHING))
        numbers = fresh.group_by(_ROW).agg(pl.len().cast(pl.Int64).alias(name))
        counted = rows.drop(*lists).join(numbers, on=_ROW, how="left", maintain_order="left")
        return counted.drop(_ROW).with_columns(pl.col(name).fill_null(0))

    def _fresh(self, one_each: pl.DataFrame, tables: Tables) -> pl.DataFrame:
        if self._values.every:
            return one_each
        known = tables[self._known]
        if not self._counts:
            return known.insert(one_each)
        # No value comes twice for a group, so each row has its own answer; a total that is its own count is new.
        totals = known.merge(one_each)
        return one_each.filter(totals[_COUNT] == one_each[_COUNT])

    def listed(self, groups: pl.DataFrame, tables: Tables) -> pl.DataFrame:
        """The groups with their values in columns of lists."""
        if not self._values.uses:
            return groups
        asked = groups.with_columns(_EVERYTHING).select(*(self._key or [_ALL])).with_row_index(_ROW)
        found = tables.multimaps[self._listed].probe(asked).drop(self._expiry)
        if self._counts:
            found = tables[self._known].lookup(found)
        columns = {"values": pl.col(_VALUE), "counts": pl.struct(value=_VALUE, count=_COUNT)}
        lists = found.group_by(_ROW, maintain_order=True).agg(
            columns[use].alias(self._values.listed(use)) for use in sorted(self._values.uses)
        )
        if lists.height < groups.height:  # groups without values; not by a join, which would leave room for nulls
            empty = (
                groups.with_row_index(_ROW)
                .filter(pl.col(self._values.name) == 0)
                .select(_ROW, *(pl.lit([], dtype).alias(name) for name, dtype in self._values.lists.items()))
            )
            lists = pl.concat([lists, empty]).sort(_ROW)
        return groups.hstack(lists.drop(_ROW).get_columns())

    def expire(self, watermark: int, tables: Tables) -> None:
        """Forget the values of groups that have closed."""
        for name in self.tables:
            (tables[name] if name in tables else tables.multimaps[name]).expire(watermark)

    def explain(self) -> str:
        """What one row stands for."""
        return f"one row per group and {self._values}"
