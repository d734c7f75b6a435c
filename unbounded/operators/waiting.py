"""How do rows wait for the watermark, and keep the order in which they came?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from unbounded.operators import Batch
from unbounded.state import TableSpec

__all__ = ["DUE", "ROW", "numbered", "waiting_table"]

DUE: Final = "__expiry__"
"""The column that says when a row is reached, in epoch ms on the query's own watermark."""
ROW: Final = "__row__"
"""The column that says in which order rows came, over all batches."""


def waiting_table(schema: Mapping[str, pl.DataType]) -> TableSpec:
    """A table of rows with these columns, known by `ROW`, that go when the watermark has come to `DUE`."""
    values = {**schema, DUE: pl.Int64()}
    merge = tuple(pl.col(name).last() for name in values)
    return TableSpec(pl.Schema({ROW: pl.Int64()}), pl.Schema(values), merge, expiry=DUE)


def numbered(rows: pl.DataFrame, batch: Batch) -> pl.DataFrame:
    """Rows of a batch with `ROW`; a batch that runs again gives them the same numbers."""
    return rows.with_columns((pl.int_range(pl.len(), dtype=pl.Int64) + batch.first_row).alias(ROW))
