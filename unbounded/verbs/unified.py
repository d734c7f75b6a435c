"""Which verbs that Polars lacks mean the same on bounded and on unbounded frames?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any, Literal, TypeVar, get_args, overload

import polars as pl
from polars._typing import IntoExpr

from unbounded.durations import milliseconds
from unbounded.errors import PlanError, UnsupportedOperationError
from unbounded.expressions import expand
from unbounded.frame import StreamFrame
from unbounded.plan import Concat, Node, Scan, Static, evaluate, walk
from unbounded.plan.pairing import paired_where
from unbounded.plan.sequence import Sequential, deadlocked
from unbounded.sources.bounded import BoundedSource
from unbounded.verbs.grouping import StreamGroupBy, sessions_of

__all__ = [
    "BoundedNamespace",
    "FrameT",
    "concat",
    "concat_sequential",
    "group_by_session",
    "unique_within_watermark",
    "with_watermark",
]

FrameT = TypeVar("FrameT", pl.LazyFrame, StreamFrame)
"""A frame of either kind: what a function takes and gives that serves batch and stream."""

ConcatHow = Literal["vertical", "vertical_relaxed", "diagonal", "diagonal_relaxed"]


def with_watermark(frame: FrameT, column: str | pl.Expr, delay: str | timedelta) -> FrameT:
    """Declare that rows come at most `delay` behind the newest event time `column` seen so far.

    After each batch the watermark is the newest time less `delay`, and never goes back. Windows that end
    at or before it are final; rows for them that still come are dropped and counted. A `filter` right behind it that
    does not read `column` comes before it, as in Spark: what that leaves out does not move the watermark. On a bounded
    frame it means `sort(column)`, so that `group_by_dynamic`, `rolling` and `join_asof` are right there.

    Behind groups, sessions and joins, rows of a bounded frame are no longer in order of time, and Polars does not
    always say so, but answers wrong. So declare it again before the next of these verbs, with the same delay and the
    column that is event time there: a stream goes on as it was, a bounded frame is sorted.

    >>> from datetime import datetime
    >>> import polars as pl, unbounded as ub
    >>> times = [datetime(2026, 3, 1, 8, minute) for minute in (0, 50, 20)]
    >>> readings = pl.LazyFrame({"key": ["b", "b", "a"], "time": times}).pipe(ub.with_watermark, "time", "15m")
    >>> quarters = readings.group_by_dynamic("time", every="15m", group_by="key").agg()
    >>> hours = quarters.pipe(ub.with_watermark, "time", "15m").group_by_dynamic("time", every="1h").agg(pl.len())
    >>> hours.select("len").collect().rows()
    [(3,)]

    `column` must be Datetime (any unit or zone; naive is UTC) or Date. `delay` is a fixed length.
    """
    if isinstance(frame, StreamFrame):
        return frame.with_watermark(column, delay)
    milliseconds(delay, f"the delay of the watermark on {column!r}")
    return frame.sort(column)


def group_by_session(
    frame: FrameT,
    index_column: str | pl.Expr,
    *,
    gap: str | timedelta | pl.Expr,
    include_boundaries: bool = False,
    group_by: IntoExpr | Iterable[IntoExpr] | None = None,
) -> StreamGroupBy[FrameT]:
    """Group rows that follow each other within `gap` of event time; the input may come in any order.

    A session of a key goes from its first event time to the latest end of its rows; a row's end is its time plus its
    gap, and a row exactly at the end still joins. `gap` is a fixed length, or an expression of a Duration per row: then
    one long gap covers the rows within it. Rows without a time, or whose gap is null or not above zero, are in no
    session, and counted; null keys are a key.

    Columns of the answer: the `group_by` keys, `_lower_boundary` and `_upper_boundary` (the end) if included,
    `index_column` (the first event time), then the aggregates. The key of a row is `group_by` and `index_column`.

    Where `index_column` has a watermark a session closes when that reaches its end, and takes no more rows. A row is
    late if its own end was at or below the watermark, even where an open session would take it; one that is behind the
    watermark and not late may begin a session of its own, where a bounded frame has one with those that have closed. In
    append mode a session comes once, closed; in update mode with each batch that touches it, and a session that begins
    earlier now, or became part of another, leaves a sink that keeps a table. `_upper_boundary` is event time for what
    follows. `first`, `last` and `implode` are in order of arrival; `head` and `tail` of a session are refused.

    >>> from datetime import datetime
    >>> import polars as pl, unbounded as ub
    >>> clicks = pl.LazyFrame({"user": ["ann", "ann", "ann"], "time": [datetime(2026, 3, 1, 8, m) for m in (0, 9, 30)]})
    >>> visits = clicks.pipe(ub.group_by_session, "time", gap="10m", group_by="user").len("clicks")
    >>> visits.select(pl.col("time").dt.strftime("%H:%M"), "clicks").sort("time").collect().rows()
    [('08:00', 2), ('08:30', 1)]
    """
    if isinstance(frame, StreamFrame):
        return frame.group_by_session(index_column, gap=gap, include_boundaries=include_boundaries, group_by=group_by)
    by = () if group_by is None else expand(frame.collect_schema(), [group_by], {})
    return sessions_of(Static(frame), _over_bounded, index_column, gap=gap, boundaries=include_boundaries, by=by)


def _over_bounded(node: Node) -> pl.LazyFrame:
    return evaluate(node, {})


def unique_within_watermark(frame: FrameT, subset: IntoExpr | Collection[IntoExpr] | None = None) -> FrameT:
    """The first row of each value of the columns `subset` (by default of all), for sources that repeat themselves.

    A value is remembered for the delay of the watermark: until the watermark reaches the event time of its first row
    plus the delay. Repeated rows do not prolong that. So state stays small, also where `subset` has no time in it, and
    the answer is that of `unique(subset, keep="first")` over all rows wherever rows that repeat come within the delay
    of the first. Rows behind the watermark are late. A row without a time is forgotten with its batch. With several
    watermarks below, the longest delay counts.

    On a bounded frame it means `unique(subset, keep="first", maintain_order=True)`. PlanError for a stream in which no
    column has a watermark.
    """
    if isinstance(frame, StreamFrame):
        return frame.unique_within_watermark(subset)
    return frame.unique(subset, keep="first", maintain_order=True)


@overload
def concat(  # type: ignore[overload-overlap]  # an empty list could be of any kind; Polars refuses it
    items: Iterable[pl.DataFrame], *, how: ConcatHow = "vertical"
) -> pl.DataFrame: ...
@overload
def concat(  # type: ignore[overload-overlap]  # likewise
    items: Iterable[pl.LazyFrame], *, how: ConcatHow = "vertical"
) -> pl.LazyFrame: ...
@overload
def concat(
    items: Iterable[StreamFrame | pl.LazyFrame | pl.DataFrame], *, how: ConcatHow = "vertical"
) -> StreamFrame: ...
def concat(items: Iterable[Any], *, how: ConcatHow = "vertical") -> Any:
    """Put frames behind one another: streams, and bounded frames among them; `pl.concat` where all are bounded.

    The rows of a bounded frame all come in the first batch of a query. A `pl.LazyFrame` is collected then, once; if a
    crash comes before that batch is committed, it is collected again, and must have the same rows, else the query fails
    with SourceDataLostError. It delays no watermark: declare that of the stream before, and its rows are never late.

    Bounded frames are the sources "bounded", "bounded-2", ... of the query;
    `ub.scan(ub.BoundedSource(frame), name=...)` gives one another name.
    """
    frames = list(items)
    if not any(isinstance(frame, StreamFrame) for frame in frames):
        return pl.concat(frames, how=how)
    return StreamFrame(Concat(_parts("concat", frames, how), how))


@overload
def concat_sequential(history: pl.LazyFrame, live: pl.LazyFrame, *, how: ConcatHow = "vertical") -> pl.LazyFrame: ...
@overload
def concat_sequential(
    history: StreamFrame | pl.LazyFrame | pl.DataFrame, live: StreamFrame, *, how: ConcatHow = "vertical"
) -> StreamFrame: ...
def concat_sequential(history: Any, live: Any, *, how: ConcatHow = "vertical") -> Any:
    """What was, then what comes: `live` is read once `history` was read to its end; `pl.concat` where both are bounded.

    The history is read batch by batch within its own limits, one batch after another whatever the interval of the
    trigger. When it has nothing more to give, also no file that is not complete, the first rows of the live stream are
    read, and from then on the history is not read again, also not by a later start: state is kept. What comes to it all
    the same is warned of, at the next start and every ten minutes until then, and files stay in `backlog_files` of its
    progress. `ub.once()` reads it in its first batch. A history that is a bounded frame comes whole in that, as in
    `ub.concat`.

    One watermark, declared above, goes on from the history to the live stream. With one in each part the history's
    counts until it has ended, and then the live stream's: neither holds the other back. Live rows behind what the
    history had reached, less the delay, are late.
    """
    if not isinstance(live, StreamFrame):
        if isinstance(history, StreamFrame):
            raise PlanError(
                "concat_sequential(history, live): the second part goes on when the first one has ended, and here that "
                f"is a {type(live).__name__}, which does not go on. Write concat_sequential(bounded, stream), or "
                "ub.concat([stream, bounded]) for rows in no order"
            )
        return pl.concat([history, live], how=how)
    frame = StreamFrame(Sequential(_parts("concat_sequential", [history, live], how), how))
    if (name := deadlocked(frame._plan)) is not None:
        raise PlanError(
            f"concat_sequential(): source {name!r} is to wait for itself to end, since it is in both parts, or another "
            "one has them in another order. Scan it once, and tell its old rows from its new ones with filter(...)"
        )
    return frame


def _parts(function: str, frames: list[Any], how: ConcatHow) -> tuple[Node, ...]:
    """The nodes of frames of either kind; bounded ones become sources with names of their own."""
    if how not in get_args(ConcatHow):
        raise UnsupportedOperationError(
            f"{function}(how={how!r}) of a stream",
            because="rows of a stream have no fixed place beside which others could be put",
            instead="a join on a key, or one of " + ", ".join(f"how={one!r}" for one in get_args(ConcatHow)),
        )
    streams = [frame for frame in frames if isinstance(frame, StreamFrame)]
    names = {node.name for frame in streams for node in walk(frame._plan) if isinstance(node, Scan)}
    parts: list[Node] = []
    for frame in frames:
        match frame:
            case StreamFrame():
                parts.append(frame._plan)
            case pl.DataFrame() | pl.LazyFrame():
                name = next(name for name in _bounded_names() if name not in names)
                names.add(name)
                parts.append(Scan(BoundedSource(frame), name))
            case _:
                raise PlanError(
                    f"{function}() puts frames behind one another, and item {len(parts)} is a {type(frame).__name__}. "
                    "Give a StreamFrame, a pl.LazyFrame or a pl.DataFrame"
                )
    return tuple(parts)


def _bounded_names() -> Iterator[str]:
    yield "bounded"
    yield from (f"bounded-{number}" for number in count(2))


@pl.api.register_lazyframe_namespace("ub")
class BoundedNamespace:
    """`pl.LazyFrame.ub`: what the verbs of a stream mean on a bounded frame."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def with_watermark(self, column: str | pl.Expr, delay: str | timedelta) -> pl.LazyFrame:
        """See `ub.with_watermark`."""
        return with_watermark(self._frame, column, delay)

    def group_by_session(self, index_column: str | pl.Expr, **options: Any) -> StreamGroupBy[pl.LazyFrame]:
        """See `ub.group_by_session`."""
        return group_by_session(self._frame, index_column, **options)

    def join_where(
        self, other: pl.LazyFrame, *predicates: pl.Expr | Iterable[pl.Expr], how: str = "inner", suffix: str = "_right"
    ) -> pl.LazyFrame:
        """`pl.LazyFrame.join_where`, and also right, full, semi and anti; see `StreamFrame.join_where`."""
        if isinstance(other, StreamFrame):
            raise PlanError(
                "join_where() of a bounded frame with a stream: rows come out as the stream brings them, so it "
                "comes first. Write stream.join_where(bounded, ...), with _right on the columns of the bounded frame"
            )
        return paired_where(Static(self._frame), Static(other), predicates, how, suffix).apply(self._frame, other)

    def unique_within_watermark(self, subset: IntoExpr | Collection[IntoExpr] | None = None) -> pl.LazyFrame:
        """See `ub.unique_within_watermark`."""
        return unique_within_watermark(self._frame, subset)
