"""How is a streaming query told in a test, step by step: `given(query, schema).add(rows).expect(answer)`?

A story runs the engine itself, batch by batch in the test's own thread: no clock, no thread, no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import polars as pl

from unbounded.checkpoint import Checkpoint, Intent
from unbounded.connectors import Mode, Offset, Sink, WatermarkPolicy
from unbounded.errors import PlanError
from unbounded.frame import StreamFrame
from unbounded.plan import Node, Scan, walk
from unbounded.progress import Progress
from unbounded.query import MicroBatches
from unbounded.scan import scan_memory
from unbounded.sinks.memory import MemorySink
from unbounded.sources.memory import MemorySource
from unbounded.sources.rows import Rows
from unbounded.state import Home
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import decode
from unbounded.testing.rows import same_rows
from unbounded.testing.shelf import Death, Died, Shelf

__all__ = ["Pipeline", "Story", "Taken", "given", "planned", "whole_tables"]

Pipeline: TypeAlias = Callable[..., Any]
"""A query: takes a frame for each source, `pl.LazyFrame` or `ub.StreamFrame`, and gives one of the same kind."""

_MANY = 100  # a memory source gives all it has at once, then a batch closes what the watermark passed


@dataclass(frozen=True)
class Taken:
    """What one batch was meant to do: its intent, and the rows it read, by the name of the source."""

    intent: Intent
    rows: Mapping[str, pl.DataFrame]


class Story:
    """A query over tables in memory, told step by step. Every verb but the last ones gives the story back.

    >>> from datetime import datetime
    >>> import polars as pl, unbounded as ub
    >>> from unbounded.testing import given
    >>> def per_hour(events):
    ...     hours = events.pipe(ub.with_watermark, "time", "30m").group_by_dynamic("time", every="1h")
    ...     return hours.agg(pl.len().alias("events"))
    >>> def at(hour, minute):
    ...     return {"time": datetime(2026, 3, 1, hour, minute)}
    >>> story = (
    ...     given(per_hour, {"time": pl.Datetime("us")})
    ...     .add([at(8, 5), at(8, 50)])
    ...     .expect([])                                       # the hour may still get rows
    ...     .add([at(9, 40), at(8, 59)])
    ...     .crash("written").restart()                       # a crash changes nothing
    ...     .expect([(datetime(2026, 3, 1, 8), 3)])           # the watermark stands at 09:10
    ...     .add([at(8, 30)])                                 # too late, and reported
    ...     .end()
    ...     .expect([(datetime(2026, 3, 1, 8), 3), (datetime(2026, 3, 1, 9), 1)])
    ... )
    >>> story.late
    1
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *schemas: Mapping[str, Any],
        output_mode: Mode = "append",
        watermark_policy: WatermarkPolicy = "min",
        sink: Callable[[], Sink] | None = None,
    ) -> None:
        self._feeds, self.plan = planned(pipeline, schemas)
        self._mode, self._policy = output_mode, watermark_policy
        self._shelf = Shelf()
        kept = MemorySink()
        self._new_sink = (lambda: kept) if sink is None else sink
        self.progress: list[Progress] = []
        self._begin()

    def _begin(self) -> None:
        self._sink = self._new_sink()
        self._batches = MicroBatches(
            self.plan,
            self._sink,
            mode=self._mode,
            checkpoint=Checkpoint(self._shelf),
            home=self._home(),
            watermark_policy=self._policy,
        )
        self._batches.open()
        self._alive = True

    def _home(self) -> Home:
        """Where the state of a process that starts now lies."""
        return MemoryHome(self._shelf)

    # What happens -------------------------------------------------------------------------------
    def add(self, rows: Rows, feed: int = 0) -> Story:
        """Rows arrive at the feed of that number: a frame, dicts, or columns. Nothing runs."""
        self._feeds[feed].add(rows)
        return self

    def batch(self) -> Story:
        """Run one batch, if one is due: for new rows, or because the watermark moved."""
        self._note(self._living().run_once())
        return self

    def run(self) -> Story:
        """Run batches until none is due. AssertionError if there is no end to them."""
        for _ in range(_MANY):
            if not self._note(self._living().run_once()):
                return self
        raise AssertionError(f"{_MANY} batches ran one after another though no rows came: the query does not settle")

    def end(self) -> Story:
        """Run what is due, then declare the input ended, as `ub.available_now(final=True)`: every group closes."""
        self.run()
        self._note(self._living().finish())
        return self

    def crash(self, behind: Death | None = None) -> Story:
        """The process dies: now, or in the next batch `behind` one of its acts; see `Death`.

        A batch that has no such act is finished first. Then the sink can be read, and nothing runs until `restart`.
        """
        if behind is not None:
            self._shelf.dies = behind
            try:
                self.batch()
            except Died:
                pass
            finally:
                self._shelf.dies = None
        self._alive = False
        return self

    def restart(self) -> Story:
        """Start again on the same checkpoint; a process that is alive stops first."""
        if self._alive:
            self._batches.close()
        self._begin()
        return self

    def _note(self, progress: Progress | None) -> bool:
        if progress is not None:
            self.progress.append(progress)
        return progress is not None

    def _living(self) -> MicroBatches:
        if not self._alive:
            raise PlanError("the process of this story died in crash(), so no batch can run. Go on with .restart()")
        return self._batches

    # What is seen -------------------------------------------------------------------------------
    def expect(self, rows: Any, *, key: Sequence[str] = ()) -> Story:
        """Run what is due; then the sink holds exactly these rows, in any order, floats to nine digits.

        Rows are a frame of either kind, tuples or dicts, or columns. `key` names the columns by which a row is known.
        """
        if self._alive:
            self.run()
        answer = self.answer()
        same_rows(answer, _table(rows, answer.schema), key=key)
        return self

    def answer(self) -> pl.DataFrame:
        """What a reader of the sink sees now; nothing runs."""
        return self._sink.read().collect()

    @property
    def late(self) -> int:
        """Rows reported as late so far; a row that is late for two windows counts twice."""
        return sum(one.num_rows_dropped_by_watermark for p in self.progress for one in p.state_operators)

    def taken(self) -> list[Taken]:
        """The batches so far, as their intents fixed them: what each read, and by which watermarks it decided."""
        found, positions = [], dict[str, Offset]()
        for name in self._shelf.names("offsets"):
            path = f"offsets/{name}"
            intent = Intent(**decode(self._shelf.read(path), "offsets", int(name), path)[0])
            rows = {}
            for scan in _scans(self.plan):
                until = intent.offsets.get(scan.name)
                read = scan.source.schema.to_frame()
                if until is not None:
                    read = scan.source.read(positions.get(scan.name), until).collect()
                    positions[scan.name] = until
                rows[scan.name] = read
            found.append(Taken(intent, rows))
        return found


def _scans(plan: Node) -> list[Scan]:
    return [node for node in walk(plan) if isinstance(node, Scan)]


def whole_tables(plan: Node, tables: Sequence[pl.DataFrame]) -> dict[str, pl.LazyFrame]:
    """All rows of every source by its name: of the feeds these, of bounded frames among them their own."""
    feeds = {f"feed{i}": table.lazy() for i, table in enumerate(tables)}
    others = {scan.name: scan.source for scan in _scans(plan) if scan.name not in feeds}
    return feeds | {
        name: source.read(None, until)
        for name, source in others.items()
        if (until := source.latest(None, None, limited=False)) is not None
    }


given = Story


def planned(pipeline: Pipeline, schemas: Sequence[Mapping[str, Any]]) -> tuple[list[MemorySource], Node]:
    """A feed per schema, named feed0, feed1, ..., and the plan that a pipeline makes of them."""
    feeds = [MemorySource(schema) for schema in schemas]
    frame = pipeline(*(scan_memory(feed, name=f"feed{i}") for i, feed in enumerate(feeds)))
    if not isinstance(frame, StreamFrame):
        raise PlanError(
            f"the pipeline gave a {type(frame).__name__} for a stream. Let it return what its verbs give, without "
            "collect() or snapshot()"
        )
    return feeds, frame._plan


def _table(rows: Any, schema: pl.Schema) -> pl.DataFrame:
    match rows:
        case pl.LazyFrame():
            return rows.collect()
        case pl.DataFrame():
            return rows
        case Mapping():
            return pl.DataFrame(rows, schema=schema)
        case _:
            return pl.DataFrame(rows, schema=schema, orient="row")
