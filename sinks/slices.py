"""In which slice of a table does a key lie? In the same one on every machine, in every process and version.

A slice is an interval of 64-bit hashes. Polars' own hash may differ between two of its versions, and files are
older than versions, so this one is made of arithmetic alone. A hash says where a key is looked for; it never decides.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["Hashes", "hashes", "slices"]

Hashes: TypeAlias = npt.NDArray[np.uint64]

_STEP = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_BACK = pow(_STEP, -1, 2**64)
_NULL = np.uint64(0xD1B54A32D192ED03)


def hashes(keys: pl.DataFrame) -> Hashes:
    """64 bits for each row; equal for equal keys: null is a key, NaN equals NaN, -0.0 equals 0.0.

    All lists and arrays have one hash, so a table keyed by them alone has one slice, however large it grows.
    """
    found = np.zeros(keys.height, np.uint64)
    for column in keys:
        found = _mixed(found * np.uint64(_STEP) + _of(column))
    return found


def slices(sorted_hashes: Hashes, most: int) -> list[tuple[int, int]]:
    """Cuts rows that are sorted by hash into `[begin, end)` of about `most` of them; equal hashes stay together."""
    height = len(sorted_hashes)
    parts = -(-height // most)
    wanted = [height * part // parts for part in range(1, parts)]
    starts = np.searchsorted(sorted_hashes, sorted_hashes[wanted], side="left")
    cuts = sorted({0, height, *starts.tolist()})
    return list(pairwise(cuts))


def _of(column: pl.Series) -> Hashes:
    if isinstance(column.dtype, pl.Struct):
        return hashes(column.struct.unnest())
    if column.dtype.is_nested() or isinstance(column.dtype, pl.Null | pl.Object):
        return np.zeros(len(column), np.uint64)
    if isinstance(column.dtype, pl.Categorical | pl.Enum):  # whose numbers mean something else in another process
        bits = _of_text(column.cast(pl.String))
    else:
        bits = _of_plain(column.to_physical())
    return np.where(column.is_null().to_numpy(), _NULL, bits)


def _of_plain(column: pl.Series) -> Hashes:
    """The hash of numbers and text; anything where it is null."""
    if column.dtype.is_float():
        values = column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0  # -0.0 becomes 0.0
        return np.where(np.isnan(values), np.nan, values).view(np.uint64)
    if column.dtype == pl.UInt64:
        return column.fill_null(0).to_numpy()
    if column.dtype in (pl.String, pl.Binary, pl.Int128, pl.UInt128):
        return _of_text(column if column.dtype == pl.Binary else column.cast(pl.String))
    return column.cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64)


def _of_text(column: pl.Series) -> Hashes:
    """A polynomial of the bytes of each text: of all bytes at once, then moved to where its text begins."""
    column = column.fill_null("") if column.dtype == pl.String else column.fill_null(b"")
    arrow = column.cast(pl.Binary).to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, content = arrow.buffers()
    ends = np.frombuffer(offsets, np.int64)[arrow.offset : arrow.offset + len(column) + 1]
    letters = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    letters = letters[int(ends[0]) : int(ends[-1])].astype(np.uint64) + np.uint64(1)
    ends = ends - ends[0]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(letters * _powers(_STEP, len(letters)))])
    found: Hashes = (sums[ends[1:]] - sums[ends[:-1]]) * _powers(_BACK, len(letters) + 1)[ends[:-1]]
    return found


def _powers(base: int, count: int) -> Hashes:
    """1, base, base squared, ..., modulo 2**64."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)


def _mixed(value: Hashes) -> Hashes:
    """Every bit of the answer depends on every bit of the value (splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
