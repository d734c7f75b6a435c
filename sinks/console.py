"""How does the answer come onto the screen?"""

from __future__ import annotations

import sys
from typing import TextIO

import polars as pl

from unbounded.connectors import Guarantee, Identity, Mode, Receipt
from unbounded.errors import PlanError, UnsupportedOperationError

__all__ = ["ConsoleSink"]


class ConsoleSink:
    """Prints each batch: a line that counts its rows, and a table of the first `rows` of them.

    `stream` defaults to `sys.stdout` as it is when a batch is printed.
    """

    def __init__(self, rows: int = 20, stream: TextIO | None = None) -> None:
        if rows < 1:
            raise PlanError(f"ConsoleSink(rows={rows}) would print no row. Print 1 row or more")
        self._rows, self._stream = rows, stream

    @property
    def modes(self) -> frozenset[Mode]:
        return frozenset({"append", "update", "complete"})

    @property
    def guarantee(self) -> Guarantee:
        return "none"

    @property
    def keeps_table(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return "console"

    def open(self, query: Identity, schema: pl.Schema, key: tuple[str, ...], mode: Mode) -> None:
        """Nothing to prepare."""

    def written(self, batch: int) -> Receipt | None:
        return None

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        lines = [f"-- batch {batch}: {rows.height} row{'' if rows.height == 1 else 's'}"]
        if rows.height:
            with pl.Config(tbl_rows=self._rows, tbl_cols=-1, tbl_hide_dataframe_shape=True):
                lines.append(str(rows.head(self._rows)))
        # One write, so that lines of another query do not come between.
        (self._stream or sys.stdout).write("\n".join(lines) + "\n")
        (self._stream or sys.stdout).flush()

    def read(self) -> pl.LazyFrame:
        raise UnsupportedOperationError(
            "read() of a console sink",
            because="what was printed is not kept",
            instead="a memory or file sink",
        )

    def close(self) -> None:
        """The stream belongs to the caller."""
