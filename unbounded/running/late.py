"""Where do the rows go that came too late, so that each is kept exactly once?

Those of a batch are staged, durably, before its rows reach the sink, and their names stand in its commit. They come
into sight when the batch has happened; a restart does that once more for the last one. What an attempt staged that
never happened is removed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

import polars as pl

from unbounded.checkpoint import Commit, Intent
from unbounded.connectors import Mode
from unbounded.errors import PlanError
from unbounded.operators import FINAL, Operator
from unbounded.operators.choosing import Joining
from unbounded.operators.telling import tellers
from unbounded.plan.windows import LABEL
from unbounded.storage import Storage, is_local, local_path, open_storage, without_credentials

__all__ = ["LateRows"]

_STAGED: Final = "._unbounded"  # behind the folder's name, as sinks do: readers of the folder see finished files alone
_OPERATOR, _WATERMARK, _WINDOW = "_operator", "_watermark", "_window"
_OWN: Final = (_OPERATOR, _WATERMARK, _WINDOW)


class LateRows:
    """A folder with a folder for each operator, of Parquet files with the rows that came too late for it; with one for
    each side of a join, as "join-1/left", for these have columns of their own.

    A row is as it came to the operator, with `_operator`, the `_watermark` it came behind, and in `_window` the label
    of the window for which it was late; it is there once for each of these. None keeps nothing. Mutable, to open its
    storage when it is needed first, and to know which query it is.
    """

    def __init__(self, url: str | os.PathLike[str] | None) -> None:
        if url is not None and not isinstance(url, str | os.PathLike):
            raise PlanError(f'late={url!r} is no folder. Write late="late/<name>", a folder of its own for this query')
        self._url = "" if url is None else os.fspath(url).rstrip("/")
        self._query = ""
        self._tellers: list[str] = []
        self._swept = False

    @property
    def location(self) -> str | None:
        """The place, absolute and without credentials; None if nobody asked for late rows."""
        if not self._url:
            return None
        return local_path(self._url) if is_local(self._url) else without_credentials(self._url)

    def check(self, operators: Iterable[Operator | Joining], mode: Mode) -> None:
        """PlanError if no row of the query can be late, or an operator cannot say which ones are."""
        judging = [one for one in operators if self._url and "late" in one.explain()]
        asked = f"late={self._url!r}"
        if self._url and not judging and mode == "complete":
            raise PlanError(
                f"{asked} keeps the rows that come too late, and complete mode forgets no group, so that none does. "
                'Leave it out, or write with output_mode="append" or "update"'
            )
        if self._url and not judging:
            raise PlanError(
                f"{asked} keeps the rows that come too late, and no step of this query leaves rows out for that. "
                'Declare a watermark, .pipe(ub.with_watermark, "time", "1h"), before what shall close, or leave it out'
            )
        telling = [teller for operator in judging for teller in tellers(operator)]
        for teller in telling:
            if taken := sorted(set(_OWN) & teller.late_schema.keys()):
                raise PlanError(
                    f"{asked} adds the column {taken[0]!r} to late rows, and those that come to {teller.id} have one. "
                    "Rename it before"
                )
        self._tellers = [teller.id for teller in telling]

    def explain(self) -> list[str]:
        """A line that says where late rows are kept, if they are."""
        return [f"late rows: kept in {self.location}, exactly-once"] if self._url else []

    def open(self, query: str, last: Commit | None) -> None:
        """Begin a run of the query with this id, whose last commit this is."""
        self._query, self._swept = query[:8], not self._tellers
        self._show(last.late if last is not None else ())

    def stage(self, intent: Intent, attempt: str, late: Mapping[str, pl.DataFrame]) -> list[str]:
        """Keep the late rows of a batch by who tells them, durably and out of sight; gives the names to publish."""
        names = []
        for teller, rows in late.items():
            if rows.height:
                content = io.BytesIO()
                _told(rows, teller, intent.late).write_parquet(content)
                names.append(f"{teller}/{self._query}-{intent.batch:012d}-{attempt}.parquet")
                self._staged.put(names[-1], content.getvalue())
        return names

    def publish(self, commit: Commit | None) -> None:
        """The batch has happened: let what it staged be seen. What else is staged of it or before has not happened."""
        if commit is None:
            return
        self._show(commit.late)
        if not self._swept:
            self._swept = True
            for teller in self._tellers:
                mine = (name for name in self._staged.names(teller) if name.startswith(f"{self._query}-"))
                orphans = [f"{teller}/{name}" for name in mine if int(name.split("-")[1]) <= commit.batch]
                self._staged.remove(orphans)

    def _show(self, names: Sequence[str]) -> None:
        if not self._url:  # a restart without late=; they stay staged
            return
        for name in names:
            with suppress(FileNotFoundError):  # shown before a crash, and taken from the stage
                content = self._staged.read(name)
                with suppress(FileExistsError):
                    self._shown.put(name, content)
        if names:
            self._staged.remove(names)

    @cached_property
    def _staged(self) -> Storage:
        return open_storage(f"{self._url}{_STAGED}")

    @cached_property
    def _shown(self) -> Storage:
        return open_storage(self._url)


def _told(rows: pl.DataFrame, operator: str, watermark: int | None) -> pl.DataFrame:
    """Late rows with the columns that say for what, and behind which watermark, they are late."""
    mark = None if watermark in (None, FINAL) else watermark
    columns: list[Any] = [
        pl.lit(operator).alias(_OPERATOR),
        pl.lit(mark, pl.Int64).cast(pl.Datetime("ms", "UTC")).alias(_WATERMARK),
    ]
    if LABEL in rows.columns:
        columns.append(pl.col(LABEL).alias(_WINDOW))
    return rows.with_columns(columns).drop(LABEL, strict=False)
