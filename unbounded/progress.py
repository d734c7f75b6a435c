"""What happened: one record per batch, under Spark's key names, and those who want to be told."""

from __future__ import annotations

import html
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

__all__ = [
    "Listener",
    "LiveLine",
    "OperatorProgress",
    "Progress",
    "QueryStatus",
    "Record",
    "SinkProgress",
    "SourceProgress",
]

_SECONDS_PER_PICTURE = 0.1


@dataclass(frozen=True)
class Record:
    """Attributes in snake_case; the same values by `[]` under Spark's camelCase keys."""

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    if not TYPE_CHECKING:  # Spark's listeners read attributes in camelCase

        def __getattr__(self, name: str) -> Any:
            for own in self.__dataclass_fields__:
                if _camel(own) == name:
                    return getattr(self, own)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def to_dict(self) -> dict[str, Any]:
        """Spark's JSON object: camelCase keys, nested objects and lists."""
        return {_camel(name): _plain(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class SourceProgress(Record):
    """What one source gave to a batch."""

    name: str
    description: str
    end_offset: Any
    num_input_rows: int
    input_rows_per_second: float
    processed_rows_per_second: float
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OperatorProgress(Record):
    """What one stateful operator remembers after a batch, and what it left out.

    Rows without event time were left out by windows and by what waits for the watermark; `unique` lets them pass, and
    remembers them for ever.
    """

    operator_name: str
    num_rows_total: int
    num_rows_updated: int
    num_rows_removed: int
    num_rows_dropped_by_watermark: int
    num_rows_without_event_time: int
    memory_used_bytes: int


@dataclass(frozen=True)
class SinkProgress(Record):
    """What the sink got."""

    description: str
    num_output_rows: int
    guarantee: str


@dataclass(frozen=True)
class Progress(Record):
    """One batch. `duration_ms` has Spark's phases.

    `event_time` has ISO instants: `watermark`, by which the batch decided, `max`, the newest it read, and `next`, the
    watermark of the batch behind it. Each is missing while there is none.
    """

    id: str
    run_id: str
    name: str | None
    timestamp: str
    batch_id: int
    batch_duration: int
    num_input_rows: int
    input_rows_per_second: float
    processed_rows_per_second: float
    duration_ms: Mapping[str, float]
    event_time: Mapping[str, str]
    state_operators: Sequence[OperatorProgress]
    sources: Sequence[SourceProgress]
    sink: SinkProgress
    adopted: bool = False
    """Whether the batch had already reached the sink before a crash, and was only committed now."""
    state: str | None = None
    """Where the state lies, without credentials; None of a query that remembers nothing."""

    @property
    def json(self) -> str:
        """Compact JSON under Spark's key names."""
        return json.dumps(self.to_dict(), default=str)

    @property
    def pretty_json(self) -> str:
        """Indented JSON under Spark's key names."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    @property
    def line(self) -> str:
        """The batch in one line for people."""
        late = sum(one.num_rows_dropped_by_watermark for one in self.state_operators)
        parts = [
            f"batch {self.batch_id}",
            f"{self.num_input_rows:,} rows in",
            f"{self.sink.num_output_rows:,} out",
            f"{self.batch_duration} ms",
        ]
        if "watermark" in self.event_time:
            parts.append(f"watermark {self.event_time['watermark']}")
        if late:
            parts.append(f"{late:,} late")
        return " · ".join(parts)


@dataclass(frozen=True)
class QueryStatus(Record):
    """What a query does right now."""

    message: str
    is_data_available: bool
    is_trigger_active: bool


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


class Listener(Protocol):
    """Told what happens, from the query's own thread; an error in a listener is logged and harms nothing.

    One that also has `on_query_idle(id, run_id)` is told every ten seconds in which no batch was due.
    """

    def on_query_started(self, id: str, run_id: str, name: str | None) -> None: ...

    def on_query_progress(self, progress: Progress) -> None: ...

    def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None: ...


class LiveLine:
    """One line with a bar, rewritten in place in a terminal or a notebook cell; silent elsewhere.

    The bar is the share of the files known so far that were read, by this run and earlier ones; sources that know no
    files have none. Batches that follow one another faster than a page can be drawn are shown together.
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._show = _in_notebook() or _in_terminal(stream or sys.stderr)
        self._clock = clock
        self._rows, self._shown_at = 0, float("-inf")
        self._line: str | None = None  # what is still to be shown

    def on_query_started(self, id: str, run_id: str, name: str | None) -> None:
        self._rows = 0

    def on_query_progress(self, progress: Progress) -> None:
        self._rows += progress.num_input_rows
        if self._show is None:
            return
        read = sum(source.metrics.get("seen", 0) for source in progress.sources)
        left = sum(source.metrics.get("backlog_files", 0) for source in progress.sources)
        bar = f"{_bar(read / (read + left))} " if read + left else ""
        self._line = f"{bar}{progress.line} · {self._rows:,} rows in all"
        if self._clock() - self._shown_at >= _SECONDS_PER_PICTURE:
            self._draw()

    def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None:
        self._draw()
        if self._show is not None and self._shown_at > float("-inf"):
            self._show(None)

    def _draw(self) -> None:
        if self._show is not None and self._line is not None:
            self._show(self._line)
            self._shown_at, self._line = self._clock(), None


def _bar(share: float, width: int = 20) -> str:
    full = round(share * width)
    return "█" * full + "░" * (width - full) + f" {share:4.0%}"


def _in_terminal(stream: TextIO) -> Callable[[str | None], None] | None:
    if not stream.isatty():
        return None

    def show(line: str | None) -> None:
        widest = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be rewritten
        stream.write("\n" if line is None else f"\r\x1b[2K{line[:widest]}")
        stream.flush()

    return show


def _in_notebook() -> Callable[[str | None], None] | None:
    """A line in the output of the running cell, if this is a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    display = sys.modules["IPython"].display
    handle = display.display(display.HTML("<pre></pre>"), display_id=True)

    def show(line: str | None) -> None:
        if line is not None:
            style = "margin:0;font:13px monospace;background:none;color:inherit"
            handle.update(display.HTML(f"<pre style='{style}'>{html.escape(line)}</pre>"))

    return show
