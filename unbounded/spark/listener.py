"""How does a listener that was written for Spark hear of queries? Each event comes to it in Spark's form."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

from unbounded.errors import PlanError, UnboundedError
from unbounded.progress import Listener, Progress, Record

__all__ = [
    "QueryIdleEvent",
    "QueryProgressEvent",
    "QueryStartedEvent",
    "QueryTerminatedEvent",
    "SparkListener",
    "as_listener",
]


@dataclass(frozen=True)
class QueryStartedEvent(Record):
    """A query has begun."""

    id: str
    run_id: str
    name: str | None
    timestamp: str


@dataclass(frozen=True)
class QueryProgressEvent(Record):
    """A batch was committed."""

    progress: Progress


@dataclass(frozen=True)
class QueryIdleEvent(Record):
    """No batch was due for ten seconds."""

    id: str
    run_id: str
    timestamp: str


@dataclass(frozen=True)
class QueryTerminatedEvent(Record):
    """A query has ended; with the text of its error, and this one's code, if one ended it."""

    id: str
    run_id: str
    exception: str | None
    error_class_on_exception: str | None


@runtime_checkable
class SparkListener(Protocol):
    """What a subclass of PySpark's `StreamingQueryListener` has; `onQueryIdle` may be missing."""

    def onQueryStarted(self, event: QueryStartedEvent) -> None: ...

    def onQueryProgress(self, event: QueryProgressEvent) -> None: ...

    def onQueryTerminated(self, event: QueryTerminatedEvent) -> None: ...


@dataclass(frozen=True)
class _Translated:
    """A listener of ours that hands on to one of Spark's; equal to any other around the same one."""

    listener: SparkListener

    def on_query_started(self, id: str, run_id: str, name: str | None) -> None:
        self.listener.onQueryStarted(QueryStartedEvent(id, run_id, name, _now()))

    def on_query_progress(self, progress: Progress) -> None:
        self.listener.onQueryProgress(QueryProgressEvent(progress))

    def on_query_idle(self, id: str, run_id: str) -> None:
        if (tell := getattr(self.listener, "onQueryIdle", None)) is not None:
            tell(QueryIdleEvent(id, run_id, _now()))

    def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None:
        code = exception.code if isinstance(exception, UnboundedError) else None
        text = None if exception is None else str(exception)
        self.listener.onQueryTerminated(QueryTerminatedEvent(id, run_id, text, code))


def as_listener(listener: Listener | SparkListener) -> Listener:
    """The listener itself, or one of Spark's made to understand ours. PlanError for what is neither."""
    if isinstance(listener, SparkListener):
        return _Translated(listener)
    if not hasattr(listener, "on_query_progress"):
        raise PlanError(
            f"{listener!r} has no method that hears of queries. Write a class with on_query_started(id, run_id, name), "
            "on_query_progress(progress) and on_query_terminated(id, run_id, exception), or Spark's names"
        )
    return listener


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
