"""How is a streaming story told in our own tests? As in `unbounded.testing`, but into files, as most queries write."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from unbounded import testing
from unbounded.connectors import Mode, Sink
from unbounded.plan import Node
from unbounded.sinks.files import FileSink
from unbounded.testing import same_rows

__all__ = ["Pipeline", "Story", "same_rows"]

Pipeline = Callable[..., Any]


class Story(testing.Story):
    """A story whose sink is a folder in memory, opened anew at every restart."""

    def __init__(
        self,
        pipeline: Pipeline,
        *schemas: Mapping[str, Any],
        mode: Mode = "append",
        sink: Callable[[], Sink] | None = None,
    ) -> None:
        MemoryFileSystem.store.clear()  # it looks through all files of the process at every access
        place = f"memory://story-{uuid.uuid4()}"
        super().__init__(pipeline, *schemas, output_mode=mode, sink=sink or (lambda: FileSink(f"{place}/out", "ipc")))

    @property
    def _plan(self) -> Node:
        return self.plan
