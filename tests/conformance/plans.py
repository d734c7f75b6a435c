"""What does a plan of a case mean as a frame? One verb of Polars after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Protocol, TypeAlias

import polars as pl

import unbounded as ub
from tests.conformance.expressions import (
    Json,
    UntranslatedError,
    Window,
    aggregated,
    call,
    columns,
    conjuncts,
    delay,
    gap,
    is_window,
    public,
    translated,
    window,
)

__all__ = ["Frame", "RefusedError", "Tables", "frame_of"]

Frame: TypeAlias = Any
"""A pl.LazyFrame or a ub.StreamFrame; their verbs are spelt alike, and which may be missing is what is tested."""

_ENDS = ("start", "end")


class RefusedError(Exception):
    """Polars itself does not take a stream there."""


class Tables(Protocol):
    """Where the leaves of a plan come from."""

    def stream(self, name: str) -> ub.StreamFrame: ...

    def static(self, plan: Json) -> pl.LazyFrame | pl.DataFrame: ...


def frame_of(plan: Json, tables: Tables) -> Frame:
    """The frame of a plan; Polars' and the engine's own errors pass through."""
    match plan:
        case {"op": "source", "name": name}:
            return tables.stream(name)
        case {"op": "static"}:
            return tables.static(plan).lazy()
        case {"op": "join" | "except" | "intersect"}:
            left, right = frame_of(plan["left"], tables), frame_of(plan["right"], tables)
            return _join(left, right, plan) if plan["op"] == "join" else _set_operation(left, right, plan["op"])
        case {"op": "union", "inputs": inputs}:
            return _union([frame_of(one, tables) for one in inputs])
    return _above(frame_of(plan["input"], tables), plan)


def _above(frame: Frame, plan: Json) -> Frame:
    """A step over one input."""
    schema = frame.collect_schema()
    match plan["op"]:
        case "filter":
            return frame.filter([translated(one, schema) for one in conjuncts(plan["cond"])])
        case "select":
            return _select(frame, plan["cols"])
        case "with_columns":
            for name, e in plan["cols"]:  # a later one may read an earlier one
                frame = _with_column(frame, name, e)
            return frame
        case "watermark":
            return ub.with_watermark(frame, plan["col"], delay(plan["delay"]))
        case "group_agg":
            grouped = _group(frame, plan)
            having = plan.get("having")
            return grouped if having is None else grouped.filter(translated(having, grouped.collect_schema()))
        case "grouping_sets":
            return _grouping_sets(frame, plan)
        case "pivot":
            (aggregate,) = plan["aggs"]
            function = {"count": "len"}.get(aggregate["fn"], aggregate["fn"])
            values = {"index": plan["keys"], "values": aggregate["arg"], "aggregate_function": function}
            return frame.pivot(plan["col"], on_columns=plan["values"], **values)
        case "dedup" | "distinct":
            return frame.unique(_subset(plan, schema), keep="first")
        case "dedup_within_watermark":
            return public("unique_within_watermark")(frame, _subset(plan, schema))
        case "sort":
            by = [translated(e, schema) for e, _ in plan["by"]]
            down = [direction == "desc" for _, direction in plan["by"]]
            return frame.sort(by, descending=down, nulls_last=down)
        case "limit":
            return frame.limit(plan["n"])
        case "offset":
            return frame.slice(plan["n"])
        case "sample":
            return frame.select(pl.all().sample(fraction=plan["fraction"]))
        case "explode_list":
            parts = pl.col(plan["col"]).str.split(plan["sep"]).alias(plan["name"])
            return frame.with_columns(parts).explode(plan["name"], empty_as_null=False, keep_nulls=False)
        case "row_number":
            ordered = pl.col(plan["by"][0]).rank("ordinal").over(plan["keys"])
            return frame.with_columns(ordered.alias(plan["name"]))
        case "lag":
            before = pl.col(plan["col"]).shift().over(plan["keys"], order_by=plan["by"])
            return frame.with_columns(before.alias(plan["name"]))
        case "stateful":
            return public("transform_with_state")(frame)
    raise UntranslatedError(f"the operator {plan['op']!r}")


# ------------------------------------------------------------------------------------------ columns
def _select(frame: Frame, cols: Json) -> Frame:
    """Projections; windows among them are computed before, for a sliding one repeats the row."""
    windows = {name: f"window {i}" for i, (name, e) in enumerate(cols) if call(e, "window")}
    for name, e in cols:
        if name in windows:
            frame = _with_window(frame, windows[name], window(e))
    schema = frame.collect_schema()
    chosen = [one for name, e in cols for one in columns(name, windows.get(name, e), schema)]
    if not any(one.meta.root_names() for one in chosen):  # which Polars would make one row of
        return frame.with_columns(chosen).select(one.meta.output_name() for one in chosen)
    return frame.select(chosen)


def _with_column(frame: Frame, name: str, e: Json) -> Frame:
    if call(e, "window"):
        return _with_window(frame, name, window(e))
    return frame.with_columns(columns(name, e, frame.collect_schema()))


def _with_window(frame: Frame, name: str, of: Window) -> Frame:
    """A row once for every window that holds it; rows without a time are in none."""
    time = translated(of.time, frame.collect_schema())
    start, end = (f"{name}.{one}" for one in _ENDS)
    frame = frame.filter(time.is_not_null())
    if of.size == of.slide:
        return frame.with_columns(of.newest(time).alias(start)).with_columns((pl.col(start) + of.size).alias(end))
    return (
        frame.with_columns(pl.concat_list(of.starts(time)).alias(start))
        .explode(start)
        .with_columns((pl.col(start) + of.size).alias(end))
        .filter(pl.col(end) > time)
    )


def _subset(plan: Json, schema: pl.Schema) -> list[str] | None:
    names = plan.get("subset")
    if not names:
        return None
    return [one.meta.output_name() for name in names for one in columns(name, name, schema)]


# ------------------------------------------------------------------------------------------- groups
def _group(frame: Frame, plan: Json) -> Frame:
    keys = {key["name"]: key["expr"] for key in plan["keys"]}
    if any(call(e, "session_window") for e in keys.values()):
        return _sessions(frame, keys, plan["aggs"])
    windows = [name for name, e in keys.items() if call(e, "window")]
    for name in windows[1:]:
        frame = _with_window(frame, name, window(keys[name]))
        keys[name] = name
    schema = frame.collect_schema()
    others = [one for name, e in keys.items() if name not in windows[:1] for one in columns(name, e, schema)]
    aggs = [aggregated(a, schema) for a in plan["aggs"]]
    if not keys:
        return frame.select(aggs)
    if not windows:
        return frame.group_by(others).agg(aggs)
    taken = {one.meta.output_name() for one in (*others, *aggs)}
    answer = _windowed(frame, window(keys[windows[0]]), others, aggs, taken)
    bounds = {f"{windows[0]}.start": "_lower_boundary", f"{windows[0]}.end": "_upper_boundary"}
    order = [part for name, e in keys.items() for part in _parts(name, e, schema)]
    return answer.select(
        pl.col(bounds.get(name, name)).alias(name) for name in (*order, *(a["name"] for a in plan["aggs"]))
    )


def _sessions(frame: Frame, keys: dict[str, Json], aggregates: Json) -> Frame:
    schema = frame.collect_schema()
    ((of, (_, time, length)),) = ((name, e) for name, e in keys.items() if call(e, "session_window"))
    others = [one for name, e in keys.items() if name != of for one in columns(name, e, schema)]
    aggs = [aggregated(a, schema) for a in aggregates]
    grouped = ub.group_by_session(
        frame, time, gap=gap(length, schema), include_boundaries=True, group_by=others or None
    ).agg(aggs)
    bounds = {f"{of}.start": time, f"{of}.end": "_upper_boundary"}
    order = [part for name in keys for part in (bounds if name == of else [name])]
    return grouped.select(
        pl.col(bounds.get(name, name)).alias(name) for name in (*order, *(a["name"] for a in aggregates))
    )


def _parts(name: str, e: Json, schema: pl.Schema) -> list[str]:
    return [f"{name}.{end}" for end in _ENDS] if is_window(e, schema) else [name]


def _windowed(frame: Frame, of: Window, by: list[pl.Expr], aggs: list[pl.Expr], taken: set[str]) -> Frame:
    """group_by_dynamic of a window; with its two bounds as columns."""
    schema, index = frame.collect_schema(), of.time
    if not isinstance(index, str) or index in taken or index not in schema:
        frame = frame.with_columns(translated(index, schema).alias("time of window"))
        index = "time of window"
    return frame.group_by_dynamic(
        index,
        every=of.slide,
        period=of.size,
        offset=of.offset,
        include_boundaries=True,
        group_by=by or None,
    ).agg(aggs)


def _grouping_sets(frame: Frame, plan: Json) -> Frame:
    """Each row once per set of keys, with nulls for the keys that the set leaves out: so does Spark itself."""
    keys = plan["keys"]
    widths = range(len(keys), -1, -1)
    sets = (
        [keys[:n] for n in widths] if plan["kind"] == "rollup" else [c for n in widths for c in combinations(keys, n)]
    )
    number = pl.col("grouping set")
    repeated = frame.with_columns(pl.concat_list(pl.lit(i) for i in range(len(sets))).alias("grouping set"))
    repeated = repeated.explode("grouping set").with_columns(
        pl.when(number.is_in([i for i, one in enumerate(sets) if key in one])).then(pl.col(key)).alias(key)
        for key in keys
    )
    aggs = [aggregated(a, frame.collect_schema()) for a in plan["aggs"]]
    return repeated.group_by(*keys, "grouping set").agg(aggs).drop("grouping set")


# ------------------------------------------------------------------------------------------- tables
def _union(frames: Sequence[Frame]) -> Frame:
    """By position; the names are those of the first."""
    first, *others = frames
    names = first.collect_schema().names()
    renamed = [one.rename(dict(zip(one.collect_schema().names(), names, strict=False))) for one in others]
    return ub.concat([first, *renamed], how="vertical_relaxed")


def _set_operation(left: Frame, right: Frame, op: str) -> Frame:
    names = left.collect_schema().names()
    right = right.rename(dict(zip(right.collect_schema().names(), names, strict=True)))
    return _joined(left, right, on=names, how="anti" if op == "except" else "semi", nulls_equal=True).unique()


def _join(left: Frame, right: Frame, plan: Json) -> Frame:
    how = {"left_semi": "semi", "left_anti": "anti"}.get(plan["how"], plan["how"])
    names = [*left.collect_schema().names(), *right.collect_schema().names()]
    if how in ("semi", "anti"):
        names = left.collect_schema().names()
    # Of a bounded table and a stream the stream is the one that has the verb.
    if not isinstance(left, ub.StreamFrame) and isinstance(right, ub.StreamFrame) and how not in ("semi", "anti"):
        left, right = right, left
        how = {"left": "right", "right": "left"}.get(how, how)
    if how == "cross":
        return _joined(left, right, how="cross").select(names)
    if "using" in plan:
        keys = plan["using"]
        answer = _joined(left, right, on=keys, how=how)
        return answer.select(list(dict.fromkeys([*keys, *names])))
    return _join_on(left, right, how, conjuncts(plan["on"])).select(names)


def _join_on(left: Frame, right: Frame, how: str, conditions: Sequence[Json]) -> Frame:
    if isinstance(left, ub.StreamFrame) and isinstance(right, ub.StreamFrame):
        return _streams_joined(left, right, how, conditions)
    pairs, rest = _keys_and_rest(left.collect_schema(), right.collect_schema(), conditions)
    left, left_on = _with_keys(left, [ours for ours, _ in pairs], "left")
    right, right_on = _with_keys(right, [theirs for _, theirs in pairs], "right")
    nulls_equal = any(call(one, "<=>") for one in conditions)
    if rest or not pairs:
        keys = zip(map(pl.col, left_on), map(pl.col, right_on), strict=True)
        equal = [ours.eq_missing(theirs) if nulls_equal else ours == theirs for ours, theirs in keys]
        return _joined(left, right, *equal, *rest, verb="join_where", how=how)
    coalesce = None if how in ("semi", "anti") else False
    return _joined(left, right, left_on=left_on, right_on=right_on, how=how, nulls_equal=nulls_equal, coalesce=coalesce)


def _streams_joined(left: Frame, right: Frame, how: str, conditions: Sequence[Json]) -> Frame:
    """On columns where that is all that is asked, else where all conditions hold."""
    ours, theirs = left.collect_schema(), right.collect_schema()
    parts = [part for one in conditions for part in _columnwise(one, pl.Schema({**ours, **theirs}))]
    if all(call(one, "==") and one[1] in ours and one[2] in theirs for one in parts):
        lefts, rights = ([one[place] for one in parts] for place in (1, 2))
        coalesce = None if how in ("semi", "anti") else False
        return _joined(left, right, left_on=lefts, right_on=rights, how=how, coalesce=coalesce)
    both = pl.Schema({**ours, **theirs})
    return _joined(left, right, *(translated(one, both) for one in parts), verb="join_where", how=how)


def _keys_and_rest(
    ours: pl.Schema, theirs: pl.Schema, conditions: Sequence[Json]
) -> tuple[list[tuple[pl.Expr, pl.Expr]], list[pl.Expr]]:
    """Pairs of keys that must be equal, ours and theirs, and what compares the two sides in another way.

    A condition on one side alone is a key, too, that must be true: a row that fails it matches nothing, and is kept
    where rows without a match are kept.
    """
    both = pl.Schema({**ours, **theirs})
    nulls_equal = any(call(one, "<=>") for one in conditions)
    true = pl.lit(value=True)
    pairs: list[tuple[pl.Expr, pl.Expr]] = []
    rest: list[pl.Expr] = []
    for one in (part for condition in conditions for part in _columnwise(condition, both)):
        whole, sides = translated(one, both), [translated(part, both) for part in one[1:]]
        if call(one, "==", "<=>") and _reads(sides[0], theirs) and _reads(sides[1], ours):
            sides.reverse()
        if call(one, "==", "<=>") and _reads(sides[0], ours) and _reads(sides[1], theirs):
            pairs.append((sides[0], sides[1]))
            if nulls_equal and call(one, "=="):  # the keys of a join are equal by one rule, so take out its nulls
                pairs.append((true, sides[1].is_not_null()))
        elif _reads(whole, theirs):
            pairs.append((true, whole.fill_null(value=False)))
        elif _reads(whole, ours):
            pairs.append((whole.fill_null(value=False), true))
        else:
            rest.append(whole)
    return pairs, rest


def _columnwise(condition: Json, schema: pl.Schema) -> list[Json]:
    """A condition; an equality of windows as the equalities of their bounds."""
    match condition:
        case ["==" | "<=>" as name, left, right] if is_window(left, schema) and is_window(right, schema):
            return [[name, f"{left}.{end}", f"{right}.{end}"] for end in _ENDS]
    return [condition]


def _reads(expr: pl.Expr, schema: pl.Schema) -> bool:
    return bool(expr.meta.root_names()) and set(expr.meta.root_names()) <= set(schema)


def _with_keys(frame: Frame, exprs: Sequence[pl.Expr], side: str) -> tuple[Frame, list[str]]:
    """The names of key columns; computed ones are added."""
    computed = {f"{side} key {i}": expr for i, expr in enumerate(exprs) if not expr.meta.is_column()}
    names = [expr.meta.output_name() if expr.meta.is_column() else f"{side} key {i}" for i, expr in enumerate(exprs)]
    return (frame.with_columns(**computed) if computed else frame), names


def _joined(left: Frame, right: Frame, *args: pl.Expr, verb: str = "join", **options: Any) -> Frame:
    """Polars' own verb; its refusal to take a stream as the other table counts as one."""
    try:
        return getattr(left, verb)(right, *args, **options)
    except (TypeError, AttributeError) as error:
        if isinstance(right, ub.StreamFrame) and not isinstance(left, ub.StreamFrame):
            raise RefusedError(str(error)) from error
        raise
