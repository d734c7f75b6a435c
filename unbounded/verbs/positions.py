"""Which rows, by their place in the stream or in the answer?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, Self

import polars as pl
from polars._typing import IntoExpr

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import expand, passes
from unbounded.plan import Aggregate, Concat, InOrder, Keep, Node, Positioned, Step, Unique, Watermark, Whole, walk
from unbounded.plan.lineage import clocks

__all__ = ["Positional"]


class Positional:
    """The verbs of `pl.LazyFrame` that look at the order of rows, or tell equal rows apart.

    Rows of a stream have the order in which its batches were planned: by batch, then input by input, file by file and
    row by row. What depends on it is counted over the whole life of the query, restarts included.
    """

    _plan: Node

    def _around(self, node: Node) -> Self:
        """The frame of a bigger plan."""
        raise NotImplementedError

    # From the beginning: final at once ------------------------------------------------------------
    def head(self, n: int = 5) -> Self:
        """The first `n` rows of the stream, or in complete mode of the answer so far."""
        return self.slice(0, n)

    limit = head

    def first(self) -> Self:
        """The first row of the stream."""
        return self.slice(0, 1)

    def slice(self, offset: int, length: int | None = None) -> Self:
        """The rows from `offset` on, at most `length`. A negative `offset` counts from the end: complete mode only."""
        if length is not None and length < 0:
            raise PlanError(f"slice({offset}, {length}): a length cannot be negative")
        options = {"offset": offset, "length": length}
        if offset < 0:
            return self._around(Whole(self._plan, "slice", options=options))
        return self._around(Positioned(self._plan, "slice", options=options))

    def gather_every(self, n: int, offset: int = 0) -> Self:
        """Every `n`-th row of the stream, from `offset` on."""
        if n < 1 or offset < 0:
            raise PlanError(f"gather_every({n}, {offset}): n must be positive, and offset cannot be negative")
        return self._around(Positioned(self._plan, "gather_every", options={"n": n, "offset": offset}))

    def with_row_index(self, name: str = "index", offset: int = 0) -> Self:
        """Number the rows of the stream in the first column; PlanError in the batch that passes 2**32 - 1 rows."""
        if offset < 0:
            raise PlanError(f"with_row_index(offset={offset}): an index cannot be negative")
        return self._around(Positioned(self._plan, "with_row_index", options={"name": name, "offset": offset}))

    # Whole answers: complete mode -----------------------------------------------------------------
    def tail(self, n: int = 5) -> Self:
        """The last `n` rows that came, anew in every batch of a query in complete mode."""
        return self._around(Keep(self._plan, "tail", options={"n": n}))

    def last(self) -> Self:
        """The last row that came; see `tail`."""
        return self.tail(1)

    def top_k(self, k: int, *, by: IntoExpr | Iterable[IntoExpr], reverse: bool | Sequence[bool] = False) -> Self:
        """The `k` rows that are largest by row-wise expressions, in no order, anew in every batch in complete mode."""
        return self._keep("top_k", k, by, reverse)

    def bottom_k(self, k: int, *, by: IntoExpr | Iterable[IntoExpr], reverse: bool | Sequence[bool] = False) -> Self:
        """The `k` rows that are smallest; see `top_k`."""
        return self._keep("bottom_k", k, by, reverse)

    def _keep(self, verb: str, k: int, by: Any, reverse: bool | Sequence[bool]) -> Self:
        found = list(expand(self._plan.schema, [by], {}, unnamed=True))
        return self._around(Keep(self._plan, verb, options={"k": k, "by": found, "reverse": reverse}))

    def sort(
        self,
        by: IntoExpr | Iterable[IntoExpr],
        *more_by: IntoExpr,
        descending: bool | Sequence[bool] = False,
        nulls_last: bool | Sequence[bool] = False,
        maintain_order: bool = False,
        multithreaded: bool = True,
    ) -> Self:
        """Sort the answer above an aggregate, in complete mode."""
        options = {"descending": descending, "nulls_last": nulls_last, "maintain_order": maintain_order}
        found = list(expand(self._plan.schema, [by, *more_by], {}, unnamed=True))
        return self._around(Whole(self._plan, "sort", options={"by": found, **options}))

    def reverse(self) -> Self:
        """Turn the order of the answer above an aggregate round, in complete mode."""
        return self._around(Whole(self._plan, "reverse"))

    # Equal rows -----------------------------------------------------------------------------------
    def unique(
        self,
        subset: IntoExpr | Collection[IntoExpr] | None = None,
        *,
        keep: Literal["first", "last", "any", "none"] = "any",
        maintain_order: bool = False,
    ) -> Self:
        """One row per value of the columns `subset` (by default of all).

        "first" and "any" emit a row when its value comes first, for good. "last" replaces it with each later one: it is
        a `group_by(subset)` of the last values, for update and complete mode. Every value is remembered until a
        watermark reaches the time in `subset`, and for ever where there is none. Rows behind a watermark are late.
        """
        names = self._names("unique", subset)
        if keep == "none":
            raise UnsupportedOperationError(
                'unique(keep="none")',
                because="a row that is the only one of its kind may get a twin in any later batch",
                instead=f"group_by({', '.join(map(repr, names))}).agg(pl.all().first(), n=pl.len())"
                ".filter(pl.col('n') == 1) in update mode",
            )
        if keep not in ("first", "last", "any"):
            raise PlanError(f'unique(keep={keep!r}) is not known. Write "first", "last" or "any"')
        schema = self._plan.schema
        others = [name for name in schema if name not in names]
        if keep != "last" or not others:
            return self._around(Unique(self._plan, names, first=keep == "first" or maintain_order))
        lasts = Aggregate(self._plan, tuple(map(pl.col, names)), tuple(pl.col(name).last() for name in others))
        return self._around(Step(lasts, "select", tuple(pl.col(name) for name in schema)))

    def unique_within_watermark(self, subset: IntoExpr | Collection[IntoExpr] | None = None) -> Self:
        """The first row to arrive of each value of `subset`, remembered for the delay; `ub.unique_within_watermark`."""
        names = self._names("unique_within_watermark", subset)
        marks = [node.delay for node in walk(self._plan) if isinstance(node, Watermark)]
        if not clocks(self._plan):
            columns = [name for name, dtype in self._plan.schema.items() if dtype.is_temporal()]
            time = next(iter(columns), "time")
            raise PlanError(
                f"unique_within_watermark({', '.join(map(repr, names))}) remembers a value for a watermark's delay, "
                f"and no column of the frame has a watermark. Declare one before, .pipe(ub.with_watermark, {time!r}, "
                '"10m"), and keep the column; or write unique(...), which remembers for ever'
            )
        return self._around(Unique(self._plan, names, first=True, within=max(marks)))

    def _names(self, verb: str, subset: IntoExpr | Collection[IntoExpr] | None) -> tuple[str, ...]:
        """The columns that a subset names, all of them by default."""
        found = expand(self._plan.schema, [pl.all() if subset is None else subset], {})
        names = tuple(name for one in found if (name := passes(one)) is not None)
        if len(names) < len(found) or not names:
            raise PlanError(
                f"{verb}(subset={subset!r}): write the names of columns; compute an expression in with_columns first"
            )
        return names

    def merge_sorted(self, other: Self, key: str | Sequence[str], *, maintain_order: bool = False) -> Self:
        """The rows of two streams in the order of `key`, whose first column is event time with a watermark in both.

        A row waits until the watermark reaches its time, so the inputs need not be sorted; rows behind it are late, and
        rows without a time are left out and counted.
        """
        keys = (key,) if isinstance(key, str) else tuple(key)
        if not isinstance(other, type(self)):
            raise UnsupportedOperationError(
                "merge_sorted() of a stream and a bounded frame",
                because="a bounded frame has no watermark that says when a row may come out",
                instead="ub.concat([stream, bounded]), whose rows come in any order",
            )
        both = Concat((self._plan, other._plan), "vertical")
        if keys[0] not in clocks(both):
            raise PlanError(
                f"merge_sorted({keys[0]!r}): rows come out in order once no earlier one can come, and {keys[0]!r} has "
                f'no watermark in both frames. Write .pipe(ub.with_watermark, {keys[0]!r}, "10m") before it, or '
                "ub.concat where order does not matter"
            )
        return self._around(InOrder(both, keys))
