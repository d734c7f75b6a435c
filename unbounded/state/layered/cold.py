"""What must a place outside of memory do to hold state? Find, list and change rows by key; be put back to a version.

`unbounded.state.layered.home` makes a home of it: the rows a batch touches are fetched into memory, changed there, and
given back at the commit. So a place sees one `find` per table and batch at most, and one `commit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from unbounded.state import StateRef

__all__ = ["NUMBER", "Changes", "Cold", "ColdRows", "Layout"]

NUMBER = "__number"
"""The column, Int64, that tells rows of one key of a multimap apart: it rises in the order of arrival."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What lies outside for a table or a multimap.

    Rows are found by `key` (canonical: no -0.0; null and NaN are keys), and each is identified by `key`, and by NUMBER
    too if `many`. `expiry` names an Int64 value column or is None. `shown` and `parts` are as in `TableSpec`.
    """

    key: pl.Schema
    values: pl.Schema
    expiry: str | None
    many: bool = False
    shown: tuple[pl.Expr, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def identity(self) -> pl.Schema:
        return pl.Schema({**self.key, NUMBER: pl.Int64()}) if self.many else self.key

    @property
    def schema(self) -> pl.Schema:
        """The columns of a row: those that identify it, then its values."""
        return pl.Schema({**self.identity, **self.values})


@dataclass(frozen=True, eq=False)
class Changes:
    """What one batch does to a table, each identity at most once in all: `removed` first, then `written`."""

    written: pl.DataFrame
    """Whole rows, which replace what had their identity."""
    removed: pl.DataFrame
    """Identities; one that is not there is no error."""


class ColdRows(Protocol):
    """The rows of one table or multimap as of the last commit."""

    layout: Layout

    def find(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Every row of these keys, which are canonical and do not repeat, in no order.

        Costs what `keys` and the answer cost. For a layout whose key has no columns, `keys` is one row without any.
        """

    def due(self, watermark: int) -> pl.DataFrame:
        """Every row whose expiry is at or below the watermark, which never falls. Costs what is due.

        A row that was given need not be given again before `restore`: the next commit removes or replaces it.
        """

    def scan(self) -> Iterator[pl.DataFrame]:
        """Every row, a piece at a time."""

    @property
    def nbytes(self) -> int:
        """An estimate of the memory of this process that the rows hold between calls; 0 if all is elsewhere."""


class Cold(Protocol):
    """A place outside of memory. Only `tidy` is called by another thread than the one that runs the query."""

    kind: str

    @property
    def description(self) -> str:
        """For people: the kind and where it is, without credentials."""

    def rows(self, name: str, layout: Layout) -> ColdRows:
        """Declare a table or multimap, before `restore`."""

    def log(self, name: str, schema: pl.Schema) -> None:
        """Declare a log, before `restore`."""

    def logged(self, name: str) -> Iterator[pl.DataFrame]:
        """The rows of a log as of the last commit, oldest first."""

    def restore(self, ref: StateRef | None) -> Mapping[str, Any]:
        """Go back to a commit, or to nothing, for good; gives the `note` of that commit. Errors as `Home.restore`."""

    def look(self, ref: StateRef) -> Mapping[str, Any]:
        """As `restore`, but nothing changes outside of this object, and what it shows stays while others commit."""

    def commit(
        self,
        version: int,
        attempt: str,
        changes: Mapping[str, Changes],
        added: Mapping[str, pl.DataFrame],
        note: Mapping[str, Any],
    ) -> StateRef:
        """Make changes, rows added to logs and a small JSON note durable, all or nothing, as this version.

        What an earlier attempt at this or a later version left is overwritten.
        """

    def verify(self, ref: StateRef) -> bool:
        """Whether the commit is there and undamaged."""

    def tidy(self, committed: int) -> None:
        """As `Home.tidy`."""

    def destroy(self) -> bool:
        """As `Home.destroy`."""

    def close(self) -> None:
        """As `Home.close`."""
