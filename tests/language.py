"""How is a streaming story told in a test? `Story(query).add(rows).run().expect(answer).restart().add(...)`.

A story runs the engine batch by batch in the test's own thread, on records in memory: no clock, no
thread, no disk.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
from fsspec.implementations.memory import MemoryFileSystem
from polars.testing import assert_frame_equal

import unbounded as ub
from unbounded.checkpoint import Checkpoint
from unbounded.connectors import Mode, Sink
from unbounded.progress import Progress
from unbounded.query import MicroBatches
from unbounded.sinks.files import FileSink
from unbounded.state.memory import MemoryHome
from unbounded.storage import open_storage

Pipeline = Callable[[ub.StreamFrame], ub.StreamFrame]


def same_rows(left: pl.DataFrame, right: pl.DataFrame, *, key: Sequence[str] = ()) -> None:
    """Assert equal rows in any order, floats to 1e-9; sorting by `key` keeps noise in floats from reordering rows."""
    assert left.schema == right.schema, f"{left.schema} != {right.schema}"
    if key:
        left, right = left.sort(key), right.sort(key)
    assert_frame_equal(left, right, check_row_order=bool(key), rel_tol=1e-9, abs_tol=1e-9)


class Story:
    """One query over one memory source (or several, by name), told step by step."""

    def __init__(
        self,
        pipeline: Callable[..., ub.StreamFrame],
        *schemas: dict[str, Any],
        mode: Mode = "append",
        sink: Callable[[], Sink] | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self._feeds = [ub.MemorySource(schema) for schema in schemas]
        frames = [ub.scan_memory(feed, name=f"feed{i}") for i, feed in enumerate(self._feeds)]
        self._plan = pipeline(*frames)._plan
        self._mode = mode
        MemoryFileSystem.store.clear()  # it looks through all files of the process at every access
        place = f"memory://story-{uuid.uuid4()}"
        self._checkpoint = checkpoint or f"{place}/ckpt"
        self._make_sink = sink or (lambda: FileSink(f"{place}/out", "ipc"))
        self.progress: list[Progress] = []
        self._begin()

    def _begin(self) -> None:
        storage = open_storage(self._checkpoint)
        self.sink = self._make_sink()
        self.batches = MicroBatches(
            self._plan, self.sink, mode=self._mode, checkpoint=Checkpoint(storage), home=MemoryHome(storage)
        )
        self.batches.open()

    def add(self, rows: Any, feed: int = 0) -> Story:
        """Rows arrive; nothing runs."""
        self._feeds[feed].add(rows)
        return self

    def batch(self) -> Story:
        """Run one batch, if one is due."""
        progress = self.batches.run_once()
        if progress is not None:
            self.progress.append(progress)
        return self

    def run(self) -> Story:
        """Run until nothing is due."""
        count = -1
        while count != len(self.progress):
            count = len(self.progress)
            self.batch()
        return self

    def end(self) -> Story:
        """Declare the input ended."""
        self.run()
        progress = self.batches.finish()
        if progress is not None:
            self.progress.append(progress)
        return self

    def restart(self) -> Story:
        """Stop, and start again on the same checkpoint."""
        self.batches.close()
        self._begin()
        return self

    def answer(self) -> pl.DataFrame:
        """What a reader of the sink sees now."""
        return self.sink.read().collect()

    def expect(self, rows: Any, *, key: Sequence[str] = ()) -> Story:
        """The sink holds exactly these rows."""
        answer = self.answer()
        expected = (
            rows.collect() if isinstance(rows, pl.LazyFrame) else pl.DataFrame(rows, schema=answer.schema, orient="row")
        )
        same_rows(answer, expected, key=key)
        return self

    @property
    def late(self) -> int:
        """Rows dropped as late so far."""
        return sum(one.num_rows_dropped_by_watermark for p in self.progress for one in p.state_operators)
