"""Where does this engine answer otherwise than Spark on purpose, and which operators are not built yet?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatch
from typing import Final, Literal, TypeAlias

from tests.conformance.expressions import Json, call, delay, value, window

__all__ = ["DEVIATIONS", "NOT_BUILT", "Deviates", "Kind"]

Kind: TypeAlias = Literal["Polars' own semantics", "out of scope of the cases", "improvement over Spark"]
Cases: TypeAlias = Callable[[Json], bool]


@dataclass(frozen=True)
class Deviates:
    """One reason to answer otherwise, and the cases it shows in; each of these must really end otherwise."""

    kind: Kind
    reason: str
    shows: str
    """A regular expression that every difference of such a case matches: the reason explains these and no others."""
    cases: Cases

    def explains(self, differences: Sequence[str]) -> bool:
        """Whether the reason is one for all these differences."""
        return all(re.search(self.shows, one) for one in differences)


# ------------------------------------------------------------------------------------ kinds of cases
def _named(*patterns: str) -> Cases:
    return lambda case: any(fnmatch(case["name"], pattern) for pattern in patterns)


def _refused(cases: Cases) -> Cases:
    """Cases of which Spark refuses the query itself."""
    return lambda case: "expect_error" in case["steps"][-1] and cases(case)


def _answered(reason: str, cases: Cases) -> Deviates:
    """A query that Spark refuses and this engine answers."""
    return Deviates("improvement over Spark", f"{reason}; Spark refuses", "nothing failed", _refused(cases))


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
    return "files" in case.get("sink", {}).values()


def _updates_files(case: Json) -> bool:
    return _writes_files(case) and case["output_mode"] != "append"


def _of_groups(case: Json) -> bool:
    """An aggregate of an aggregate in complete mode."""
    groups = _operators(case["plan"], "group_agg")
    return case["output_mode"] == "complete" and any(_operators(one["input"], "group_agg") for one in groups)


def _limit_of_rows(case: Json) -> bool:
    limits = [one["input"] for one in _operators(case["plan"], "limit")]
    return case["output_mode"] == "update" and bool(limits) and not any(_operators(one, "group_agg") for one in limits)


def _concat_with_bounded(case: Json) -> bool:
    return any(_bounded(one) for union in _operators(case["plan"], "union") for one in union["inputs"])


def _bounded(plan: Json) -> bool:
    return not _operators(plan, "source")


def _set_operation_on_a_stream(case: Json) -> bool:
    found = _operators(case["plan"], "intersect", "except")
    return any(_operators(one["left"], "source") and not _operators(one["right"], "source") for one in found)


def _odd_window(case: Json) -> bool:
    """A window of months, with gaps, with an offset beyond its slide, or beside another window."""
    calls = [part for plan in _plans(case) for part in _parts(plan) if call(part, "window")]
    if any("month" in text or "year" in text for one in calls for text in one[2:]):
        return True
    found = [window(one) for one in calls if one[2:] != ["0 seconds"] and isinstance(one[1], str)]
    odd = any(_fixed(one.slide) > _fixed(one.size) or abs(_fixed(one.offset)) >= _fixed(one.slide) for one in found)
    return odd or any(sum(call(key["expr"], "window") for key in keys) > 1 for keys in _keys(case))


def _fixed(length: timedelta | str | None) -> timedelta:
    return length if isinstance(length, timedelta) else timedelta()


def _keys(case: Json) -> list[Json]:
    return [one["keys"] for plan in _plans(case) for one in _operators(plan, "group_agg")]


def _another_mode(case: Json) -> bool:
    return any("output_mode" in step.get("start", {}) for step in case["steps"])


def _another_window(case: Json) -> bool:
    calls = [[part for part in _parts(plan) if call(part, "window")] for plan in _plans(case)]
    return any(one != calls[0] for one in calls)


def _hides_groups(case: Json) -> bool:
    """A filter above an aggregate that reads nothing but its keys."""
    for one in _operators(case["plan"], "filter"):
        keys = {key["name"] for group in _operators(one["input"], "group_agg") for key in group["keys"]}
        read = {part.split(".")[0] for part in _leaves(one["cond"])}
        if _operators(one["input"], "group_agg") and read <= keys:
            return True
    return False


def _leaves(e: Json) -> Iterator[str]:
    """The columns that an expression reads."""
    if isinstance(e, str):
        yield e
    elif isinstance(e, list):
        for part in e[1:]:
            yield from _leaves(part)


def _sliding_projection(case: Json) -> bool:
    """A sliding window as a column, then grouped by, in append mode."""
    projected = [e for one in _operators(case["plan"], "select", "with_columns") for _, e in one["cols"]]
    sliding = any(call(e, "window") and len(e) > 3 for e in projected)
    return sliding and case["output_mode"] == "append" and bool(_operators(case["plan"], "group_agg"))


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
    renamed = _self_join(case)
    return len(by_source) > len(set(by_source)) and not (restarted or renamed or "expect_error" in case["steps"][-1])


def _before_1970(case: Json) -> bool:
    """Rows come that a watermark of 1970 drops, while the rows so far give none above it."""
    marks = _operators(case["plan"], "watermark")
    if not marks or case["output_mode"] == "complete":
        return False
    own_time = bool(_operators(case["plan"], "dedup", "dedup_within_watermark", "stateful"))
    own_time |= bool(_operators(case["plan"], "join")) and not any(
        call(part, "window") for part in _parts(case["plan"])
    )
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


def _joins(plan: Json, *, streams: bool) -> list[Json]:
    """The joins of two streams, or all others."""
    found = [(one, [one["left"], one["right"]]) for one in _operators(plan, "join")]
    return [one for one, sides in found if all(_operators(side, "source") for side in sides) is streams]


def _self_join(case: Json) -> bool:
    """A stream is joined with itself, and each side has a watermark of its own."""
    for one in _joins(case["plan"], streams=True):
        marks = [_operators(side, "watermark") for side in (one["left"], one["right"])]
        if all(marks) and _operators(one["left"], "source") == _operators(one["right"], "source"):
            return True
    return False


def _semi_or_anti(case: Json) -> bool:
    return any(one["how"] in ("left_semi", "left_anti") for one in _joins(case["plan"], streams=True))


def _inner_below_complete(case: Json) -> bool:
    """Pairs of two streams are grouped in complete mode."""
    inner = [one for one in _joins(case["plan"], streams=True) if one["how"] in ("inner", "left_semi")]
    return case["output_mode"] == "complete" and bool(inner) and bool(_operators(case["plan"], "group_agg"))


def _sessions_in_update(case: Json) -> bool:
    return case["output_mode"] == "update" and _uses("session_window")(case)


# ---------------------------------------------------------------------------------------- the tables
DEVIATIONS: Final = (
    # Spark refuses, and the answer is that of bounded Polars.
    _answered("distinct values are counted exactly, in a table of their own", _uses("n_unique_exact", "sum_distinct")),
    _answered("pivot() with given columns is a group_by", _uses("pivot")),
    _answered("slice() counts rows over the life of the query", _uses("offset")),
    _answered("limit() counts rows in update mode as it does in append mode", _limit_of_rows),
    _answered("groups of groups are those of the whole answer in complete mode", _of_groups),
    _answered("rows that a table has, or has not, are looked up one by one", _set_operation_on_a_stream),
    _answered("a bounded table comes once, before the stream, in concat()", _concat_with_bounded),
    _answered("windows may be months, have gaps, any offset, and stand beside others", _odd_window),
    _answered("sessions are kept in update mode, and those merged away leave the table", _sessions_in_update),
    _answered("the file sink keeps a table in update and complete mode", _updates_files),
    _answered("rows of a semi or anti join come out when their partner comes, or when none can", _semi_or_anti),
    _answered("pairs of two streams never change, so they may be grouped in complete mode", _inner_below_complete),
    # Both answer, or Spark alone.
    Deviates(
        "improvement over Spark",
        "the watermark is not set before the first event time; Spark's stands at 1970, so it drops what is older, and "
        "a first watermark below 1970 does not move it",
        "expect_|rows of state|rows dropped as late",
        lambda case: _before_1970(case) or _named("wm-batch-count")(case),
    ),
    Deviates(
        "improvement over Spark",
        "the watermark of each source survives a restart; Spark remembers only the smallest of all",
        "expect_watermark",
        _named("wm-two-streams-min", "wm-complete-two-watermarks-restart", "gen-join-inner-window-2"),
    ),
    Deviates(
        "improvement over Spark",
        "null keys are equal to nothing, as everywhere else; Spark pairs them in a full join of two streams. And the "
        "watermark of each source survives a restart",
        "expect_new|expect_watermark",
        _named("gen-join-full-window-2"),
    ),
    Deviates(
        "improvement over Spark",
        "one source has one event time, so that two different watermarks on it are refused, naming both; Spark takes "
        "the smaller without a word",
        "failed with PLAN: .*watermark",
        _two_watermarks,
    ),
    Deviates(
        "improvement over Spark",
        "each value of a group is a row of state, so that a batch costs what the batch costs; Spark keeps all values "
        "in one row and writes it anew",
        "rows of state",
        _uses("median", "collect_list", "n_unique_set"),
    ),
    Deviates(
        "improvement over Spark",
        "groups that a step above them hides are kept, so that the step may change over a restart; Spark forgets them",
        "rows of state",
        lambda case: _hides_groups(case) or _named("static-agg-complete-join")(case),
    ),
    Deviates(
        "improvement over Spark",
        "an output that was written in one mode is not continued in another",
        "failed with QUERY_CHANGED",
        _another_mode,
    ),
    Deviates(
        "improvement over Spark",
        "windows of one length are not continued with windows of another",
        "failed with QUERY_CHANGED",
        _another_window,
    ),
    Deviates(
        "improvement over Spark",
        "complete mode shows the whole answer: unique() of the whole table; Spark forgets the rows it has shown",
        "expect_complete",
        _named("unsup-dedup-after-agg-complete"),
    ),
    Deviates(
        "improvement over Spark",
        "unique() of groups that still change is refused; Spark shows every version of a group as a row of its own",
        "failed with PLAN: update mode",
        _named("unsup-dedup-after-agg-update"),
    ),
    Deviates(
        "improvement over Spark",
        "one source has one watermark, which both sides of a join with itself move; Spark takes the smaller of two",
        "expect_",
        _self_join,
    ),
    Deviates(
        "improvement over Spark",
        "a row comes out alone as soon as the watermark of the other side says that no partner comes; Spark keeps it "
        "for ever where its own side has none",
        "expect_new",
        _named("unsup-left-join-range-right-watermark-ok"),
    ),
    Deviates(
        "improvement over Spark",
        "rows that a condition on one side of a join leaves out have been seen, so they move the watermark; Spark puts "
        "the condition below it",
        "expect_watermark",
        _named("join-left-condition-violated"),
    ),
    Deviates(
        "Polars' own semantics",
        "a sliding window is a verb, group_by_dynamic(), and no column: of exploded starts Polars knows no more",
        "failed with PLAN: append mode",
        _sliding_projection,
    ),
    Deviates(
        "out of scope of the cases",
        "csv empty string vs null: an empty text comes back as what it was, Spark makes null of it",
        "expect_sink",
        _empty_text_in_csv,
    ),
)

NOT_BUILT: Final[dict[str, Cases]] = {
    "keyed functions": _uses("stateful"),
}
"""What the engine refuses today as not built yet, and the cases that need it; a case that runs fails here."""
