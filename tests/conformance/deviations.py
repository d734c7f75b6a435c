"""Where does this engine answer otherwise than Spark on purpose, and which operators are not built yet?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatch
from typing import Final, Literal, TypeAlias

from tests.conformance.expressions import Json, delay, value

__all__ = ["DEVIATIONS", "NOT_BUILT", "Deviates", "Kind"]

Kind: TypeAlias = Literal["Polars' own semantics", "out of scope of the cases", "improvement over Spark"]
Cases: TypeAlias = Callable[[Json], bool]


@dataclass(frozen=True)
class Deviates:
    """One reason to answer otherwise, and the cases it shows in; each of these must really end otherwise."""

    kind: Kind
    reason: str
    cases: Cases


# ------------------------------------------------------------------------------------ kinds of cases
def _named(*patterns: str) -> Cases:
    return lambda case: any(fnmatch(case["name"], pattern) for pattern in patterns)


def _refused(cases: Cases) -> Cases:
    """Cases of which Spark refuses the query itself."""
    return lambda case: "expect_error" in case["steps"][-1] and cases(case)


def _uses(*names: str) -> Cases:
    """Cases with one of these operators, aggregates or calls in a plan."""
    return lambda case: any(name in names for plan in _plans(case) for name in _words(plan))


def _plans(case: Json) -> Iterator[Json]:
    yield case["plan"]
    yield from (step["start"]["plan"] for step in case["steps"] if "plan" in step.get("start", {}))


def _parts(plan: Json) -> Iterator[Json]:
    """Every object and list of a plan."""
    if isinstance(plan, dict | list):
        yield plan
        for part in plan.values() if isinstance(plan, dict) else plan:
            yield from _parts(part)


def _words(plan: Json) -> Iterator[str]:
    for part in _parts(plan):
        if isinstance(part, dict):
            yield from (part[key] for key in ("op", "fn") if key in part)
        elif part and isinstance(part[0], str):
            yield part[0]


def _operators(plan: Json, *names: str) -> list[Json]:
    return [part for part in _parts(plan) if isinstance(part, dict) and part.get("op") in names]


def _writes_files(case: Json) -> bool:
    return case.get("sink", {}).get("kind") == "files"


def _updates_files(case: Json) -> bool:
    return _writes_files(case) and case["output_mode"] != "append"


def _empty_text_in_csv(case: Json) -> bool:
    rows = [row for step in case["steps"] for row in step.get("add_data", {}).get("rows", ())]
    return case.get("sink", {}).get("format") == "csv" and any("" in row for row in rows)


def _two_watermarks(case: Json) -> bool:
    """One source has two different watermarks, and Spark takes the query."""
    marks = {
        (str(_operators(mark, "source")), mark["col"], mark["delay"])
        for plan in _plans(case)
        for mark in _operators(plan, "watermark")
    }
    by_source = [source for source, _, _ in marks]
    restarted = any("plan" in step.get("start", {}) for step in case["steps"])
    return len(by_source) > len(set(by_source)) and not restarted and "expect_error" not in case["steps"][-1]


def _before_1970(case: Json) -> bool:
    """Rows come that a watermark of 1970 drops, while the rows so far give none above it."""
    marks = _operators(case["plan"], "watermark")
    if not marks or case["output_mode"] == "complete":
        return False
    own_time = bool(_operators(case["plan"], "dedup", "dedup_within_watermark", "join", "stateful"))
    kinds = {source["name"]: [kind for _, kind in source["schema"]] for source in case["sources"]}
    longest = max(
        (found for mark in marks if isinstance(found := delay(mark["delay"]), timedelta)), default=timedelta()
    )
    mark, newest = value("1970-01-01T00:00:00Z", "timestamp"), None
    epoch, times = mark, []
    for step in case["steps"]:
        if "add_data" in step:
            kind = kinds[step["add_data"]["source"]]
            times += [
                value(one, "timestamp")
                for row in step["add_data"]["rows"]
                for one, of in zip(row, kind, strict=False)
                if of == "timestamp" and one is not None
            ]
        elif "process" in step or "start" in step:
            if mark == epoch and any(time < epoch or (own_time and time == epoch) for time in times):
                return True
            newest = max(times, default=newest) if newest is None else max([newest, *times])
            mark = epoch if newest is None else max(epoch, newest - longest)
            times = []
    return False


def _join_of_streams(case: Json) -> bool:
    sides = [(join["left"], join["right"]) for plan in _plans(case) for join in _operators(plan, "join")]
    return any(all(_operators(side, "source") for side in both) for both in sides)


# ---------------------------------------------------------------------------------------- the tables
DEVIATIONS: Final = (
    Deviates(
        "improvement over Spark",
        "the watermark is not set before the first event time; Spark's stands at 1970, so it drops what is older, and "
        "a first watermark below 1970 does not move it",
        lambda case: _before_1970(case) or _named("wm-batch-count")(case),
    ),
    Deviates(
        "improvement over Spark",
        "the watermark of each source survives a restart; Spark remembers only the smallest of all",
        _named("wm-two-streams-min"),
    ),
    Deviates(
        "improvement over Spark",
        "one source has one event time, so that two different watermarks on it are refused, naming both; Spark takes "
        "the smaller without a word",
        _two_watermarks,
    ),
    Deviates(
        "improvement over Spark",
        "distinct values are counted exactly in a table of their own, where Spark refuses",
        _refused(_uses("n_unique_exact")),
    ),
    Deviates("improvement over Spark", "pivot() is answered, where Spark refuses", _refused(_uses("pivot"))),
    Deviates("improvement over Spark", "slice() is answered, where Spark refuses", _refused(_uses("offset"))),
    Deviates(
        "improvement over Spark",
        "limit() is answered also in update mode, where Spark refuses",
        _refused(_named("unsup-limit-update")),
    ),
    Deviates("improvement over Spark", "the file sink keeps a table in every mode", _refused(_updates_files)),
    Deviates(
        "improvement over Spark",
        "complete mode shows the whole answer: unique() of the whole table; Spark forgets the rows it has shown",
        _named("unsup-dedup-after-agg-complete"),
    ),
    Deviates(
        "improvement over Spark",
        "unique() of groups that still change is refused; Spark shows every version of a group as a row of its own",
        _named("unsup-dedup-after-agg-update"),
    ),
    Deviates(
        "out of scope of the cases",
        "csv empty string vs null: an empty text comes back as what it was, Spark makes null of it",
        _empty_text_in_csv,
    ),
)

NOT_BUILT: Final[dict[str, Cases]] = {
    "keyed functions": _uses("stateful"),
    "session windows": _uses("session_window"),
    "unique_within_watermark": _uses("dedup_within_watermark"),
    "join of two streams": _join_of_streams,
    "concat of a stream and a bounded frame": lambda case: any(
        bool(_operators(one, "static"))
        for plan in _plans(case)
        for union in _operators(plan, "union")
        for one in union["inputs"]
    ),
    "watermark policy": lambda case: "watermark_policy" in str(case),
    "aggregates of all values": _uses("n_unique_approx", "sum_distinct"),
}
"""What the engine refuses today as not built yet, and the cases that need it; a case that runs fails here."""
