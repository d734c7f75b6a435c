"""What does a committed batch look like to those who watch?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from unbounded.checkpoint import Intent
from unbounded.connectors import Identity, Sink
from unbounded.operators import FINAL
from unbounded.operators.flow import Outcome
from unbounded.progress import OperatorProgress, Progress, SinkProgress, SourceProgress
from unbounded.running.inputs import Inputs

__all__ = ["Phases", "left_open", "report", "running"]


@dataclass
class Phases:
    """Milliseconds per phase of a batch, under Spark's names."""

    clock: Callable[[], float]
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = self.clock()
        try:
            yield
        finally:
            self.add(name, started)

    def add(self, name: str, since: float) -> None:
        """What has passed since then on the clock, to a phase."""
        self.spent[name] = self.spent.get(name, 0.0) + round((self.clock() - since) * 1000, 3)


def report(
    query: Identity,
    intent: Intent,
    outcome: Outcome | None,
    *,
    next_watermark: int | None,
    spent_ms: Mapping[str, float],
    interval: float,
    inputs: Inputs,
    sink: Sink,
    sizes: Mapping[str, Mapping[str, int]],
    state: str,
) -> Progress:
    """The progress record of a batch; `outcome` is None where it was adopted, `interval` seconds since the last."""
    spent = sum(spent_ms.values())
    read = outcome.read if outcome is not None else {}
    rows = sum(read.values())
    event_time = {} if intent.watermark is None else {"watermark": _instant(intent.watermark)}
    if outcome is not None and outcome.seen:
        event_time["max"] = _instant(max(outcome.seen.values()))
    if next_watermark is not None:
        event_time["next"] = _instant(next_watermark)
    return Progress(
        id=query.id,
        run_id=query.run_id,
        name=query.name,
        timestamp=intent.time,
        batch_id=intent.batch,
        batch_duration=round(spent),
        num_input_rows=rows,
        input_rows_per_second=_rate(rows, interval),
        processed_rows_per_second=_rate(rows, spent / 1000),
        duration_ms={**spent_ms, "triggerExecution": round(spent, 3)},
        event_time=event_time,
        state_operators=_operators(outcome, sizes),
        sources=[
            SourceProgress(
                name=name,
                description=source.description,
                end_offset=intent.offsets.get(name),
                num_input_rows=read.get(name, 0),
                input_rows_per_second=_rate(read.get(name, 0), interval),
                processed_rows_per_second=_rate(read.get(name, 0), spent / 1000),
                metrics=inputs.counting[name].metrics() if name in inputs.counting else {},
            )
            for name, source in inputs.sources.items()
        ],
        sink=SinkProgress(
            description=sink.description,
            num_output_rows=outcome.rows.height if outcome is not None else 0,
            guarantee=sink.guarantee,
        ),
        adopted=outcome is None,
        state=state if sizes else None,
    )


def _operators(outcome: Outcome | None, sizes: Mapping[str, Mapping[str, int]]) -> list[OperatorProgress]:
    reports = []
    for id, change in outcome.changes.items() if outcome is not None else ():
        mine = [size for name, size in sizes.items() if name.startswith(f"{id}/")]
        reports.append(
            OperatorProgress(
                operator_name=id,
                num_rows_total=sum(size["rows"] for size in mine),
                num_rows_updated=change.updated,
                num_rows_removed=change.evicted,
                num_rows_dropped_by_watermark=change.late,
                num_rows_without_event_time=change.without_time,
                memory_used_bytes=sum(size["bytes"] for size in mine),
            )
        )
    return reports


def _rate(rows: int, seconds: float) -> float:
    return round(rows / seconds, 3) if seconds > 0 else 0.0


def _instant(milliseconds: int) -> str:
    """Epoch milliseconds for people: ISO 8601 in UTC."""
    if milliseconds == FINAL:
        return "end of input"
    try:
        found = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds} ms"
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def left_open(sizes: Mapping[str, Mapping[str, int]], watermark: int | None, lonely: Collection[str]) -> str | None:
    """What to tell at the end of a run that leaves groups open or rows waiting, by the sizes of its tables; or None.

    Of the rows in `lonely` tables only those come out that find no partner.
    """
    rows = {name: size["rows"] for name, size in sizes.items()}
    groups, slices, *ready = (
        sum(rows[name] for name in rows if name.endswith(end)) for end in ("/groups", "/slices", "/waiting", "/open")
    )
    waiting, unmatched = sum(ready), sum(rows[name] for name in lonely)
    # A slice is in a window that no earlier slice of its key is in, so the windows are no fewer.
    least, at_least = groups + slices, slices > 0
    told = []
    if least:
        one = least == 1 and not at_least
        told.append("1 group stays open" if one else f"{'at least ' if at_least else ''}{least:,} groups stay open")
    if waiting:
        told.append("1 row waits" if waiting == 1 else f"{waiting:,} rows wait")
    if unmatched:
        told.append(f"up to {unmatched:,} row{'s' * (unmatched > 1)} of a join wait for a partner")
    if not told:
        return None
    now = f"is at {_instant(watermark)}" if watermark is not None else "is not set yet"
    alone = least + waiting == 1 and not at_least and not unmatched
    end = ("end" if least else "time") + "s" * (not alone)
    return (
        f"{' and '.join(told)}: {'it comes' if alone else 'they come'} out when later rows move the watermark, which "
        f"{now}, past {'its' if alone else 'their'} {end}. "
        "If no more rows will come, close them with trigger=ub.available_now(final=True)"
    )


def running(intent: Intent | None, following: int) -> str:
    """Which batch runs, with what it reads, or that none does before the following one; for error messages."""
    if intent is None:
        return f"between batches, before batch {following}"
    text = str(dict(intent.offsets))
    offsets = text if len(text) <= 500 else f"{text[:500]}..."
    return f"in batch {intent.batch} (offsets {offsets}), of which nothing was committed"
