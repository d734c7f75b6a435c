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


def frame() -> ub.StreamFrame:
    return ub.scan_memory(ub.MemorySource(SCHEMA), name="events")


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

group by 'k'                           [aggregate-1]
  window of 't', every 5m, 5m long
    unique by 'k', 't'                 [unique-1]
      watermark on 't', 3600 s behind
        filter [(col("v")) > (0)]
          scan 'events': memory

unique-1
  state:   bounded by the watermark
  key:     'k', 't'
  kept:    until the watermark reaches 't'; where it is null, for ever
  late:    rows whose 't' the watermark of the batch before had reached

aggregate-1
  key:     'k', 't'
  state:   bounded by the watermark
  kept:    until the watermark reaches 't' + 5m; then emitted and forgotten
  late:    rows for groups that the watermark of the batch before had closed"""
    )


EXPLAINED: dict[str, tuple[Callable[[], ub.StreamFrame], Any, str]] = {
    "rows alone": (lambda: frame().filter(pl.col("v") > 0), None, r"possible: append, update\)"),
    "groups without time": (lambda: frame().group_by("k").len(), None, r"in update mode.*state:   grows with the keys"),
    "one row": (lambda: frame().select(pl.len()), "complete", r"none: one row over the whole stream.*state:   one row"),
    "complete mode": (
        lambda: marked().group_by_dynamic("t", every="5m").agg(pl.len()),
        "complete",
        r"for ever: complete mode shows every group",
    ),
    "a refused mode": (lambda: frame().group_by("k").len(), "append", r"refused in append mode: .*never close"),
    "distinct values": (lambda: frame().unique("k"), None, r"grows with the distinct values.*for ever"),
    "late, though kept for ever": (lambda: marked().unique("k"), None, r"late:    rows whose 't'"),
    "late, and kept for the delay": (
        lambda: marked().unique_within_watermark("k"),
        None,
        r"unique within the watermark by 'k'.*bounded.*reaches 't' of the first row, plus 3600 s.*unique\(\) of",
    ),
    "values": (
        lambda: frame().group_by("k").agg(pl.col("v").median(), pl.col("v").alias("all")),
        "update",
        r"grows with the keys and the values.*one row per group and distinct value of 'v'; .* group and row of 'v'",
    ),
    "values in windows": (
        lambda: marked().group_by_dynamic("t", every="1h").agg(pl.col("v").unique()),
        "append",
        r"bounded by the watermark\n.*one row per group and distinct value of 'v'",
    ),
    "a number": (lambda: frame().head(3), None, r"head 3 .*slice-1\n  state:   one number"),
    "options that are expressions": (
        lambda: frame().group_by("k").len().sort("len", pl.col("k").str.len_bytes()),
        "complete",
        r'sort by=\[col\("len"\), col\("k"\)\.str\.len_bytes\(\)\], descending=False',
    ),
    "a few rows": (lambda: frame().tail(3), None, r"in complete mode.*the rows of the answer, 3 at most"),
    "rows that wait": (
        lambda: marked().merge_sorted(ub.scan_memory(ub.MemorySource(SCHEMA)).with_watermark("t", "2h"), "t"),
        None,
        r"rows wait until the watermark reaches 't'",
    ),
    "sessions": (
        lambda: marked().group_by_session("t", gap="5m", group_by="k").agg(pl.col("v").median()),
        "append",
        r"sessions of 't', 5m apart, by 'k' .*the open sessions and their values.*row per session and distinct value "
        r"of 'v'.*session's end, the latest 't' \+ gap; then emitted and forgotten.*rows whose own 't' \+ gap",
    ),
    "sessions of a gap per row": (
        lambda: frame().group_by_session("t", gap=pl.duration(seconds=pl.col("v"))).len(),
        "complete",
        r"sessions of 't', .*apart  \[session-1\].*grows with the sessions.*for ever: no watermark",
    ),
    "sessions behind windows": (
        lambda: (
            marked()
            .group_by_dynamic("t", every="5m")
            .agg(pl.len())
            .group_by_session("t", gap="1h")
            .agg(pl.col("len").sum())
        ),
        None,
        r"the latest 't' \+ gap \(it runs 300 s behind here\)",
    ),
    "a watermark that runs behind": (
        lambda: (
            marked()
            .group_by_dynamic("t", every="5m")
            .agg(pl.len())
            .group_by_dynamic("t", every="1h")
            .agg(pl.col("len").sum())
        ),
        None,
        r"'t' \+ 1h \(it runs 300 s behind here\)",
    ),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_explain_says_what_is_kept_for_how_long_and_why(case: str) -> None:
    make, mode, sentence = EXPLAINED[case]
    text = make().explain(output_mode=mode)
    assert re.search(f"(?s){sentence}", text), text


GROWING: dict[str, tuple[Callable[[], ub.StreamFrame], str]] = {
    "unique without time": (lambda: frame().unique("k"), r"unique\(\) by 'k' remembers every value.*with_watermark"),
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
