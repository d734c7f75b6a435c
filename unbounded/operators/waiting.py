"""Which rows does the watermark reach now, that waited until no earlier one could come?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from unbounded.operators import Batch
from unbounded.state import Table, TableSpec

__all__ = ["DUE", "ROW", "Waiting"]

DUE: Final = "__expiry__"
"""When a row is reached, in epoch ms on the query's own watermark."""
ROW: Final = "__row__"
"""Which row this is in the order of arrival."""

_ROWS_OF_A_BATCH: Final = 2**32  # more than a frame can have; leaves room in an Int64 for two billion batches


class Waiting:
    """Rows of one schema that wait in a table, with `DUE` beside."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self.spec = TableSpec(
            key=pl.Schema({ROW: pl.Int64()}),
            values=pl.Schema({**schema, DUE: pl.Int64()}),
            merge=tuple(pl.col(name).last() for name in (*schema, DUE)),
            expiry=DUE,
        )

    def due(self, rows: pl.DataFrame, table: Table, batch: Batch) -> pl.DataFrame:
        """Those of the rows that wait and of new ones that are reached, in no order, with `ROW`; the others wait."""
        first = pl.lit(batch.id * _ROWS_OF_A_BATCH, pl.Int64)
        rows = rows.select((pl.int_range(pl.len(), dtype=pl.Int64) + first).alias(ROW), *self.spec.values)
        if batch.watermark is None:
            table.insert(rows)
            return rows.clear()
        reached = rows[DUE] <= batch.watermark
        if not reached.all():  # what is reached at once need not be kept
            table.insert(rows.filter(~reached))
        return pl.concat([table.expire(batch.watermark), rows.filter(reached)])
