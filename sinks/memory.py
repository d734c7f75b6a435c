"""How does the answer stay in memory, to be looked at while the query runs?"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import polars as pl

from unbounded.connectors import Guarantee, Identity, Mode, Receipt
from unbounded.errors import SinkOwnedError

__all__ = ["MemorySink"]

_REMOVED = "__removed__"
_RECEIPTS = 100  # as many batches back as the rest of the engine can go


class MemorySink:
    """Rows in memory, for tests and for looking around; gone with the process.

    Append keeps all rows, update one row per key in the order of their last change, complete the newest table.
    Within one process it is exact: a restarted query finds what it wrote. `read()` gives a frame that does not
    change any more.
    """

    def __init__(self) -> None:
        # Chunks shrink geometrically, as the digits of a binary counter: a row is moved log2(batches) times, so a
        # batch costs what the batch costs however large the table is.
        self._chunks: tuple[pl.DataFrame, ...] = ()
        self._query: Identity | None = None
        self._schema = pl.Schema()
        self._key: tuple[str, ...] = ()
        self._mode: Mode = "append"
        self._receipts: dict[int, Receipt] = {}
        self._write = threading.Lock()  # chunks and receipts change together, also for a reader in another thread

    @property
    def modes(self) -> frozenset[Mode]:
        return frozenset({"append", "update", "complete"})

    @property
    def guarantee(self) -> Guarantee:
        return "none"

    @property
    def keeps_table(self) -> bool:
        return True

    @property
    def description(self) -> str:
        return "memory"

    def open(self, query: Identity, schema: pl.Schema, key: tuple[str, ...], mode: Mode) -> None:
        """SinkOwnedError if another query, or another form of this one, wrote to this object."""
        before = (self._query.id, self._schema, self._key, self._mode) if self._query and self._receipts else None
        if before is not None and before != (query.id, schema, key, mode):
            assert self._query is not None
            raise SinkOwnedError(
                f"this MemorySink holds rows of query {self._query.id} in {self._mode} mode with {self._schema}, and "
                f"query {query.id} would write in {mode} mode with {schema}. Give each query a new MemorySink()"
            )
        self._query, self._schema, self._key, self._mode = query, schema, key, mode

    def written(self, batch: int) -> Receipt | None:
        return self._receipts.get(batch)

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        with self._write:
            if self._mode == "complete":
                self._chunks = (rows,)
            elif self._mode == "update" and self._key:
                marked = rows.with_columns(pl.lit(False).alias(_REMOVED))
                gone = removed.select(self._key).with_columns(pl.lit(True).alias(_REMOVED))
                self._chunks = self._merged(pl.concat([gone, marked], how="diagonal").select(marked.columns))
            else:
                self._chunks = self._merged(rows)
            self._receipts[batch] = receipt
            self._receipts.pop(batch - _RECEIPTS, None)

    def _merged(self, newest: pl.DataFrame) -> tuple[pl.DataFrame, ...]:
        if newest.is_empty():
            return self._chunks
        chunks = list(self._chunks)
        while chunks and chunks[-1].height <= 2 * newest.height:
            newest = self._newest_per_key([chunks.pop(), newest])
        if not chunks and _REMOVED in newest.columns:
            newest = newest.remove(pl.col(_REMOVED))  # nothing is left below that a mark could remove
        return (*chunks, newest)

    def _newest_per_key(self, chunks: Sequence[pl.DataFrame]) -> pl.DataFrame:
        rows = pl.concat(chunks, rechunk=True)
        if _REMOVED not in rows.columns:
            return rows
        return rows.unique(self._key, keep="last", maintain_order=True)

    def read(self) -> pl.LazyFrame:
        with self._write:
            chunks = self._chunks
        if not chunks:
            return pl.LazyFrame(schema=self._schema)
        rows = self._newest_per_key(chunks)
        return rows.remove(pl.col(_REMOVED)).drop(_REMOVED).lazy() if _REMOVED in rows.columns else rows.lazy()

    def close(self) -> None:
        """The rows stay, to be read."""
