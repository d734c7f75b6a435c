"""How does a table that is whole from the start become a part of one that never is?"""

from __future__ import annotations

from dataclasses import asdict

import polars as pl

from unbounded.connectors import Offset
from unbounded.errors import SourceDataLostError
from unbounded.sources.rows import Tally

__all__ = ["BoundedSource"]


class BoundedSource:
    """The rows of a bounded frame, all of them in the first batch of a query.

    A `pl.LazyFrame` is collected when that batch is planned; after its commit it is never looked at again. If a crash
    comes between, it is collected once more, and must have the same rows, in any order: their number and a fingerprint
    stand in the offset. So a long history should rather lie in the folder of the stream.

    >>> source = BoundedSource(pl.DataFrame({"x": [1, 2]}))
    >>> source.latest(None, None, limited=True)["rows"]
    2
    """

    is_bounded = True

    def __init__(self, frame: pl.DataFrame | pl.LazyFrame) -> None:
        self._frame = frame.lazy()
        self._schema = self._frame.collect_schema()
        self._rows = frame if isinstance(frame, pl.DataFrame) else None

    @property
    def schema(self) -> pl.Schema:
        return self._schema

    @property
    def default_name(self) -> str:
        return "bounded"

    @property
    def description(self) -> str:
        return "a bounded frame"

    def end(self) -> Offset | None:
        return {"whole": True}

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        """Everything at once, once; also of a frame without rows, which so stays without rows for ever."""
        if since is not None:
            return None
        return asdict(Tally().plus(self._collected()))

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        rows = self._collected()
        if not Tally().plus(rows).agrees(until):
            raise SourceDataLostError(
                f"a batch that was not committed promised the {until['rows']} rows of a bounded frame, and the frame "
                f"now has {rows.height} rows, or others. Give it the rows it had until that batch is committed; or let "
                "the batch be planned anew: ub.reset(checkpoint, pending_only=True)"
            )
        return rows.lazy()

    def acknowledge(self, until: Offset) -> None:
        """The rows of a lazy frame need not be kept any longer."""
        self._rows = None

    def _collected(self) -> pl.DataFrame:
        if self._rows is None:
            self._rows = self._frame.collect(engine="streaming")
        return self._rows
