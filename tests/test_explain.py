"""What does `explain()` say, and what warns at the start?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub

SCHEMA: dict[str, Any] = {"k": pl.String, "v": pl.Int64, "t": pl.Datetime("us")}


def frame(name: str = "events") -> ub.StreamFrame:
    return ub.scan_memory(ub.MemorySource(SCHEMA), name=name)


def marked() -> ub.StreamFrame:
    return frame().with_watermark("t", "1h")


def test_a_plan_is_drawn_from_sink_to_source_with_what_each_operator_remembers() -> None:
    plan = (
        marked()
        .filter(pl.col("v") > 0)
        .unique(["k", "t"])
        .group_by_dynamic("t", every="5m", group_by="k")
        .agg(pl.len())
    )
    assert (
        plan.explain()
        == """in append mode (possible: append, update, complete)

group by 'k'                        [aggregate-1]
  window of 't', every 5m, 5m long
    unique by 'k', 't'              [unique-1]
      watermark on 't', 1h behind
        filter [(col("v")) > (0)]
          scan 'events': memory

unique-1
  key:     'k', 't'
  state:   bounded by the watermark: one row for each value
  kept:    until the watermark reaches 't', when no more of the value can come; where it is null, for ever
  late:    rows whose 't' the watermark of the batch before had reached; dropped and counted

aggregate-1
  key:     'k', 't'
  state:   bounded by the watermark: one row per group
  kept:    until the watermark reaches 't' + 5m, when its last row has come; then emitted and forgotten
  late:    rows for groups that the watermark of the batch before had closed; dropped and counted
  null:    rows whose 't' is null; dropped and counted"""
    )


def near(how: Any = "inner", *, both: bool = True) -> ub.StreamFrame:
    """Rows of one stream with those of another that come within five minutes, or ever after."""
    ours, theirs = (frame(name).with_watermark("t", "1h") for name in ("a", "b"))
    same, after, soon = (
        pl.col("k") == pl.col("k_right"),
        pl.col("t_right") >= pl.col("t"),
        pl.col("t_right") <= pl.col("t") + pl.duration(minutes=5),
    )
    return ours.join_where(theirs, same, after, *([soon] if both else []), how=how)


def windows(*, every: str = "5m", period: str | None = None, by: Any = "k") -> ub.StreamFrame:
    return marked().group_by_dynamic("t", every=every, period=period, group_by=by).agg(pl.len())


def in_windows(name: str) -> ub.StreamFrame:
    return frame(name).with_watermark("t", "1h").with_columns(w=pl.col("t").dt.truncate("5m"))


NONE_LATE = "late:    no row is late here"
CLOSED = "late:    rows for groups that the watermark of the batch before had closed; dropped and counted"
REACHED = "late:    rows whose 't' the watermark of the batch before had reached; dropped and counted"
OF_BOTH = (
    "late:    rows of the left whose 't' and of the right whose 't_right' the watermark of the batch before had reached"
)
TIMELESS = "null:    rows whose 't' is null; dropped and counted"
LAST_ROW = "when its last row has come; then"
TO_THE_END = f"until the watermark reaches 't' + 5m, {LAST_ROW}"
OF_SESSION = "kept:    until the watermark reaches the session's end, the latest 't' + gap"
NO_PARTNER = "when no partner can come; then"
ALONE = f"{NO_PARTNER} emitted, if they had none, and forgotten"

OPERATORS: dict[str, tuple[Callable[[], ub.StreamFrame], Any, list[str]]] = {
    "windows, once": (
        windows,
        "append",
        [
            "key:     'k', 't'",
            "state:   bounded by the watermark: one row per group",
            f"kept:    {TO_THE_END} emitted and forgotten",
            CLOSED,
            TIMELESS,
        ],
    ),
    "windows, as they change": (windows, "update", [f"kept:    {TO_THE_END} forgotten", CLOSED, TIMELESS]),
    "windows, all of them": (
        windows,
        "complete",
        [
            "state:   grows with the keys: one row per group",
            "kept:    for ever: complete mode shows every group",
            NONE_LATE,
            TIMELESS,
        ],
    ),
    "windows that overlap": (
        lambda: windows(period="15m"),
        "append",
        [
            "state:   bounded by the watermark: one row per group and slice of 5m, of which a window has 3",
            "kept:    until the watermark reaches 't' + 15m, when its last row has come; then emitted and forgotten",
            CLOSED,
            TIMELESS,
        ],
    ),
    "windows with their bounds": (
        lambda: marked().group_by_dynamic("t", every="5m", include_boundaries=True).agg(pl.len()),
        "append",
        ["key:     't'", f"kept:    {TO_THE_END} emitted and forgotten"],
    ),
    "times, once": (
        lambda: marked().group_by("t").len(),
        "append",
        ["kept:    until the watermark reaches 't', when its last row has come; then emitted and forgotten", TIMELESS],
    ),
    "times, as they change": (
        lambda: marked().group_by("t").len(),
        "update",
        [
            f"kept:    until the watermark reaches 't', {LAST_ROW} forgotten; where it is null, for ever",
            CLOSED,
        ],
    ),
    "groups without time": (
        lambda: frame().group_by("k").len(),
        None,
        [
            "key:     'k'",
            "state:   grows with the keys: one row per group",
            "kept:    for ever: no key is event time with a watermark",
            NONE_LATE,
        ],
    ),
    "one row": (
        lambda: frame().select(pl.len()),
        "complete",
        [
            "key:     none: one row over the whole stream",
            "state:   one row",
            "kept:    for ever: it is the answer",
            NONE_LATE,
        ],
    ),
    "values": (
        lambda: frame().group_by("k").agg(pl.col("v").median(), pl.col("v").alias("all")),
        "update",
        [
            "state:   grows with the keys and the values: one row per group",
            "values:  one row per group and distinct value of 'v'; one row per group and row of 'v'",
        ],
    ),
    "values in windows": (
        lambda: marked().group_by_dynamic("t", every="1h").agg(pl.col("v").unique()),
        "append",
        [
            "state:   bounded by the watermark: one row per group",
            "values:  one row per group and distinct value of 'v'",
        ],
    ),
    "a watermark that runs behind": (
        lambda: windows().group_by_dynamic("t", every="1h").agg(pl.col("len").sum()),
        None,
        [
            f"kept:    until the watermark reaches 't' + 1h (it runs 5m behind here), {LAST_ROW} emitted and forgotten",
            CLOSED,
        ],
    ),
    "behind a join": (
        lambda: near().group_by_dynamic("t", every="1h").agg(pl.len()),
        "append",
        [
            f"kept:    until the watermark reaches 't' + 1h (it runs 5m behind here), {LAST_ROW} emitted and forgotten",
        ],
    ),
    "sessions": (
        lambda: marked().group_by_session("t", gap="5m", group_by="k").agg(pl.col("v").median()),
        "append",
        [
            "key:     'k', 't'",
            "state:   bounded by the watermark: the open sessions and their values",
            "values:  one row per session and distinct value of 'v'",
            f"{OF_SESSION}, when no row can join it; then emitted and forgotten",
            "late:    rows whose own 't' + gap the watermark of the batch before had reached; dropped and counted",
            TIMELESS,
        ],
    ),
    "sessions of a gap per row": (
        lambda: frame().group_by_session("t", gap=pl.duration(seconds=pl.col("v"))).len(),
        "update",
        [
            "state:   grows with the sessions",
            "kept:    for ever: 't' has no watermark",
            NONE_LATE,
            "null:    rows whose 't' is null, or whose gap is null or not above zero; dropped and counted",
        ],
    ),
    "sessions, all of them": (
        lambda: marked().group_by_session("t", gap="5m").len(),
        "complete",
        ["kept:    for ever: complete mode shows every session", NONE_LATE],
    ),
    "sessions behind windows": (
        lambda: windows(by=None).group_by_session("t", gap="1h").agg(pl.col("len").sum()),
        None,
        [
            f"{OF_SESSION} (it runs 5m behind here), when no row can join it; then emitted and forgotten",
        ],
    ),
    "distinct values": (
        lambda: frame().unique("k"),
        None,
        [
            "state:   grows with the distinct values: one row for each value",
            "kept:    for ever: no column of the key has a watermark",
            NONE_LATE,
        ],
    ),
    "distinct values with a time": (
        lambda: marked().unique(["k", "t"]),
        None,
        [
            "key:     'k', 't'",
            "state:   bounded by the watermark: one row for each value",
            "kept:    until the watermark reaches 't', when no more of the value can come; where it is null, for ever",
            REACHED,
        ],
    ),
    "late, though kept for ever": (
        lambda: marked().unique("k"),
        None,
        ["kept:    for ever: no column of the key has a watermark", REACHED],
    ),
    "late, and kept for the delay": (
        lambda: marked().unique_within_watermark("k"),
        None,
        [
            "state:   bounded by the watermark: one row for each value",
            "kept:    until the watermark reaches 't' of the first row + 1h; without it for one batch",
            "means:   unique() of all rows, where repeated ones come within 1h of the first",
            REACHED,
        ],
    ),
    "rows that wait": (
        lambda: marked().merge_sorted(frame("others").with_watermark("t", "2h"), "t"),
        None,
        [
            "state:   bounded by the watermark: the rows that wait",
            "kept:    until the watermark reaches 't', when no earlier row can come; then emitted and forgotten",
            REACHED,
            TIMELESS,
        ],
    ),
    "rows that look back": (
        lambda: marked().with_columns(
            pl.col("v").diff(3).over("k", order_by="t"), c=pl.col("v").cum_sum().over(order_by="t")
        ),
        None,
        [
            "state:   grows with the keys: rows that wait, and those that later ones look at",
            "kept:    until the watermark reaches 't', when no earlier row can come; then emitted",
            "beside:  the last 3 emitted rows of each 'k', for ever; the last emitted row, for ever",
            REACHED,
            TIMELESS,
        ],
    ),
    "windows around rows": (
        lambda: marked().select("t", pl.col("v").rolling_sum_by("t", "1h").over("k")),
        None,
        [
            "state:   bounded by the watermark: rows that wait, and those that later ones look at",
            "kept:    until the watermark reaches 't', when no earlier row can come; then emitted",
            "beside:  emitted rows of each 'k', until the watermark is 1h past their 't'",
            REACHED,
            TIMELESS,
        ],
    ),
    "windows that end behind their rows": (
        lambda: marked().rolling("t", period="1h", offset="-30m").agg(pl.len()),
        None,
        [
            "kept:    until the watermark reaches 't' + 30m, when its window can get no more rows; then emitted",
            "beside:  rows, until the watermark is 1h past their 't'",
            REACHED,
            TIMELESS,
        ],
    ),
    "a join within a time": (
        near,
        None,
        [
            "key:     'k' = 'k_right'",
            "state:   bounded by the watermark: rows of both sides",
            f"left:    kept until the watermark reaches 't' + 5m, {NO_PARTNER} forgotten",
            f"right:   kept until the watermark reaches 't_right', {NO_PARTNER} forgotten",
            f"{OF_BOTH}; dropped and counted",
        ],
    ),
    "a join that shows the left alone": (
        lambda: near("left"),
        None,
        [
            f"left:    kept until the watermark reaches 't' + 5m, {ALONE}",
            f"right:   kept until the watermark reaches 't_right', {NO_PARTNER} forgotten",
        ],
    ),
    "a join that shows the right alone": (
        lambda: near("right"),
        None,
        [
            f"left:    kept until the watermark reaches 't' + 5m, {NO_PARTNER} forgotten",
            f"right:   kept until the watermark reaches 't_right', {ALONE}",
        ],
    ),
    "a join that shows both alone": (
        lambda: near("full"),
        None,
        [
            f"left:    kept until the watermark reaches 't' + 5m, {ALONE}",
            f"right:   kept until the watermark reaches 't_right', {ALONE}",
        ],
    ),
    "rows with a partner": (
        lambda: near("semi"),
        None,
        [f"left:    kept until they have a partner, or the watermark reaches 't' + 5m, {NO_PARTNER} forgotten"],
    ),
    "rows without a partner": (
        lambda: near("anti"),
        None,
        [f"left:    kept until they have a partner, or the watermark reaches 't' + 5m, {ALONE}"],
    ),
    "a join on windows": (
        lambda: in_windows("a").join(in_windows("b"), on=["k", "w"]),
        None,
        [
            "key:     'k' = 'k_right', 'w' = 'w_right'",
            f"left:    kept until the watermark reaches 'w' + 5m, {NO_PARTNER} forgotten",
            f"right:   kept until the watermark reaches 'w_right' + 5m, {NO_PARTNER} forgotten",
        ],
    ),
    "a join with one bound": (
        lambda: near(both=False),
        None,
        [
            "state:   grows with the rows of the left: rows of both sides",
            "left:    kept for ever: no condition says how late a partner may come",
            f"right:   kept until the watermark reaches 't_right', {NO_PARTNER} forgotten",
        ],
    ),
    "a join without time": (
        lambda: frame("a").join(frame("b"), on="k"),
        None,
        [
            "state:   grows with the rows of the left and the right: rows of both sides",
            "left:    kept for ever: no condition says how late a partner may come",
            "right:   kept for ever: no condition says how late a partner may come",
            NONE_LATE,
        ],
    ),
    "the nearest row, before": (
        lambda: marked().join_asof(frame("b").with_watermark("t", "1h"), on="t", by="k"),
        None,
        [
            "key:     'k' = 'k'",
            "state:   grows with the keys: rows of both sides",
            "last:    of the right, the last row of each key, until a later one is there",
        ],
    ),
    "the nearest row, within a time": (
        lambda: marked().join_asof(
            frame("b").with_watermark("t", "1h"), on="t", by="k", strategy="nearest", tolerance="5m"
        ),
        None,
        [
            "state:   bounded by the watermark: rows of both sides",
            "kept:    until the watermark reaches 't', when no earlier row can come; then joined",
            "last:    of the right, the last row of each key, until a later one is there, or the watermark reaches "
            "'t' + 5m",
            "open:    rows of the left, until a later one of the right is there, or the watermark is as far ahead as "
            "what they found is behind, or the watermark reaches 't' + 5m; then emitted",
            "null:    rows of the right whose 't' is null; dropped and counted",
        ],
    ),
    "a number": (
        lambda: frame().head(3),
        None,
        [
            "state:   one number: the rows so far",
            "kept:    over the whole life of the query, to go on counting",
            NONE_LATE,
        ],
    ),
    "an index": (lambda: frame().with_row_index(), None, ["state:   one number: the rows so far"]),
    "the last rows": (
        lambda: frame().tail(3),
        None,
        ["state:   the rows of the answer, 3 at most", "kept:    until later ones take their place", NONE_LATE],
    ),
    "the best rows": (lambda: frame().top_k(3, by="v"), None, ["kept:    until better ones take their place"]),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_each_operator_says_what_it_keeps_for_how_long_why_and_what_it_drops(case: str) -> None:
    make, mode, said = OPERATORS[case]
    text = make().explain(output_mode=mode)
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in said if line not in lines] == [], text
    for told in text.split("\n\n")[2:]:  # whatever the operator
        assert re.search(r"^  state:   \S", told, re.MULTILINE), told
        assert re.search(r"^  (kept:   |left:   ) \S", told, re.MULTILINE), told
        assert re.search(r"^  late:    (rows .*; dropped and counted|no row is late here)$", told, re.MULTILINE), told
        assert "watermark" in told or re.search("for ever: |whole life|take their place", told), told


PLANS: dict[str, tuple[Callable[[], ub.StreamFrame], Any, str]] = {
    "rows alone": (lambda: frame().filter(pl.col("v") > 0), None, r"possible: append, update\)"),
    "the first possible mode": (lambda: frame().group_by("k").len(), None, "^in update mode"),
    "a refused mode": (lambda: frame().group_by("k").len(), "append", r"refused in append mode: .*never close"),
    "a few rows": (lambda: frame().head(3), None, r"head 3 .*slice-1"),
    "sessions": (lambda: marked().group_by_session("t", gap="5m", group_by="k").len(), None, "'t', 5m apart, by 'k'"),
    "distinct": (lambda: marked().unique_within_watermark("k"), None, "unique within the watermark by 'k'"),
    "options that are expressions": (
        lambda: frame().group_by("k").len().sort("len", pl.col("k").str.len_bytes()),
        "complete",
        r'sort by=\[col\("len"\), col\("k"\)\.str\.len_bytes\(\)\], descending=False',
    ),
    "rows around each row": (
        lambda: marked().rolling("t", period="1h", group_by=["k", pl.col("v") % 2]).agg(pl.len()),
        None,
        r"rolling 't', 1h long, by 'k', .*\[rolling-1\]",
    ),
    "a long expression": (
        lambda: marked().with_columns(usual=pl.col("v").rolling_mean_by("t", window_size="10m").over("k") * 2),
        None,
        r'with_columns .{1,45}\.\.\.\.alias\("usual"\) ',
    ),
    "the last instant of a window": (
        lambda: frame().select(ub.window_time("t"), ub.window_time("t").alias("u")),
        None,
        r'select window_time\("t"\), window_time\("t"\)\.alias\("u"\)',
    ),
}


@pytest.mark.parametrize("case", PLANS)
def test_a_plan_is_shown_in_the_words_of_the_user(case: str) -> None:
    make, mode, sentence = PLANS[case]
    text = make().explain(output_mode=mode)
    assert re.search(f"(?s){sentence}", text), text


GROWING: dict[str, tuple[Callable[[], ub.StreamFrame], str]] = {
    "unique without time": (lambda: frame().unique("k"), r"unique\(\) by 'k' remembers every value.*with_watermark"),
    "the last rows of each key": (
        lambda: marked().with_columns(d=pl.col("v").diff().over("k", order_by="t")),
        r"the last rows of each 'k' are remembered for ever.*grows with the keys.*rolling_\*_by",
    ),
    "unique of rows": (lambda: frame().unique(), r"by 'k', 'v', 't'.*into subset"),
    "unique beside the watermark": (lambda: marked().unique("k"), r"none of these columns has a watermark"),
    "groups by a time": (lambda: frame().group_by("t").len(), r"groups by 't'.*no watermark"),
    "windows without a watermark": (
        lambda: frame().group_by_dynamic("t", every="1h").agg(pl.len()),
        r"groups by 't'.*no watermark",
    ),
    "sessions without a watermark": (
        lambda: frame().group_by_session("t", gap="1h").agg(pl.len()),
        r"sessions of 't' are remembered for ever.*before group_by_session.*with_watermark",
    ),
    "counted values": (
        lambda: frame().group_by("k").agg(pl.col("v").median()),
        r"each distinct value of 'v' for ever.*approx_quantile.*window of a watermarked column",
    ),
    "distinct values": (lambda: frame().select(pl.col("v").n_unique()), r"each distinct value of 'v'.*approx_n_unique"),
    "rows": (lambda: frame().group_by("k").agg("v"), r"each row of 'v' for ever.*top_k"),
    "a join without time": (
        lambda: frame("a").join(frame("b"), on="k"),
        r"every row of its left and right side for ever.*on the left .*and on the right .*join_where\(",
    ),
    "a join with one bound": (lambda: near(both=False), r"every row of its left side for ever"),
    "a nearest row that may never come": (
        lambda: marked().join_asof(frame("b").with_watermark("t", "1h"), on="t", strategy="forward"),
        "without tolerance= keeps a row of the left.*tolerance=",
    ),
}


@pytest.mark.parametrize("case", GROWING)
def test_state_without_a_bound_warns_at_the_start_and_says_what_would_bound_it(case: str) -> None:
    make, sentence = GROWING[case]
    with pytest.warns(ub.UnboundedStateWarning, match=sentence):
        make().sink_memory(output_mode="update", trigger=ub.available_now())


BOUNDED: dict[str, tuple[Callable[[], ub.StreamFrame], Any]] = {
    "unique by time": (lambda: marked().unique(["k", "t"]), "append"),
    "unique within the watermark": (lambda: marked().unique_within_watermark("k"), "append"),
    "windows": (lambda: marked().group_by_dynamic("t", every="1h").agg(pl.len()), "append"),
    "sessions": (lambda: marked().group_by_session("t", gap="1h").agg(pl.col("v").median()), "update"),
    "groups by a name": (lambda: frame().group_by("k").len(), "update"),
    "a limit": (lambda: frame().head(3), "append"),
    "the best": (lambda: frame().top_k(3, by="v"), "complete"),
    "windows around rows": (lambda: marked().rolling("t", period="1h", group_by="k").agg(pl.len()), "append"),
    "one running sum": (lambda: marked().with_columns(pl.col("v").cum_sum().over(order_by="t")), "append"),
    "rows that wait": (lambda: marked().merge_sorted(frame("b").with_watermark("t", "1h"), "t"), "append"),
    "a join within a time": (lambda: near("full"), "append"),
    "a join on windows": (lambda: in_windows("a").join(in_windows("b"), on=["k", "w"]), "update"),
    "a nearest row": (lambda: marked().join_asof(frame("b").with_watermark("t", "1h"), on="t", by="k"), "append"),
    "a join on times": (lambda: marked().join(frame("b").with_watermark("t", "1h"), on="t", how="left"), "append"),
    "windows of windows": (lambda: windows().group_by_dynamic("t", every="1h").agg(pl.col("len").sum()), "append"),
    "values in windows": (lambda: marked().group_by_dynamic("t", every="1h").agg(pl.col("v").median()), "append"),
    "a few values": (lambda: frame().group_by("k").agg(pl.col("v").top_k(3)), "update"),
}


@pytest.mark.parametrize("case", BOUNDED)
def test_bounded_state_warns_of_nothing(case: str) -> None:
    make, mode = BOUNDED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().sink_memory(output_mode=mode, trigger=ub.available_now())


def test_a_query_says_where_its_state_is(tmp_path: Path) -> None:
    for state, where in (
        ("memory", f"memory, durable in {tmp_path}/memory"),
        ("sqlite", f"SQLite file {tmp_path}/sqlite"),
    ):
        query = (
            frame()
            .group_by("k")
            .len()
            .sink_memory(checkpoint=tmp_path / state, output_mode="complete", trigger=ub.available_now(), state=state)
        )
        assert f"\nstate: {where}" in query.explain()
