"""How does each batch reach a function of the user?"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import polars as pl

from unbounded.connectors import Guarantee, Identity, Mode, Receipt
from unbounded.errors import PlanError, UnsupportedOperationError

__all__ = ["EachBatchSink"]


class EachBatchSink:
    """Calls `function(rows, batch_id)` for every batch in order, also with zero rows.

    At least once: a batch whose call was cut short is handed over again with the same id and, if the query is
    deterministic, the same rows, so `(query.id, batch_id)` is what to deduplicate by. Exceptions of the function end
    the query as they are.

    Raises PlanError at once if `function` cannot be called so, and after a call that returned something.
    """

    def __init__(self, function: Callable[[pl.DataFrame, int], None]) -> None:
        self._name = getattr(function, "__name__", repr(function))
        _check_signature(function, self._name)
        self._function: Callable[[pl.DataFrame, int], object] = function

    @property
    def modes(self) -> frozenset[Mode]:
        return frozenset({"append", "update", "complete"})

    @property
    def guarantee(self) -> Guarantee:
        return "at-least-once"

    @property
    def keeps_table(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return f"each batch to {self._name}"

    def open(self, query: Identity, schema: pl.Schema, key: tuple[str, ...], mode: Mode) -> None:
        """Nothing to prepare."""

    def written(self, batch: int) -> Receipt | None:
        return None

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        answer = self._function(rows, batch)
        if answer is not None:
            raise PlanError(
                f"{self._name} returned a {type(answer).__name__} for batch {batch}, which would be lost: rows leave "
                "a foreach_batch function only by what it does. Write them inside the function and return None, or "
                "transform them in the query before the sink"
            )

    def read(self) -> pl.LazyFrame:
        raise UnsupportedOperationError(
            f"read() of a sink that hands each batch to {self._name}",
            because="where the function puts the rows is not known",
            instead="read that place, or use a memory or file sink",
        )

    def close(self) -> None:
        """The function owns nothing of ours."""


def _check_signature(function: object, name: str) -> None:
    if not callable(function):
        raise PlanError(
            f"foreach_batch needs a function (rows, batch_id), not {function!r}. Pass def write(rows, batch_id)"
        )
    if inspect.iscoroutinefunction(function):
        raise PlanError(
            f"{name} is async, and nobody would await it. Pass a plain function, with asyncio.run(...) inside"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C do not say what they take
        return
    try:
        signature.bind(None, 0)
    except TypeError:
        raise PlanError(
            f"{name}{signature} cannot be called as {name}(rows, batch_id). "
            "Write def write(rows: pl.DataFrame, batch_id: int) -> None"
        ) from None
