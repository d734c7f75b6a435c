"""How are approximate answers kept: distinct counts and quantiles, in sketches of a fixed size?

The sketches are those of Apache DataSketches, serialized into a Binary column. HyperLogLog with 4096 registers counts
distinct values with a standard error of 1.04 / sqrt(4096) = 1.6 %, in 4 KB a group at most. KLL finds quantiles; its
size follows from the error in rank that is asked for, which it keeps with 99 % confidence. Neither loses accuracy by
merging, however rows are cut.
"""

from __future__ import annotations

import json
import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import polars as pl

from unbounded.errors import CorruptRecordError, PlanError, UnsupportedOperationError
from unbounded.expressions.now import tells_time
from unbounded.partials.columns import Leaf, StateColumns
from unbounded.partials.single import Value, nulls

__all__ = ["SKETCHES", "merging", "opening"]


def _library() -> Any:
    try:
        import datasketches  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise PlanError(
            "approx_n_unique() and approx_quantile() keep sketches of the library datasketches, and it is not "
            "installed. Write pip install 'unbounded[sketches]', or n_unique() and quantile(), which keep every value"
        ) from error
    return datasketches


class _Kind(Protocol):
    """A kind of sketch, as bytes: without values it is merged like any other."""

    def of(self, lists: pl.Series) -> Iterable[bytes]:
        """A sketch for each list of values."""

    def merged(self, sketches: Iterable[bytes]) -> bytes: ...


def _column(leaf: Leaf, state: StateColumns, text: str, values: pl.Expr, kind: _Kind) -> pl.Expr:
    """The state column with a sketch of `values`."""
    if tells_time(leaf.whole):
        raise UnsupportedOperationError(
            f"{leaf.whole}",
            because="what a batch says of time cannot be put into an expression that makes a sketch",
            instead="compute a column with with_columns(...) first, then aggregate that column",
        )

    def made(lists: pl.Series) -> pl.Series:
        return pl.Series(map(_sealed, kind.of(lists)), dtype=pl.Binary)

    return state.column(f"{text} of {leaf.texts[0]}", _at_once(values, made), partial(_merge, kind))


def _at_once(values: pl.Expr, function: Callable[[pl.Series], pl.Series]) -> pl.Expr:
    """Called with the lists of all groups: for each of 10,000 groups alone, the calls would take 0.4 s."""
    return values.implode().map_batches(function, return_dtype=pl.Binary, is_elementwise=True)


def _merge(kind: _Kind, column: pl.Expr) -> pl.Expr:
    def merged(lists: pl.Series) -> pl.Series:
        several = (
            stored[0] if len(stored) == 1 else _sealed(kind.merged(map(_unsealed, stored)))
            for stored in lists.to_list()
        )
        return pl.Series(several, dtype=pl.Binary)

    return _at_once(column, merged)


def _sealed(sketch: bytes) -> bytes:
    return zlib.crc32(sketch).to_bytes(4) + sketch


def _unsealed(stored: bytes) -> bytes:
    """The sketch, if it is what was written: the library reads other bytes beyond their end, and the process dies."""
    seal, sketch = stored[:4], stored[4:]
    if zlib.crc32(sketch).to_bytes(4) != seal:
        raise CorruptRecordError(
            "a sketch of approx_n_unique() or approx_quantile() in the state is not what was written to it. Restore "
            "the checkpoint from a copy, or begin anew with ub.reset(...)"
        )
    return sketch


# ---------------------------------------------------------------------------------- distinct counts
class _Distinct:
    """HyperLogLog; what is counted are values whose hashes stay the same over restarts, versions and machines."""

    LG_K: Final = 12

    def __init__(self) -> None:
        self._of = _library()

    def of(self, lists: pl.Series) -> Iterator[bytes]:
        for values in lists.to_list():
            sketch = self._of.hll_sketch(self.LG_K, self._of.tgt_hll_type.HLL_8)
            update = sketch.update
            for value in values:  # distinct ones only: 100,000 integers take 7 ms, strings 60
                update(value)
            yield sketch.serialize_compact()

    def merged(self, sketches: Iterable[bytes]) -> bytes:
        union = self._of.hll_union(self.LG_K)
        for sketch in sketches:
            union.update(self._of.hll_sketch.deserialize(sketch))
        found: bytes = union.get_result(self._of.tgt_hll_type.HLL_8).serialize_compact()
        return found

    def number(self, sketches: pl.Series) -> pl.Series:
        """How many distinct values there are, for each sketch."""
        read = self._of.hll_sketch.deserialize
        return pl.Series([round(read(_unsealed(one)).get_estimate()) for one in sketches], dtype=pl.Int64)


def _approx_n_unique(leaf: Leaf, state: StateColumns) -> pl.Expr:
    kind = _Distinct()
    values = _hashed(leaf.inputs[0], leaf.of[0]).drop_nulls().unique()
    column = _column(leaf, state, f"HLL {kind.LG_K}", values, kind)
    number = state.opened(_NUMBER, column, kind.number, pl.Int64())
    # A null is a value too, and a sketch holds none.
    return (number + (nulls(leaf, state) > 0)).cast(leaf.dtype)


def _hashed(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """What the library hashes, one for each value: numbers as such, others as their text."""
    if dtype.is_temporal():
        return value.to_physical()
    if dtype == pl.UInt64:  # beyond 2**63 it would be a float
        return value.reinterpret(signed=True)
    if dtype.is_float():
        return value.cast(pl.Float64)
    if dtype == pl.Boolean or (dtype.is_integer() and dtype not in (pl.Int128, pl.UInt128)):
        return value.cast(pl.Int64)
    text = value.bin.encode("base64") if dtype == pl.Binary else value.cast(pl.String)
    return pl.lit("_") + text  # the library does not count an empty string


# ---------------------------------------------------------------------------------------- quantiles
class _Quantiles:
    """KLL over floats, NaN as the greatest."""

    MOST_K: Final = 65535  # what the library allows
    GREATEST: Final = 1.7976931348623157e308  # of all floats but infinity

    def __init__(self, k: int) -> None:
        self._of, self.k = _library().kll_doubles_sketch, k

    @classmethod
    def within(cls, error: float) -> _Quantiles:
        """With this error in rank."""
        of = _library().kll_doubles_sketch
        least = bisect_left(range(8, cls.MOST_K), -error, key=lambda k: -of.get_normalized_rank_error(k, False))
        return cls(8 + least)

    def ranked(self, value: pl.Expr) -> pl.Expr:
        """The library leaves out NaN; so infinity stands for it, and the greatest float for infinity."""
        return value.cast(pl.Float64).clip(upper_bound=self.GREATEST).fill_nan(float("inf")).drop_nulls()

    def of(self, lists: pl.Series) -> Iterator[bytes]:
        values, begin = lists.explode().to_numpy(writable=True), 0
        for many in lists.list.len():
            sketch = self._of(self.k)
            sketch.update(values[begin : begin + many])
            begin += many
            yield sketch.serialize()

    def merged(self, sketches: Iterable[bytes]) -> bytes:
        whole = self._of(self.k)
        for sketch in sketches:
            whole.merge(self._of.deserialize(sketch))
        found: bytes = whole.serialize()
        return found

    def at(self, ranks: Sequence[float], sketches: pl.Series) -> pl.Series:
        """The quantiles at these ranks, in a list for each sketch; nulls where there were no values."""
        read = (self._of.deserialize(_unsealed(one)) for one in sketches)
        found = [
            [None] * len(ranks)
            if one.is_empty()
            else one.get_quantiles([_nearest(rank, one.n) for rank in ranks], True)
            for one in read
        ]
        lists = pl.Series(found, dtype=pl.List(pl.Float64))
        nan = pl.element().replace(float("inf"), float("nan")).replace(self.GREATEST, float("inf"))
        return lists.list.eval(nan)


def _nearest(rank: float, many: int) -> float:
    """The middle of the share that the value nearest to a rank has of many, nearest as in `quantile`."""
    return (math.floor(rank * (many - 1) + 0.5) + 0.5) / many


def _approx_quantile(leaf: Leaf, state: StateColumns) -> pl.Expr:
    of, ranks, kind = leaf.of[0], leaf.options["at"], _Quantiles.within(leaf.options["error"])
    for because, instead in _reasons_against(leaf, kind):
        raise UnsupportedOperationError(f"{leaf.whole}", because=because, instead=instead)
    physical = leaf.inputs[0].to_physical() if of.is_temporal() else leaf.inputs[0]
    column = _column(leaf, state, f"KLL {kind.k}", kind.ranked(physical), kind)
    found = state.opened(
        f"{_AT}{json.dumps(list(ranks))}", column, lambda sketches: kind.at(ranks, sketches), pl.List(pl.Float64())
    )
    each = [_back(found.list.get(place), of) for place in range(len(ranks))]
    return pl.concat_list(each) if isinstance(leaf.dtype, pl.List) else each[0]


def _reasons_against(leaf: Leaf, kind: _Quantiles) -> Iterator[tuple[str, str]]:
    of = leaf.of[0]
    if leaf.options["method"] not in ("Auto", "KLL") or leaf.options["formal"]:
        yield (
            "the sketch that is kept has the same error, a measured one, at every rank",
            "method='kll', error_tightness='empirical', and a smaller error=",
        )
    if not (of.is_numeric() or of.is_temporal() or of == pl.Boolean):
        yield f"a sketch ranks numbers and times, not {of}", "a number that has the same order"
    if kind.k == kind.MOST_K:
        yield "no sketch is as exact as that", "error=0.0001, or quantile(), which is exact"


def _back(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A float in the dtype that it came from; beyond 2**53, an integer near the one that it was."""
    if dtype.is_temporal():
        return value.cast(pl.Int64).cast(dtype)
    if dtype in (pl.Int64, pl.UInt64):
        return value.clip(upper_bound=2.0**63 - 2**10 if dtype == pl.Int64 else 2.0**64 - 2**11).cast(dtype)
    return value.cast(dtype)


SKETCHES: Final[Mapping[str, Value]] = {"approx_n_unique": _approx_n_unique, "approx_quantile": _approx_quantile}

_NUMBER, _AT = "number", "at "


def opening(name: str) -> pl.Expr:
    """What reads a column of that name, as `StateColumns.opened` gives it, out of the column with the sketches."""
    column, _, text = name.partition(" ")
    read: Callable[[pl.Series], pl.Series] = _Distinct().number
    dtype: pl.DataType = pl.Int64()
    if text != _NUMBER:
        read = partial(_Quantiles.within(0.01).at, json.loads(text.removeprefix(_AT)))
        dtype = pl.List(pl.Float64())
    return pl.col(column).map_batches(read, return_dtype=dtype, is_elementwise=True).alias(name)


def merging(column: str, text: str) -> pl.Expr:
    """What merges the sketches in a column, of which the canonical text says what it holds."""
    kind, size, *_ = text.split(" ")
    return _merge(_Distinct() if kind == "HLL" else _Quantiles(int(size)), pl.col(column)).alias(column)
