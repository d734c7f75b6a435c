"""What does one see of a frame, a query, or all queries of a process, in a notebook and in a terminal?

HTML for notebooks holds no script, no style sheet and no background of its own: it takes the colours
of the page, so that it is right in light and dark themes. Everything a user named is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final, Protocol

from unbounded.progress import Progress

__all__ = ["ShownQueries", "ShownQuery", "frame_card"]

_LINE: Final = "rgba(128,128,128,.35)"
_CELL: Final = (
    f"text-align:left;padding:2px 14px 2px 0;border-bottom:1px solid {_LINE};background:none;white-space:nowrap"
)
_MUTED: Final = "opacity:.65"
_DOTS: Final = {"active": "#2e9e5b", "stopped": "#8a8a8a", "failed": "#d64545"}
_BAR, _GAP, _TALL, _BARS = 3, 1, 26, 50  # of a sparkline, in pixels; how many at most


# ------------------------------------------------------------------------------------------ frame
def frame_card(schema: Mapping[str, object], plan: str) -> str:
    """A frame in a notebook: what it is, its columns, its plan, and how to see rows."""
    columns = _table(("column", "type"), ((name, str(dtype)) for name, dtype in schema.items()))
    return _card(
        f"<b>StreamFrame</b> <span style='{_MUTED}'>unbounded, {len(schema)} columns; nothing runs yet</span>",
        columns,
        f"<details open><summary>plan, {escape(plan.partition(chr(10))[0])}</summary>"
        f"{_pre(plan.partition(chr(10))[2].strip())}</details>",
        f"<span style='{_MUTED}'>look at rows: <code>frame.show()</code> or <code>frame.snapshot().head().collect()"
        "</code>; keep the answer up to date: <code>frame.sink_parquet(path, checkpoint=...)</code></span>",
    )


# ---------------------------------------------------------------------------------------- queries
class _Query(Protocol):
    """What a card tells of a query."""

    place: str
    _error: BaseException | None

    @property
    def name(self) -> str | None: ...
    @property
    def is_active(self) -> bool: ...
    @property
    def recent_progress(self) -> list[Progress]: ...


class ShownQuery:
    """A query as one sees it: in one line, or in a notebook as a card."""

    def __repr__(self: _Query) -> str:
        if self._error is not None:
            return f"<StreamingQuery {_label(self)!r} failed: {type(self._error).__name__}: {self._error}>"
        last = f", {self.recent_progress[-1].line}" if self.recent_progress else ""
        return f"<StreamingQuery {_label(self)!r} {_state(self)}{last}>"

    def _repr_html_(self: _Query) -> str:
        parts = [_title(self)]
        if self._error is not None:
            parts.append(_pre(f"{type(self._error).__name__}: {self._error}", line=_DOTS["failed"]))
        if recent := self.recent_progress:
            parts += [
                _table(_FACTS, [_facts(recent)]),
                *_sparklines(recent),
                *_operators(recent[-1]),
                _ends(recent[-1]),
            ]
        else:
            parts.append(f"<span style='{_MUTED}'>no batch yet in this run</span>")
        return _card(*parts)


class ShownQueries:
    """All queries of a process as one sees them."""

    _queries: Sequence[_Query]

    def __repr__(self) -> str:
        queries = list(self._queries)
        return f"<ub.streams: {len(queries)} known, {sum(query.is_active for query in queries)} active>"

    def _repr_html_(self) -> str:
        queries = list(self._queries)
        if not queries:
            return _card(f"<b>ub.streams</b> <span style='{_MUTED}'>no query was started in this process</span>")
        rows = [
            (
                _label(query),
                _state(query),
                *(_facts(query.recent_progress) if query.recent_progress else ("",) * len(_FACTS)),
            )
            for query in queries
        ]
        active = sum(query.is_active for query in queries)
        return _card(
            f"<b>ub.streams</b> <span style='{_MUTED}'>{len(queries)} known, {active} active</span>",
            _table(("query", "state", *_FACTS), rows),
        )


def _label(query: _Query) -> str:
    return query.name or query.place


def _state(query: _Query) -> str:
    return "failed" if query._error is not None else "active" if query.is_active else "stopped"


def _title(query: _Query) -> str:
    state = _state(query)
    dot = f"<span style='color:{_DOTS[state]}'>&#9679;</span>"
    where = f" <span style='{_MUTED}'>{escape(query.place)}</span>" if query.name else ""
    return f"{dot} <b>{escape(_label(query))}</b> {state}{where}"


_FACTS: Final = ("batches", "rows in", "rows out", "late", "ms a batch", "rows/s", "watermark")


def _facts(recent: Sequence[Progress]) -> tuple[str, ...]:
    """Of all batches that are still known: the last alone is often one without rows, that only closed windows."""
    first, last = recent[0], recent[-1]
    rows = sum(progress.num_input_rows for progress in recent)
    spent = sum(progress.batch_duration for progress in recent)  # ms
    late = sum(one.num_rows_dropped_by_watermark for progress in recent for one in progress.state_operators)
    return (
        f"{first.batch_id} to {last.batch_id}",
        f"{rows:,}",
        f"{sum(progress.sink.num_output_rows for progress in recent):,}",
        f"{late:,}",
        f"{spent / len(recent):,.0f}",
        f"{rows / spent * 1000:,.0f}" if spent else "",
        last.event_time.get("next", last.event_time.get("watermark", "")),
    )


def _sparklines(recent: Sequence[Progress]) -> list[str]:
    if len(recent) < 2:
        return []
    shown = recent[-_BARS:]
    rows = _sparkline("rows in", [progress.num_input_rows for progress in shown])
    spent = _sparkline("ms", [progress.batch_duration for progress in shown])
    return [f"{rows}&emsp;{spent} <span style='{_MUTED}'>the last {len(shown)} batches</span>"]


def _sparkline(unit: str, values: Sequence[float]) -> str:
    """One bar a batch, the highest as tall as the picture."""
    highest = max(values) or 1
    bars = "".join(
        f"<rect x='{i * (_BAR + _GAP)}' y='{_TALL - height:.1f}' width='{_BAR}' height='{height:.1f}'/>"
        for i, value in enumerate(values)
        for height in [max(1.0, _TALL * value / highest)]
    )
    told = f"{unit} per batch: {values[-1]:,} in the last, {max(values):,} at most"
    return (
        f"<span style='{_MUTED}'>{unit}</span> <svg width='{len(values) * (_BAR + _GAP)}' height='{_TALL}' role='img' "
        f"style='vertical-align:bottom;fill:currentColor;opacity:.6' aria-label='{told}'><title>{told}</title>{bars}"
        "</svg>"
    )


def _operators(last: Progress) -> list[str]:
    if not last.state_operators:
        return []
    head = ("operator", "rows of state", "updated", "removed", "late", "memory")
    rows = (
        (
            one.operator_name,
            f"{one.num_rows_total:,}",
            f"{one.num_rows_updated:,}",
            f"{one.num_rows_removed:,}",
            f"{one.num_rows_dropped_by_watermark:,}",
            f"{one.memory_used_bytes / 1e6:,.1f} MB",
        )
        for one in last.state_operators
    )
    return [_table(head, rows)]


def _ends(last: Progress) -> str:
    sources = ", ".join(source.description for source in last.sources)
    promise = "no guarantee" if last.sink.guarantee == "none" else last.sink.guarantee
    state = f", state in {last.state}" if last.state is not None else ""
    text = f"from {sources} into {last.sink.description} ({promise}){state}, last batch at {last.timestamp}"
    return f"<span style='{_MUTED}'>{escape(text)}</span>"


# ------------------------------------------------------------------------------------------- HTML
def _card(*parts: str) -> str:
    inside = "".join(f"<div style='margin:4px 0'>{part}</div>" for part in parts)
    return (
        f"<div style='border-left:3px solid {_LINE};padding:2px 0 2px 12px;margin:4px 0;font-size:13px;"
        f"overflow-x:auto'>{inside}</div>"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th style='{_CELL};font-weight:normal;{_MUTED}'>{escape(name)}</th>" for name in head)
    lines = (
        "<tr style='background:none'>" + "".join(f"<td style='{_CELL}'>{escape(value)}</td>" for value in row) + "</tr>"
        for row in rows
    )
    return (
        "<table style='border-collapse:collapse;margin:0;font-size:13px;color:inherit'>"
        f"<tr style='background:none'>{titles}</tr>{''.join(lines)}</table>"
    )


def _pre(text: str, *, line: str = _LINE) -> str:
    return (
        f"<pre style='margin:4px 0;padding:2px 0 2px 10px;border-left:3px solid {line};background:none;color:inherit;"
        f"font:12px monospace;white-space:pre-wrap'>{escape(text)}</pre>"
    )
