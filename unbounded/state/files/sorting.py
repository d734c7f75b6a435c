"""How do rows lie sorted by the hash of their key, in memory and in files that are mapped?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from unbounded.errors import CheckpointError, CorruptRecordError
from unbounded.state.layered.cold import NUMBER, Layout
from unbounded.state.layered.hot import keys_of, rows_at
from unbounded.state.memory.expiry import NEVER, Times
from unbounded.state.memory.index import Hashes, dtype_of, hash_rows
from unbounded.state.memory.slots import Slots
from unbounded.storage import digest

__all__ = ["END", "LIVE", "Content", "Form", "map_file", "probe"]

LIVE = "__live"
_HASH, _DUE, _AT = "__hash", "__due", "__at"
END = 1 << 64
"""Above every hash."""


# ------------------------------------------------------------------------------------------- form
def _mapped(dtype: pl.DataType) -> pl.DataType:
    """A type that Arrow can map and whose values hash alike in every process; the same for nearly all."""
    if dtype in (pl.Int128, pl.UInt128, pl.Categorical):
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(_mapped(dtype_of(dtype.inner)))
    if isinstance(dtype, pl.Array):
        return pl.Array(_mapped(dtype_of(dtype.inner)), dtype.size)
    if isinstance(dtype, pl.Struct):
        return pl.Struct({each.name: _mapped(dtype_of(each.dtype)) for each in dtype.fields})
    return dtype


class Form:
    """How the rows of one table are written: their types, and the hash that sorts them."""

    def __init__(self, layout: Layout, seed: int) -> None:
        self.layout, self.seed = layout, seed
        self.key = pl.Schema({name: _mapped(dtype) for name, dtype in layout.key.items()})
        self.schema = pl.Schema({name: _mapped(dtype) for name, dtype in layout.schema.items()})
        self.identity = pl.Schema({name: self.schema[name] for name in layout.identity})

    def write(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the layout, or keys or identities alone, as they are written."""
        return _cast(rows, [name for name in self.schema if name in rows.columns], self.schema)

    def read(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The inverse of `write`, for whole rows."""
        return _cast(rows, self.schema.names(), self.layout.schema)

    def hash(self, rows: pl.DataFrame) -> Hashes:
        return hash_rows(keys_of(rows, self.key).get_columns(), rows.height, self.seed)

    def content(self, rows: pl.DataFrame) -> Content:
        """Rows as written, with LIVE, each identity once, in any order."""
        hashes = self.hash(rows)
        order = self.order(hashes, rows)
        return Content(self, hashes[order], rows_at(rows, order))

    def order(self, hashes: Hashes, rows: pl.DataFrame) -> Slots:
        """The places of rows by hash, those of one key by number; what is equal stays in order."""
        if self.layout.many:
            return np.lexsort((rows[NUMBER].to_numpy(), hashes))
        return np.argsort(hashes, kind="stable")


def probe() -> str:
    """What Polars makes of a fixed sample; runs that were sorted when it was another have to be sorted again."""
    sample = pl.DataFrame(
        {
            "i": pl.Series([0, 1, -7, None, 2**62], dtype=pl.Int64),
            "b": pl.Series([0, 1, 255, None, 3], dtype=pl.UInt8),
            "f": [0.0, 1.5, float("nan"), None, float("inf")],
            "s": ["", "a", "a string that is longer than its view", None, "é"],
            "t": [True, False, None, True, True],
            "l": [[1, None], [], None, [2], [3, 4]],
        }
    ).with_columns(r=pl.struct("i", "s"), y=pl.col("s").cast(pl.Binary), d=pl.col("i").cast(pl.Datetime("us")))
    alone = [hash_rows([column], 5, 11).tobytes() for column in sample.get_columns()]
    return digest(*alone, hash_rows(sample.get_columns(), 5, 11).tobytes())


def _cast(rows: pl.DataFrame, names: list[str], schema: pl.Schema) -> pl.DataFrame:
    """These columns with the types of the schema; nothing is done if they are so already."""
    rows = rows if rows.columns == names else rows.select(names)
    wanted = {name: schema[name] for name, dtype in rows.schema.items() if dtype != schema[name]}
    return rows.cast(wanted) if wanted else rows  # type: ignore[arg-type]  # types by name


# ------------------------------------------------------------------------------------------- rows
@dataclass(eq=False)
class Content:
    """Rows by ascending hash, those of one key by number: in memory, or mapped."""

    form: Form
    hashes: Hashes
    rows: pl.DataFrame
    mapped_due: tuple[Times, npt.NDArray[np.uint32]] | None = None

    @cached_property
    def due(self) -> tuple[Times, npt.NDArray[np.uint32]]:
        """The times at which live rows are due, ascending, and the place of each; what is never due stands last."""
        if self.mapped_due is not None:
            return self.mapped_due
        live, expiry = self.rows[LIVE].to_numpy(), str(self.form.layout.expiry)
        times = np.where(live, self.rows[expiry].fill_null(NEVER).to_numpy(), NEVER)
        order = np.argsort(times, kind="stable")
        return times[order], order.astype(np.uint32)

    def matches(self, hashes: Hashes) -> tuple[Slots, Slots]:
        """Which of these ascending hashes are here, and where: pairs of places."""
        first = np.searchsorted(self.hashes, hashes, "left")
        hits = np.flatnonzero(self.hashes.take(np.minimum(first, len(self.hashes) - 1)) == hashes)
        if not len(hits):
            return hits, hits
        first = first[hits]
        count = np.searchsorted(self.hashes, hashes[hits], "right") - first
        before = np.cumsum(count) - count
        return np.repeat(hits, count), np.repeat(first - before, count) + np.arange(int(count.sum()))

    def between(self, since: int, until: int) -> Content:
        """The rows whose hash is in [since, until)."""
        low = 0 if since <= 0 else int(np.searchsorted(self.hashes, np.uint64(since), "left"))
        high = len(self.hashes) if until >= END else int(np.searchsorted(self.hashes, np.uint64(until), "left"))
        return Content(self.form, self.hashes[low:high], self.rows.slice(low, high - low))

    def encoded(self) -> bytes:
        """An Arrow IPC file with the rows in one batch, and what finds them."""
        found = [pl.Series(_HASH, self.hashes)]
        if self.form.layout.expiry is not None:
            times, at = self.due
            found += [pl.Series(_DUE, times), pl.Series(_AT, at)]
        stream = io.BytesIO()
        self.rows.hstack(found).write_ipc(stream, record_batch_size=self.rows.height)
        return stream.getvalue()

    def pieces(self, size: int) -> Iterator[Content]:
        """The same rows in pieces of about `size`; rows of one hash stay together."""
        cuts = np.arange(size, len(self.hashes), size)
        cuts = np.unique(np.searchsorted(self.hashes, self.hashes[cuts], "left"))
        ends = [0, *(int(cut) for cut in cuts if cut > 0), len(self.hashes)]
        for low, high in pairwise(ends):
            if high > low:
                yield Content(self.form, self.hashes[low:high], self.rows.slice(low, high - low))


def map_file(path: str, form: Form, expected: str | None) -> Content:
    """The rows of a file, without reading them; the digest of all its bytes is checked first, if one is expected."""
    try:
        source = pa.memory_map(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is needed to find state and is not there. Restore the file from a backup, or start with a new "
            "checkpoint"
        ) from None
    with source:
        if expected is not None and (found := digest(source.read_buffer())) != expected:
            raise CorruptRecordError(
                f"{path} has digest {found} where {expected} was written; it was damaged or replaced. Restore the "
                "file from a backup, or start with a new checkpoint"
            )
        frame = pl.DataFrame(pa.ipc.open_file(source).get_batch(0))
    times = (frame[_DUE].to_numpy(), frame[_AT].to_numpy()) if _DUE in frame.columns else None
    return Content(form, frame[_HASH].to_numpy(), frame.select(*form.schema, LIVE), times)
