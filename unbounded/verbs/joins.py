"""What is looked up for each row of a stream, in a bounded table or in another stream?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, Self, cast

import polars as pl

from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import passes
from unbounded.plan import Join, Lookup, Node, Static
from unbounded.plan.asof import asof_of, length_of
from unbounded.plan.pairing import paired_on, paired_where
from unbounded.plan.pairs import StreamJoin

__all__ = ["Joinable"]


_OF_POLARS: Final = ("inner", "left")
_WHETHER: Final = ("semi", "anti")
_ROW: Final = "__row__"


class _Whether(Lookup):
    """A semi or anti `join_where`, of which Polars has none: the rows that have a partner, or those that have none."""

    def _found(self, left: pl.LazyFrame, right: pl.LazyFrame) -> pl.LazyFrame:
        # Rows are read twice and must have the same numbers both times.
        rows = left.with_row_index(_ROW).cache()
        pairs = rows.join_where(right, *self.exprs, suffix=self.options["suffix"])
        return rows.join(pairs.select(_ROW).unique(), on=_ROW, how=self.options["how"]).drop(_ROW)


class Joinable:
    """The joins of `pl.LazyFrame` with a bounded frame or another stream on the right.

    Of bounded frames a DataFrame never changes; a LazyFrame is read once at each start. A row of the stream finds its
    partners there when it comes, so joins that keep or emit rows of the bounded side alone are refused.

    Rows of two streams find each other whichever comes first, so each is remembered while a partner may come: as long
    as the watermarks and the conditions on times leave that open, and for ever where they say nothing. Rows that are
    late are dropped and counted. A pair comes out with its second row; a row without a partner when none can come.
    """

    _plan: Node

    def _around(self, node: Node) -> Self:
        """The frame of a bigger plan."""
        raise NotImplementedError

    def join(
        self,
        other: Joinable | pl.LazyFrame | pl.DataFrame,
        on: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        how: str = "inner",
        *,
        left_on: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        right_on: str | pl.Expr | Sequence[str | pl.Expr] | None = None,
        suffix: str = "_right",
        validate: str = "m:m",
        nulls_equal: bool = False,
        coalesce: bool | None = None,
        maintain_order: Literal["none", "left"] | None = None,
        build_side: str = "auto",
        allow_parallel: bool = True,
        force_parallel: bool = False,
    ) -> Self:
        """Join with a bounded frame: inner, left, semi, anti or cross; with a stream: inner, left, right, full, semi or
        anti.

        NaN keys match, nulls only with `nulls_equal`. Rows of the stream keep their columns' names. How Polars
        parallelises and which side it builds is left to Polars.

        Two streams are remembered only as long as they need if event time with a watermark, or a window of it, is among
        the keys; see `join_where` for times that are near each other.
        """
        if isinstance(other, Joinable):
            asked = {"validate": validate != "m:m", "maintain_order": maintain_order not in (None, "none")}
            lefts, rights = _keys_of_streams(how, on, left_on, right_on, asked)
            options = {"suffix": suffix, "nulls_equal": nulls_equal, "coalesce": coalesce}
            return self._around(paired_on(self._plan, other._plan, how, lefts, rights, options))
        if how == "cross":
            if (on, left_on, right_on) != (None, None, None):
                raise PlanError("join(how='cross') pairs all rows with all rows, so it has no keys. Leave out on=")
            pairs = {"how": "cross", "suffix": suffix, "maintain_order": maintain_order or "left"}
            return self._around(Lookup(self._plan, _static(other), "join", (), pairs))
        if how not in ("inner", "left", "semi", "anti"):
            raise UnsupportedOperationError(
                f"join(how={how!r}) with a bounded frame",
                because="a row of the bounded side that found no match yet could find one in any later batch",
                instead='how="inner", "left", "semi", "anti" or "cross"',
            )
        lefts, rights = (
            (_names(on, "on"),) * 2 if on is not None else (_names(left_on, "left_on"), _names(right_on, "right_on"))
        )
        options = {"suffix": suffix, "validate": validate, "nulls_equal": nulls_equal, "coalesce": coalesce}
        options["maintain_order"] = maintain_order
        how_ = cast('Literal["inner", "left", "semi", "anti"]', how)
        return self._around(Join(self._plan, _static(other), how_, lefts, rights, options))

    def join_where(
        self,
        other: Joinable | pl.LazyFrame | pl.DataFrame,
        *predicates: pl.Expr | Iterable[pl.Expr],
        how: str = "inner",
        suffix: str = "_right",
    ) -> Self:
        """Join where all predicates hold: inner, left, semi or anti, with a stream also right or full.

        A name in a predicate is the column of the left if there is one; one of the right that the left has, too, is
        written with the suffix. Nothing is coalesced. Predicates of two streams are at least one equality of the two
        sides, and whatever else is to hold for two rows. A row is remembered as long as comparisons of event times
        leave open that a partner comes:

            clicks.join_where(views, pl.col("ad") == pl.col("ad_right"),
                              pl.col("time_right").is_between(pl.col("time") - pl.duration(minutes=10), pl.col("time")))
        """
        if isinstance(other, Joinable):
            return self._around(_with_key(paired_where(self._plan, other._plan, predicates, how, suffix)))
        if how not in (*_OF_POLARS, *_WHETHER):
            lonely = "a row of the bounded side that found no match yet could find one in any later batch"
            raise UnsupportedOperationError(
                f"join_where(how={how!r}) with a bounded frame",
                because=lonely if how in ("right", "full") else "there is no such kind",
                instead='how="inner", "left", "semi" or "anti"',
            )
        flat = tuple(one for item in predicates for one in ([item] if isinstance(item, pl.Expr) else item))
        kind = Lookup if how in _OF_POLARS else _Whether
        return self._around(kind(self._plan, _static(other), "join_where", flat, {"how": how, "suffix": suffix}))

    def join_asof(
        self,
        other: Joinable | pl.LazyFrame | pl.DataFrame,
        *,
        left_on: str | pl.Expr | None = None,
        right_on: str | pl.Expr | None = None,
        on: str | pl.Expr | None = None,
        by_left: str | Sequence[str] | None = None,
        by_right: str | Sequence[str] | None = None,
        by: str | Sequence[str] | None = None,
        strategy: Literal["backward", "forward", "nearest"] = "backward",
        suffix: str = "_right",
        tolerance: str | int | float | timedelta | None = None,
        allow_parallel: bool = True,
        force_parallel: bool = False,
        coalesce: bool = True,
        allow_exact_matches: bool = True,
        check_sortedness: bool = True,
    ) -> Self:
        """Join each row with the nearest row of a bounded frame or, in time, of a stream. Neither need be sorted.

        Of rows of a stream that have one time the order of arrival decides as in Polars: the last one is found, or
        with "forward" the first. Both streams need watermarks on these times; a row comes out once, when that of the
        query has reached it, and nothing nearer can come: a row that looks ahead waits until there is one, or no later
        than `tolerance` behind its time, which is a length of time. Nulls, in the time or in `by`, find nothing and do
        not wait. State: rows that wait, and the last row of the right per key, for `tolerance` if there is one.
        """
        left, right = (left_on, right_on) if on is None else (on, on)
        if isinstance(other, Joinable):
            asked = {"strategy": strategy, "suffix": suffix, "tolerance": tolerance, "coalesce": coalesce}
            asked["allow_exact_matches"] = allow_exact_matches
            bys = (by_left, by_right) if by is None else (by, by)
            return self._around(asof_of(self._plan, other._plan, (left, right), bys, asked))
        if not isinstance(left, str) or not isinstance(right, str):
            raise PlanError("join_asof(): write on=, or left_on= and right_on=, with the names of columns")
        options = {
            "left_on": left,
            "right_on": right,
            "by_left": by_left if by is None else by,
            "by_right": by_right if by is None else by,
            "strategy": strategy,
            "suffix": suffix,
            "tolerance": f"{length_of(tolerance)}ns" if isinstance(tolerance, str | timedelta) else tolerance,
            "coalesce": coalesce,
            "allow_exact_matches": allow_exact_matches,
            "check_sortedness": False,  # sorted here
        }
        return self._around(Lookup(self._plan, _static(other), "join_asof", (), options))

    def update(
        self,
        other: pl.LazyFrame | pl.DataFrame,
        on: str | Sequence[str] | None = None,
        how: Literal["left", "inner", "full"] = "left",
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        include_nulls: bool = False,
        maintain_order: Literal["none", "left"] | None = "left",
    ) -> Self:
        """Overwrite values with those that a bounded frame has for the row's key: left or inner."""
        self._refuse_stream("update", other)
        if on is None and left_on is None:
            raise UnsupportedOperationError(
                "update() by position",
                because="rows of a stream have no fixed place beside those of a table",
                instead="update(other, on=...) with the names of key columns",
            )
        if how not in ("left", "inner"):
            raise UnsupportedOperationError(
                f"update(how={how!r})",
                because="a row of the bounded side that found no match yet could find one in any later batch",
                instead='how="left" or "inner"',
            )
        options = {
            "on": on,
            "how": how,
            "left_on": left_on,
            "right_on": right_on,
            "include_nulls": include_nulls,
            "maintain_order": maintain_order,
        }
        return self._around(Lookup(self._plan, _static(other), "update", (), options))

    @staticmethod
    def _refuse_stream(verb: str, other: object) -> None:
        if isinstance(other, Joinable):
            raise UnsupportedOperationError(
                f"{verb}() of two streams", because="it is not built yet", instead=f"{verb} with a bounded pl.LazyFrame"
            )


def _static(other: pl.LazyFrame | pl.DataFrame) -> Static:
    if not isinstance(other, pl.LazyFrame | pl.DataFrame):
        raise PlanError(
            f"a stream is joined with a frame, and this is a {type(other).__name__}: {repr(other)[:60]}. Give another "
            "stream, a pl.LazyFrame or a pl.DataFrame, such as pl.DataFrame(...) of it"
        )
    return Static(other.lazy(), is_fixed=True) if isinstance(other, pl.DataFrame) else Static(other)


def _names(columns: Any, argument: str) -> tuple[str, ...]:
    found = [columns] if isinstance(columns, str | pl.Expr) else list(columns or [])
    names = [one if isinstance(one, str) else passes(one) for one in found]
    if not names or any(name is None for name in names):
        raise PlanError(
            f"join({argument}={columns!r}): write the names of columns; compute an expression in with_columns first"
        )
    return tuple(cast("list[str]", names))


def _keys_of_streams(
    how: str, on: Any, left_on: Any, right_on: Any, asked: Mapping[str, bool]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The key columns of a join of two streams; UnsupportedOperationError for what needs whole tables."""
    if how == "cross":
        raise UnsupportedOperationError(
            "join(how='cross') of two streams",
            because="every row would be remembered for ever, and joined with every later one",
            instead="a join on keys, or join_where(...) with an equality",
        )
    if asked["validate"]:
        raise UnsupportedOperationError(
            "join(validate=...) of two streams",
            because="a later row may repeat a key, when rows with it were written already",
            instead="unique(...) on the side whose keys must not repeat",
        )
    if asked["maintain_order"]:
        raise UnsupportedOperationError(
            "join(maintain_order=...) of two streams",
            because="a pair comes out when its second row comes, whatever its side",
            instead="sort the answer: query.read().sort(...)",
        )
    return (_names(on, "on"),) * 2 if on is not None else (_names(left_on, "left_on"), _names(right_on, "right_on"))


def _with_key(node: StreamJoin) -> StreamJoin:
    """The node, if it has a key; UnsupportedOperationError if it has none."""
    if not node.keys:
        raise UnsupportedOperationError(
            "join_where() of two streams without an equality",
            because="each new row would have to be compared with all that are remembered",
            instead="one predicate more that says what is equal in both, e.g. pl.col('id') == pl.col('id_right')",
        )
    return node
