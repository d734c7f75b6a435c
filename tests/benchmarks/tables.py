"""How are the results shown as tables: in a terminal, and in Markdown?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from tests.benchmarks.budgets import LIMIT, PEER, Finding, findings
from tests.benchmarks.results import Measured, Results, Times

__all__ = ["as_markdown", "as_text"]

Row: TypeAlias = Sequence[str]


def as_text(results: Results) -> str:
    """All that was measured, with what was to be held, for a terminal."""
    parts = [_heading(results), *(_aligned(table(results)) for table in _TABLES), *results.remarks]
    return "\n\n".join(part for part in parts if part)


def as_markdown(results: Results) -> str:
    """What a reader of the README wants to know: the queries, the budgets that are about no query, and where."""
    parts = [*(_markdown(table(results)) for table in (_queries, _budgets_that_are_no_query)), _source(results)]
    return "\n\n".join(filter(None, parts))


def _heading(results: Results) -> str:
    return f"{results.machine}\n{_peer(results)}\n{results.command}, {results.day}"


def _peer(results: Results) -> str:
    if not results.spark_memory_mb:
        return results.spark
    memory = f"{results.spark_memory_mb:,.0f} MB at most over all queries"
    return f"Spark {results.spark}, local[2], 2 shuffle partitions, heap of 4 GiB, {memory}"


def _source(results: Results) -> str:
    """Where, against which peer, how and when; and what is to be known of it."""
    remarks = (remark.rstrip(".") for remark in results.remarks)
    return ". ".join([results.machine, _peer(results), f"`{results.command}`, {results.day}", *remarks]) + "."


def _queries(results: Results) -> list[Row]:
    head = (
        "query",
        "rows/s",
        LIMIT,
        PEER,
        "batch p50 / p99",
        "memory (of Polars)",
        "checkpoint per batch",
    )
    rows = [_query(results, name, engines) for name, engines in results.engines.items()]
    return [head, *rows] if rows else []


def _query(results: Results, name: str, engines: dict[str, Measured]) -> Row:
    ours, limit = engines["unbounded"], engines["polars"]
    found = {one.measure.partition(": ")[2]: one for one in findings(results) if one.measure.startswith(f"{name}: ")}
    return (
        name,
        f"{results.rows[name] / ours.median / 1e6:.1f} M",
        _against(found.get(LIMIT)),
        _against(found.get(PEER)),
        _times(ours.batches),
        f"{ours.memory_mb:.0f} ({limit.memory_mb:.0f}) MB",
        f"{(ours.checkpoint_bytes or 0) / 1e3:,.0f} kB",
    )


def _against(found: Finding | None) -> str:
    """A ratio, and what it must be if it is not."""
    if found is None:
        return ""
    missed = f" (must be {found.must:g}x)" if found.verdict == "MISSED" else ""
    return f"{found.found:.3g}x{missed}"


def _seconds(results: Results) -> list[Row]:
    engines = list(dict.fromkeys(engine for each in results.engines.values() for engine in each))
    rows = [
        (name, *(f"{each[engine].median:.3f}" if engine in each else "" for engine in engines))
        for name, each in results.engines.items()
    ]
    batches = [
        (
            f"{name}, batch p50 / p99",
            *(_times(each[engine].batches) if engine in each else "" for engine in engines),
        )
        for name, each in results.engines.items()
    ]
    return [("seconds", *engines), *rows, *batches] if rows else []


def _budgets(results: Results) -> list[Row]:
    return _budgets_of(results, lambda measure: True)


def _budgets_that_are_no_query(results: Results) -> list[Row]:
    return _budgets_of(results, lambda measure: measure.partition(":")[0] not in results.engines)


def _budgets_of(results: Results, wanted: Callable[[str], bool]) -> list[Row]:
    rows = [
        (
            one.measure,
            f"{one.found:.3g}{'' if one.unit == 'x' else ' '}{one.unit}",
            f"{'>=' if one.at_least else '<='} {one.must:g}",
            f"{'>=' if one.at_least else '<='} {one.goal:.3g}",
            one.verdict,
            one.beside,
        )
        for one in findings(results)
        if wanted(one.measure)
    ]
    return [("budget", "found", "must", "goal", "holds", "beside"), *rows] if rows else []


def _growth(results: Results) -> list[Row]:
    grown = {
        **{f"{keys:,} keys in {home}": times for home, each in results.keys.items() for keys, times in each.items()},
        **{f"number {number:,}": times for number, times in results.numbers.items()},
        **{f"{seen:,} files seen": one.batch for seen, one in results.files.items()},
    }
    rows = [(name, f"{each.p50:.2f}", f"{each.p99:.2f}", f"{each.worst:.2f}") for name, each in grown.items()]
    return [("a batch with", "p50 ms", "p99 ms", "worst ms"), *rows] if rows else []


def _listings(results: Results) -> list[Row]:
    rows = [(f"{seen:,}", f"{one.listing:.1f}", f"{one.scandir:.1f}") for seen, one in results.files.items()]
    return [("files in a folder", "listing ms", "scandir ms"), *rows] if rows else []


def _homes(results: Results) -> list[Row]:
    rows = [
        (
            home,
            f"{one.median:.3f}",
            _times(one.batches),
            f"{one.memory_mb:.0f} MB",
            f"{(one.checkpoint_bytes or 0) / 1e3:,.0f} kB",
        )
        for home, one in results.homes.items()
    ]
    head = ("group query by home", "seconds", "batch p50 / p99", "memory", "checkpoint per batch")
    return [head, *rows] if rows else []


_TABLES = (_queries, _seconds, _growth, _listings, _homes, _budgets)


def _times(times: Times | None) -> str:
    return "" if times is None else f"{times.p50:.0f} / {times.p99:.0f} ms"


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _markdown(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))
