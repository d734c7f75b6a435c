"""What does an operator's memory promise, wherever it lies?

Operators ask for three shapes: tables (one row per key; a set, where there are no values), multimaps (any number of
rows per key, in an order) and logs (rows without a key). A home holds them and makes them durable. The default home is
`unbounded.state.memory.home`; every home passes `unbounded.testing.contracts.homes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import polars as pl

__all__ = ["Home", "Log", "Multimap", "MultimapSpec", "StateRef", "Table", "TableSpec"]

StateRef: TypeAlias = Mapping[str, Any]
"""Small JSON that names one commit of a home: enough to restore it, in another process too."""


@dataclass(frozen=True, eq=False)
class TableSpec:
    """The shape of a table, and how rows of one key become one row.

    `key` is any number of columns of any Polars type; without columns the table has one global row. Keys are exact:
    null is a key, NaN equals NaN, -0.0 equals 0.0 (and comes back as 0.0). `values` may be empty: then it is a set.

    `merge` holds one aggregate expression per value column, named like it, over any number of rows of one key, in
    order: the stored row first, then the new ones. Over a single row it must give that row.

    `expiry` names an Int64 value column: the time, in epoch milliseconds, from which on the row may go; null is never.
    Without it nothing ever expires.

    A home whose tables others can query shows them a row as `shown`, expressions over its columns under the user's
    names, as far as it can; `parts` say what the first value columns are, for people.
    """

    key: pl.Schema
    values: pl.Schema
    merge: tuple[pl.Expr, ...]
    expiry: str | None
    shown: tuple[pl.Expr, ...] = ()
    parts: tuple[str, ...] = ()


class Table(Protocol):
    """Rows by key. Frames hold the columns of `spec.key`, then those of `spec.values`."""

    spec: TableSpec

    def merge(self, partials: pl.DataFrame) -> pl.DataFrame:
        """Fold rows in; gives the new row of every touched key, once, in the order in which they first appear.

        Keys may repeat, then their order matters. Costs what `partials` costs, whatever the table holds.
        """

    def insert(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the rows whose key is not there and give exactly these, in order; the first of equal keys wins.

        Further columns of `rows` are not kept, but come back with them.
        """

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        """The rows of `keys` that are there, in order and as often as asked, with their values behind; changes nothing.

        Further columns of `keys` come back with them, and the key as it was asked for. Costs what `keys` costs.
        """

    def expire(self, watermark: int) -> pl.DataFrame:
        """Remove and give the rows whose expiry is at or below the watermark. Costs what is removed.

        Watermarks never fall: one below an earlier one means the earlier one.
        """

    def remove(self, keys: pl.DataFrame) -> None:
        """Forget these keys; one that is not there is no error."""

    def scan(self) -> pl.DataFrame:
        """Every row, in no order. Costs what the table holds."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class MultimapSpec:
    """The shape of a multimap: any number of rows per key, equal ones too.

    `key` is as in `TableSpec`, with at least one column. The rows of one key come in the order of the value columns
    `order`, ascending, nulls first, then as they arrived; without `order`, as they arrived: a list per key.

    `expiry` is as in `TableSpec`.
    """

    key: pl.Schema
    values: pl.Schema
    expiry: str | None
    order: tuple[str, ...] = ()


class Multimap(Protocol):
    """Rows by key. Frames hold the columns of `spec.key`, then those of `spec.values`."""

    spec: MultimapSpec

    def append(self, rows: pl.DataFrame) -> None:
        """Remember every row. Costs what the rows cost, whatever is there, also under a key that has many."""

    def probe(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Each of `keys` with each row that is there under it: an inner join, null equal to null; changes nothing.

        In the order of `keys`, as often as they repeat; under one key in the order of the spec. Further columns of
        `keys` come back, before the values. Costs what `keys` and the answer cost.
        """

    def under(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Every row that is there under one of `keys`, which may repeat, once, in no order; changes nothing.

        For a join: rows of other keys may come with them, if they cost less than looking for the right ones. Costs what
        `keys` and the answer cost, and at most once more what the rows did that came last.
        """

    def expire(self, watermark: int) -> pl.DataFrame:
        """Remove and give the rows whose expiry is at or below the watermark, as `Table.expire` does, in no order."""

    def remove(self, keys: pl.DataFrame) -> None:
        """Forget all rows of these keys; one that is not there is no error."""

    def scan(self) -> pl.DataFrame:
        """Every row, in no order. Costs what the multimap holds."""

    def __len__(self) -> int:
        """How many rows there are."""


class Log(Protocol):
    """Append-only rows without a key."""

    def append(self, rows: pl.DataFrame) -> None:
        """Remember rows, durably from the next commit on."""

    def restored(self) -> Iterator[pl.DataFrame]:
        """What `restore` found, oldest first, once; read while iterating, so a damaged file is found then."""


class Home(Protocol):
    """Where state lives. Everything but `tidy`, `metrics` and what `seal` gives is called by the query's one thread."""

    kind: str
    """One word, as in `state=`: "memory", "files", ... Every StateRef carries it as `home`."""

    @property
    def description(self) -> str:
        """For people, progress and errors: the kind and where it is, without credentials."""

    def table(self, name: str, spec: TableSpec) -> Table:
        """Declare a table, before `restore`."""

    def multimap(self, name: str, spec: MultimapSpec) -> Multimap:
        """Declare a multimap, before `restore`."""

    def log(self, name: str, schema: pl.Schema) -> Log:
        """Declare a log, before `restore`."""

    def restore(self, ref: StateRef | None) -> None:
        """Put every table back to what it was at `commit`; None makes all of them empty.

        Also abandons whatever was done since the last commit. Raises CheckpointError if the declared names or columns
        are not those that were committed, CorruptRecordError naming a file that is damaged.
        """

    def look(self, ref: StateRef) -> None:
        """As `restore`, but nothing outside of this object changes: for a reader beside a running query.

        Any retained commit can be looked at. Afterwards only what answers may be asked: `lookup`, `probe`, `scan`,
        `len`, `restored`.
        """

    def commit(self, version: int, attempt: str) -> StateRef:
        """Write durably what changed since the last commit, as one new object.

        Versions rise. `attempt` is new each time, so that two writers never share a name. After one that failed,
        `restore` comes first.
        """

    def seal(self, version: int, attempt: str) -> Callable[[], StateRef]:
        """`commit` in two steps: what has changed is fixed now, and durable when the answer is called.

        That may be in another thread, while the tables change on, and must have ended before the next commit.
        """

    def verify(self, ref: StateRef) -> bool:
        """Whether the object of a commit is there and undamaged."""

    def tidy(self, committed: int) -> None:
        """Rewrite and delete old files, beside the running query; `committed` is its last version.

        The last `retain` versions stay restorable, and so does any newer one.
        """

    def metrics(self) -> dict[str, dict[str, int]]:
        """For every table and multimap its `rows` and an estimate of its `bytes` in memory."""

    def destroy(self) -> bool:
        """Delete what lies outside of the folder of the home, for good; whether there was something."""

    def close(self) -> None:
        """Let go of connections, mapped files and memory; what is committed stays. Closing again does nothing.

        No `tidy` runs meanwhile. Before anything else is asked of it, the home needs a `restore` or a `look`.
        """
