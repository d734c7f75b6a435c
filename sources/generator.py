"""How does a Python function become a table that never ends, and can still be read again?"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import polars as pl

from unbounded.connectors import Offset
from unbounded.errors import ConnectorError, PlanError, SchemaMismatchError, SourceDataLostError
from unbounded.sources.rows import Rows, Tally, fitting, schema_of

__all__ = ["Generate", "GeneratorSource"]

Generate: TypeAlias = Callable[[Any, Any], Iterable[tuple[Rows, Any]]]
"""A function of two offsets that gives the rows between them, piece by piece, each with its own offset."""


@dataclass(frozen=True)
class _Pulled:
    """The rows of a range, from planning it to reading it."""

    since: Offset | None
    until: Offset
    rows: pl.DataFrame


class GeneratorSource:
    """The rows that `function(since, until)` gives: those behind the offset `since`, up to `until`.

    `since` is None at the start of the input, `until` is None for all that is there now. The function yields pairs
    `(rows, offset)`: a frame, a list of rows or a dict of columns with exactly `schema`, and how far the input was read
    with them, any JSON value but null. It ends when nothing more is there; then it is called again later, with the last
    offset.

    Exactly once needs that the past does not change: called with two offsets that it gave, also by another process, the
    function gives the very rows between them, the last piece with `until`; how they are cut does not matter. Rows are
    counted and fingerprinted, so a function that breaks this fails the batch (SourceDataLostError).

    A batch ends with the piece that reaches `max_rows_per_trigger` (None: no limit). `end()` tells the last offset
    there is now, or None; without it an available-now run ends when the function gives nothing more.

    Mutable, to hand the rows that were pulled for planning a batch on to reading it.
    """

    def __init__(
        self,
        function: Generate,
        schema: Mapping[str, Any],
        *,
        end: Callable[[], Any] | None = None,
        max_rows_per_trigger: int | None = 100_000,
    ) -> None:
        _check_function(function)
        self._schema = schema_of(schema)
        if not self._schema:
            raise PlanError('scan_generator needs columns: schema={"time": pl.Datetime("us"), "value": pl.Int64}')
        limit = max_rows_per_trigger
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise PlanError(
                f"scan_generator(max_rows_per_trigger={limit!r}) must be a whole number above 0, or None for no limit"
            )
        self._function, self._end, self._limit = function, end, limit
        self._label = str(getattr(function, "__qualname__", type(function).__name__))
        self._pulled: _Pulled | None = None

    @property
    def schema(self) -> pl.Schema:
        return self._schema

    @property
    def default_name(self) -> str:
        name = str(getattr(self._function, "__name__", ""))
        return name if name.isidentifier() else "generator"

    @property
    def description(self) -> str:
        return f"rows of {self._label}()"

    def end(self) -> Offset | None:
        """Only what `latest` compares with; a bound that is not known is none."""
        if self._end is None:
            return {"at": None}
        at = self._end()
        return None if at is None else {"at": self._stored(at)}

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        bound = None if end is None else end["at"]
        if since is not None and since["at"] == bound:
            return None
        pieces, tally, at = [], _tally(since), None
        for rows, at in self._pieces(since, bound):
            pieces.append(rows)
            tally = tally.plus(rows)
            full = limited and self._limit is not None and tally.rows - _tally(since).rows >= self._limit
            if full or at == bound:
                break
        if not pieces:
            return None
        until = {"at": at, **asdict(tally)}
        self._pulled = _Pulled(since, until, pl.concat(pieces))
        return until

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        pulled = self._pulled
        if pulled is None or (pulled.since, pulled.until) != (since, until):
            pulled = _Pulled(since, until, self._pulled_again(since, until))
        return pulled.rows.lazy()

    def acknowledge(self, until: Offset) -> None:
        """The rows need not be kept any longer."""
        self._pulled = None

    def _pulled_again(self, since: Offset | None, until: Offset) -> pl.DataFrame:
        pieces, tally = [self._schema.to_frame()], _tally(since)
        for rows, at in self._pieces(since, until["at"]):
            pieces.append(rows)
            tally = tally.plus(rows)
            if at == until["at"]:
                break
        else:
            raise self._lost(since, until, "it now ends without a piece of that offset")
        if not tally.agrees(until):
            raise self._lost(since, until, f"it now gives {tally.rows} rows up to there, or others")
        return pl.concat(pieces)

    def _lost(self, since: Offset | None, until: Offset, how: str) -> SourceDataLostError:
        at = None if since is None else since["at"]
        return SourceDataLostError(
            f"a batch that was not committed promised the rows of {self._label}({at!r}, {until['at']!r}), the first "
            f"{until['rows']} of all; but {how}. The function must give the same rows whenever it is called with the "
            "same offsets: keep them (in files, a table, a log) before yielding them; or let the batch be "
            "planned anew: ub.reset(checkpoint, pending_only=True)"
        )

    def _pieces(self, since: Offset | None, bound: Any) -> Iterator[tuple[pl.DataFrame, Any]]:
        """What the function gives between two of its offsets, checked piece by piece."""
        before = None if since is None else since["at"]
        pieces = self._function(before, bound)
        if not isinstance(pieces, Iterable):
            raise ConnectorError(
                f"{self._label}() gave {str(pieces)[:200]}, and not pieces of rows one after another. Write "
                "`yield rows, offset` for each; a function that yields nothing says that nothing is there"
            )
        for piece in pieces:
            if not isinstance(piece, tuple) or len(piece) != 2:
                raise ConnectorError(
                    f"{self._label}() gave {str(piece)[:200]}, and not a pair of rows and an offset. Write "
                    "`yield rows, offset`, where the offset is how far the input was read with these rows"
                )
            rows, at = piece[0], self._stored(piece[1])
            if at == before:
                raise ConnectorError(
                    f"{self._label}() gave the offset {at!r} twice in a row, so the rows between could not be told "
                    "apart. Give every piece of rows an offset of its own"
                )
            before = at
            try:
                frame = fitting(rows, self._schema)
            except SchemaMismatchError as error:
                raise SchemaMismatchError(f"at offset {at!r} of {self._label}(): {error.message}") from error
            yield frame, at

    def _stored(self, at: Any) -> Any:
        """An offset as it comes back from the checkpoint: a tuple is a list there."""
        try:
            stored = json.loads(json.dumps(at, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConnectorError(
                f"{self._label}() gave the offset {at!r}, which is no JSON value ({error}). Use a number, a text, or a "
                "list or dict of them"
            ) from error
        if stored is None:
            raise ConnectorError(
                f"{self._label}() gave rows with the offset None, which means the start. Give how far the input was "
                "read with these rows"
            )
        return stored


def _tally(since: Offset | None) -> Tally:
    """Of all rows up to an offset, so that ranges that meet are one."""
    return Tally() if since is None else Tally(since["rows"], since["fingerprint"])


def _check_function(function: Generate) -> None:
    """PlanError for what cannot be asked again for the rows behind an offset."""
    example = "def rows(since, until): ...; yield {'value': [1]}, offset"
    if not callable(function):
        raise PlanError(
            f"scan_generator() of a {type(function).__name__}: after a crash the rows between two offsets are asked "
            f"for again, and an iterator that has begun cannot begin again. Give the function that makes it: "
            f"{example}; or, if all rows are here already, ub.concat([stream, pl.DataFrame(...)])"
        )
    if inspect.isasyncgenfunction(function) or inspect.iscoroutinefunction(function):
        raise PlanError(
            "scan_generator() of an async function: the query runs in a thread without an event loop. Give an ordinary "
            f"function: {example}"
        )
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        name = getattr(function, "__qualname__", function)
        raise PlanError(
            f"scan_generator() calls {name} with two offsets, and it does not take them ({error}). Write {example}: "
            "the rows behind `since` (None: from the start) up to `until` (None: all that is there now)"
        ) from error
    except ValueError:  # a function written in C, which does not tell
        return
