"""What a source and a sink must promise.

The waist of the library: everything that reads is `ub.scan(source)`, everything that writes is
`frame.sink(sink)`. `unbounded.testing` holds the contract suites that a new one must pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import polars as pl

__all__ = [
    "Blames",
    "Bounded",
    "Counts",
    "Covers",
    "Guarantee",
    "Identity",
    "Located",
    "Mode",
    "Offset",
    "PutsAside",
    "Receipt",
    "Remembers",
    "Sink",
    "Source",
    "Stages",
    "Tidies",
    "Verifies",
    "WatermarkPolicy",
    "lacking",
]

Mode: TypeAlias = Literal["append", "update", "complete"]
WatermarkPolicy: TypeAlias = Literal["min", "max"]
Guarantee: TypeAlias = Literal["exactly-once", "at-least-once", "none"]

Offset: TypeAlias = Any
"""How far a source was read: any JSON value but null. The engine stores it and compares it for equality, no more."""

Receipt: TypeAlias = Mapping[str, Any]
"""What the engine must find again if it dies between the sink's record and its own commit; JSON, opaque to sinks."""


@dataclass(frozen=True)
class Identity:
    """Which query writes. `id` lives as long as the checkpoint, `run_id` as long as one start of it."""

    id: str
    run_id: str
    name: str | None


class Source(Protocol):
    """An endless input whose rows can be read again.

    `default_name` identifies the source in the checkpoint unless the user says `name=`. `description`
    is one line for progress and errors, without credentials. All rows have exactly `schema`.
    """

    @property
    def schema(self) -> pl.Schema: ...

    @property
    def default_name(self) -> str: ...

    @property
    def description(self) -> str: ...

    def end(self) -> Offset | None:
        """How far the input goes now, which an available-now run will not pass; None while it is empty.

        The value is only handed back to `latest` of the same object.
        """

    def latest(self, since: Offset | None, end: Offset | None, *, limited: bool) -> Offset | None:
        """How far the next batch reads: behind `since`, not past `end` (None: no bound); None if nothing is new.

        `limited` asks to honour the source's own limits per trigger; at least one unit is always taken.
        `since` is None before the first batch.
        """

    def read(self, since: Offset | None, until: Offset) -> pl.LazyFrame:
        """The rows behind `since` up to `until`: the same arguments give the same rows, also after a restart.

        Reading less than the range is not an answer: raise SourceDataLostError.
        """

    def acknowledge(self, until: Offset) -> None:
        """The batch up to `until` is durable. Called again after a restart for the last batch, so surely once each."""


@runtime_checkable
class Verifies(Protocol):
    """A source whose input can change while Polars reads it lazily."""

    def verify(self, since: Offset | None, until: Offset) -> None:
        """Called after the rows were collected and before the sink: SourceDataLostError if the range changed."""


@runtime_checkable
class Bounded(Protocol):
    """A source that is whole from the start: all its rows come in the first batch, so its time never waits for more."""

    @property
    def is_bounded(self) -> bool:
        """True."""


@runtime_checkable
class Remembers(Protocol):
    """A source whose offsets are increments, so that it must know all earlier ones: a folder and its seen files.

    The checkpoint keeps that memory as an append-only table, written a batch's rows at a time. Such a source
    is always given None as `since`.
    """

    @property
    def memory_schema(self) -> pl.Schema: ...

    def fresh(self, *, units: int | None = None) -> Source:
        """The same source with an empty memory, for one run or one look; at most `units` files a trigger if given."""

    def memory(self, until: Offset) -> pl.DataFrame:
        """What the batch up to `until` adds to the memory."""

    def remember(self, rows: pl.DataFrame) -> None:
        """Take rows of memory as known: at start all earlier ones, then each committed batch's."""


@runtime_checkable
class Located(Protocol):
    """A connector in a place of its own, to which a checkpoint is bound: a folder, a topic."""

    @property
    def location(self) -> str:
        """The place, absolute and without credentials."""


@runtime_checkable
class Covers(Protocol):
    """A source that reads whatever appears in a place."""

    def covers(self, location: str) -> bool:
        """Whether what is written to this absolute path or URL would be read as input."""


@runtime_checkable
class PutsAside(Protocol):
    """A source that moves what was read, or what nobody could read, to places of its own."""

    @property
    def places_aside(self) -> Mapping[str, str]:
        """Absolute paths or URLs by the option that names them; empty if it leaves everything where it is."""


@runtime_checkable
class Blames(Protocol):
    """A source that can say which of its units Polars cannot read."""

    def unreadable(self, until: Offset) -> str | None:
        """The first unit of the batch that fails when read alone, and why; None if each can be read."""


@runtime_checkable
class Counts(Protocol):
    """A source with something to report in progress: names it ignores, files that wait."""

    def metrics(self) -> Mapping[str, Any]:
        """JSON values by name, as of now."""


class Sink(Protocol):
    """Where the answer goes. Its methods are called one at a time, batch by batch; where `guarantee` is exactly-once,
    `write` is so in another thread, while the query computes the batch behind.

    `modes` are the output modes it can keep. `keeps_table` says that in update mode it holds one row
    per key and understands `removed`; other sinks are handed rows alone.
    """

    @property
    def modes(self) -> frozenset[Mode]: ...

    @property
    def guarantee(self) -> Guarantee: ...

    @property
    def keeps_table(self) -> bool: ...

    @property
    def description(self) -> str: ...

    def open(self, query: Identity, schema: pl.Schema, key: tuple[str, ...], mode: Mode) -> None:
        """Called once per start, before anything else; `key` is empty unless rows replace earlier rows.

        SinkOwnedError if the place holds data of another query.
        """

    def written(self, batch: int) -> Receipt | None:
        """The receipt under which `batch` is durable here, or None. A sink that cannot know returns None for ever.

        One whose guarantee is at-least-once is never asked for the batch to be written.
        """

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        """Write one batch; the receipt becomes durable atomically with its rows, or not at all.

        `rows` are the new rows (append), the new rows of the touched keys (update), the whole table
        (complete); zero rows are written too. `removed` has the key columns of rows that left the table
        (update mode only, else zero rows). Called again with the same batch only if `written` said None.
        """

    def read(self) -> pl.LazyFrame:
        """What a reader of the sink sees now. UnsupportedOperationError where nothing can be read back."""

    def close(self) -> None:
        """The run ended. Called once, also after a failure."""


@runtime_checkable
class Stages(Protocol):
    """A sink that can put rows down before it knows their receipt, while the state of their batch becomes durable."""

    def stage(self, batch: int, rows: pl.DataFrame, *, removed: pl.DataFrame) -> None:
        """Called before `write` with the same arguments, in another thread; nobody may see the rows until then.

        Perhaps `write` never follows; and it may come without this.
        """


@runtime_checkable
class Tidies(Protocol):
    """A connector with work that can wait: merge logs, delete what was replaced."""

    def tidy(self, committed: int) -> None:
        """Called in the background, never twice at once; everything up to batch `committed` is durable."""


def lacking(connector: object, promise: type[Source] | type[Sink]) -> str:
    """What a source or a sink must have and this one has not, named; "" if it has all."""
    return ", ".join(sorted(name for name in vars(promise) if name[0] != "_" and not hasattr(connector, name)))
