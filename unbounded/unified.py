"""Which verbs that Polars lacks mean the same on bounded and on unbounded frames?"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

import polars as pl

from unbounded.durations import milliseconds
from unbounded.errors import UnsupportedOperationError
from unbounded.frame import StreamFrame
from unbounded.plan import Concat

__all__ = ["BoundedNamespace", "FrameT", "concat", "with_watermark"]

FrameT = TypeVar("FrameT", pl.LazyFrame, StreamFrame)
"""A frame of either kind: what a function takes and gives that serves batch and stream."""

ConcatHow = Literal["vertical", "vertical_relaxed", "diagonal", "diagonal_relaxed"]


def with_watermark(frame: FrameT, column: str, delay: str | timedelta) -> FrameT:
    """Declare that rows come at most `delay` behind the newest event time `column` seen so far.

    After each batch the watermark is the newest time less `delay`, and never goes back. Windows that end
    at or before it are final; rows for them that still come are dropped and counted. On a bounded frame
    it means `sort(column)`, so that `group_by_dynamic`, `rolling` and `join_asof` are right there.

    `column` must be Datetime (any unit or zone; naive is UTC) or Date. `delay` is a fixed length.
    """
    if isinstance(frame, StreamFrame):
        return frame.with_watermark(column, delay)
    milliseconds(delay, f"the delay of the watermark on {column!r}")
    return frame.sort(column)


@overload
def concat(items: Iterable[StreamFrame], *, how: ConcatHow = "vertical") -> StreamFrame: ...
@overload
def concat(items: Iterable[pl.LazyFrame], *, how: ConcatHow = "vertical") -> pl.LazyFrame: ...
def concat(items: Iterable[Any], *, how: ConcatHow = "vertical") -> Any:
    """Put frames of one kind behind one another; `pl.concat` for bounded ones."""
    frames = list(items)
    streams = [frame for frame in frames if isinstance(frame, StreamFrame)]
    if not streams:
        return pl.concat(frames, how=how)
    if len(streams) < len(frames):
        raise UnsupportedOperationError(
            "concat() of a stream and a bounded frame",
            because="it is not built yet",
            instead="write the bounded rows into the stream's folder, or concat the answers",
        )
    return StreamFrame(Concat(tuple(frame._plan for frame in streams), how))


@pl.api.register_lazyframe_namespace("ub")
class BoundedNamespace:
    """`pl.LazyFrame.ub`: what the verbs of a stream mean on a bounded frame."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def with_watermark(self, column: str, delay: str | timedelta) -> pl.LazyFrame:
        """See `ub.with_watermark`."""
        return with_watermark(self._frame, column, delay)
