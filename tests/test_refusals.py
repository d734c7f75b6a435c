"""What cannot be kept up to date is refused early, with a sentence that says why and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.state.databases.postgresql import postgresql_home
from unbounded.state.databases.sqlite import sqlite_home
from unbounded.state.declared import Declared
from unbounded.testing.shelf import Shelf
from unbounded.verbs.refusals import REFUSED

SCHEMA: dict[str, Any] = {"k": pl.String, "v": pl.Int64, "t": pl.Datetime("us"), "tags": pl.List(pl.String)}


def frame() -> Any:
    """A frame without its type, for what a type checker would refuse first."""
    return ub.scan_memory(ub.MemorySource(SCHEMA))


def marked() -> Any:
    return frame().with_watermark("t", "1h")


def dates() -> Any:
    return ub.scan_memory(ub.MemorySource({"d": pl.Date}))


def windows(f: ub.StreamFrame) -> ub.StreamFrame:
    return f.with_watermark("t", "1h").group_by_dynamic("t", every="5m", group_by="k").agg(pl.len())


def named(name: str) -> ub.StreamFrame:
    return ub.scan_memory(ub.MemorySource(SCHEMA), name=name)


def near(other: ub.StreamFrame | None = None, **options: Any) -> ub.StreamFrame:
    left, right = named("a").with_watermark("t", "1h"), named("b").with_watermark("t", "1h")
    return left.join_asof(right if other is None else other, on="t", by="k", **options)


IN_BOTH, OTHER = named("a"), named("b")

Case = tuple[Callable[[], Any], str]

WRITTEN: dict[str, Case] = {
    "state in a file beside no folder": (
        lambda: sqlite_home(Shelf(), 1 << 30),
        r"memory://story/checkpoint is no folder on a local disk.*path=",
    ),
    "a column of state with the name of one of a home": (
        lambda: Declared().add("aggregate-1/groups", key=pl.Schema({"__version": pl.Int64})),
        r"'aggregate-1/groups' has the column '__version'.*rename\(",
    ),
    "a column of state without a name": (
        lambda: frame().rename({"k": ""}).group_by("").agg(pl.len()).sink_memory(output_mode="update"),
        r"'aggregate-1/groups' has a column without a name.*rename\(\{\"\": \"value\"\}\)",
    ),
    "more columns of state than a database has": (
        lambda: (
            ub.scan_memory(ub.MemorySource(dict.fromkeys(map(str, range(2000)), pl.Int64)))
            .group_by(pl.all())
            .len()
            .sink_memory(output_mode="update", state=ub.postgresql_state("postgresql://localhost:1/sales"))
        ),
        r"'aggregate-1/groups' needs 200\d columns, and a table of postgresql has at most 1600\. Cut .*state=\"files\"",
    ),
    "state at a url that cannot be read": (
        lambda: postgresql_home(Shelf(), "postgresql://[", 1 << 30),
        r"url .* cannot be read.*user:password@host:5432/database",
    ),
    "collect": (
        lambda: frame().collect(),
        r"collect\(\) cannot be kept up to date because the table never ends.*snapshot\(\)",
    ),
    "select mixes": (lambda: frame().select("k", pl.col("v").sum()), r"'k' beside 'v'.*aggregate in one frame"),
    "select of literals": (lambda: frame().select(pl.lit(1)), r"literals alone.*with_columns"),
    "over": (lambda: frame().with_columns(pl.col("v").sum().over("k")), r"over.*group_by"),
    "shift": (
        lambda: frame().with_columns(pl.col("v").shift()),
        r"shift\(\)` needs the rows.*over\(key, order_by=time\)",
    ),
    "shift of all columns": (lambda: frame().shift(1), r"no order but.*with_columns\(pl\.all\(\)\.shift\(n\)\.over"),
    "rows around each row without watermark": (
        lambda: frame().with_columns(pl.col("v").diff().over("k", order_by="t")),
        r"in the order of 't'.*with_watermark, 't', \"10m\"\) before it",
    ),
    "rows around each row in another order": (
        lambda: marked().with_columns(pl.col("v").diff().over("k", order_by="v")),
        r"in the order of 'v'.*and in no other\. Instead: the order of 't'",
    ),
    "rows around each row in the order of two columns": (
        lambda: marked().with_columns(pl.col("v").diff().over("k", order_by=["t", "v"])),
        r"in the order of 't', 'v' cannot.*Instead: the order of 't', in which rows of equal times",
    ),
    "rows around each row in two orders": (
        lambda: marked().with_columns(
            pl.col("v").diff().over("k", order_by="t"), pl.col("v").alias("w").rolling_sum_by("v", "5i")
        ),
        r"in the order of col\(\"t\"\) and of col\(\"v\"\).*one after the other",
    ),
    "rows around each row in an order that goes back": (
        lambda: marked().with_columns(pl.col("v").diff().over("k", order_by="t", descending=True)),
        r"descending=True\) needs rows that have not come.*looks back",
    ),
    "rows around each row as lists": (
        lambda: marked().with_columns(pl.col("v").diff().over("k", order_by="t", mapping_strategy="join")),
        r"mapping_strategy=\.\.\.\) makes other rows.*without it",
    ),
    "rows around each row without an order": (
        lambda: marked().with_columns(pl.col("v").shift().over("k") - pl.col("v").rolling_sum_by("t", "1h")),
        r"shift\(\)` looks at the rows before, and it is not said.*over\(key, order_by='t'\)",
    ),
    "rows of the future, all of them": (
        lambda: marked().with_columns(
            pl.col("v").shift(-1).over("k", order_by="t"),
            pl.col("v").cum_sum(reverse=True).over("k", order_by="t").alias("a"),
            pl.col("v").backward_fill().over("k", order_by="t").alias("b"),
            pl.col("v").reverse().over("k", order_by="t").alias("c"),
            pl.col("v").rolling_mean(3, center=True).over("k", order_by="t").alias("d"),
        ),
        r"shift\(\)` by -1 needs rows.*cum_sum\(\)` with reverse=True needs.*backward needs.*reverse\(\)` needs.*"
        r"center=True needs rows that have not come yet\. Instead: what looks back: shift\(1\).*center=False",
    ),
    "the rank of a row": (
        lambda: marked().with_columns(pl.col("v").rank().over("k", order_by="t")),
        r"rank\(\)` looks at all rows, and would change again.*cum_sum\(\).*rolling_sum_by\('t'",
    ),
    "a mean over a key in order": (
        lambda: marked().with_columns(pl.col("v") - pl.col("v").mean().over("k", order_by="t")),
        r"mean\(\)` looks at all rows, and would change again.*rolling_sum_by",
    ),
    "runs of equal values": (
        lambda: marked().with_columns(pl.col("v").rle_id().over("k", order_by="t")),
        r"rle_id\(\)` needs the rows before or behind each row\. Instead: what looks back",
    ),
    "nulls filled with a mean": (
        lambda: marked().with_columns(pl.col("v").fill_null(strategy="mean").over("k", order_by="t")),
        r"fill_null\(strategy=\.\.\.\)` looks at all rows of its key\. Instead: forward_fill",
    ),
    "rows chosen by those of the future": (
        lambda: marked().filter(pl.col("v") > pl.col("v").shift(-1).over("k", order_by="t")),
        r"^UNSUPPORTED_OPERATION: filter\(\) with such.*by -1 needs rows that have not come",
    ),
    "a running sum of a number": (
        lambda: marked().with_columns(pl.lit(1).cum_sum().over("k", order_by="t")),
        r"cum_sum\(\)` of a literal, which has no rows.*pl\.col\('t'\)\.cum_count\(\) to number rows",
    ),
    "fewer rows than there are": (
        lambda: marked().with_columns(pl.col("v").diff(null_behavior="drop").over("k", order_by="t")),
        r'null_behavior="drop" leaves out rows.*"ignore"',
    ),
    "an exponential mean": (
        lambda: marked().with_columns(pl.col("v").ewm_mean(alpha=0.5).over("k", order_by="t")),
        r"ewm_mean\(\)` is not built yet.*rolling_mean_by",
    ),
    "over within over": (
        lambda: marked().with_columns(pl.col("v").diff().over("k", order_by="t").shift().over(order_by="t")),
        r"over\(\.\.\.\) within over.*with_columns\(\.\.\.\) for each",
    ),
    "over within rolling": (
        lambda: marked().with_columns(pl.col("v").diff().over("k", order_by="t").sum().rolling("t", period="1h")),
        r"rolling\(\.\.\.\) of what looks at other rows.*with_columns\(\.\.\.\) for each",
    ),
    "an offset of months": (
        lambda: marked().rolling("t", period="1mo", offset="-2mo").agg(pl.len()),
        r"months with an offset ends at no fixed length.*in days or less, or no offset",
    ),
    "rolling without watermark": (
        lambda: frame().rolling("t", period="1h"),
        r"rolling\('t', period='1h'\).*with_watermark, 't', \"10m\"\) before it",
    ),
    "rolling of numbers": (lambda: marked().rolling("v", period="5i"), r"Int64, and windows need Datetime or Date"),
    "rolling of no time": (lambda: marked().rolling("t", period="0s"), r"period='0s'.*above zero"),
    "rolling closed nowhere": (lambda: marked().rolling("t", period="1h", closed="rigth"), r"'rigth'.*'right'"),
    "rolling by an aggregate": (
        lambda: marked().rolling("t", period="1h", group_by=pl.col("v").max()),
        r"by such a key.*max\(\)` looks at all rows.*single rows",
    ),
    "rolling of a Python function": (
        lambda: marked().rolling("t", period="1h").agg(pl.col("v").map_elements(abs, return_dtype=pl.Int64).sum()),
        r"rolling\(\)` hides a Python function.*with_columns\(\.\.\.\) of its own",
    ),
    "aggregate in filter": (lambda: frame().filter(pl.col("v") > pl.col("v").mean()), r"mean.*group_by"),
    "fill_null strategy": (lambda: frame().fill_null(strategy="forward"), r"other rows.*fill_null\(value\)"),
    "group_by keeps order": (lambda: frame().group_by("k", maintain_order=True), r"sort the answer"),
    "group_by an aggregate": (lambda: frame().group_by(pl.col("v").cum_sum()), r"cum_sum"),
    "a row beside its group": (
        lambda: frame().group_by("k").agg(pl.col("v") - pl.col("v").mean()),
        r"'v' stands there.*",
    ),
    "aggregates that cannot be kept, all at once": (
        lambda: frame().group_by("k").agg(pl.col("v").arg_max(), pl.corr("v", "k", method="spearman").alias("q")),
        r"(?s)arg_max.*ranks all rows anew.*Pearson's",
    ),
    "a histogram of unknown bins": (
        lambda: frame().group_by("k").agg(pl.col("v").hist(bin_count=10)),
        r"greatest of all values.*hist\(\[0, 10, 20\]\)",
    ),
    "k from the rows": (
        lambda: frame().group_by("k").agg(pl.col("v").head(pl.len())),
        r"computed from the rows.*a number",
    ),
    "a Python function below an option": (
        lambda: frame().group_by("k").agg(pl.col("v").map_elements(abs, return_dtype=pl.Int64).std()),
        r"below `std\(\)`, whose options.*with_columns",
    ),
    "a mean of means": (
        lambda: (
            frame()
            .group_by("k")
            .agg(ub.aggregate(partial={"m": pl.col("v").mean()}, merge={"m": pl.col("m").mean()}, finish=pl.col("m")))
        ),
        r"must keep these laws.*merged from a sum and a count",
    ),
    "a merge of rows": (
        lambda: ub.aggregate(partial={"n": pl.len()}, merge={"n": pl.col("v").sum()}, finish=pl.col("n")),
        r"reads 'v', and the state has only 'n'.*into partial",
    ),
    "a sketch of text": (lambda: frame().select(pl.col("k").approx_quantile(0.5)), r"numbers and times, not String"),
    "rows of a whole stream": (lambda: frame().select(pl.col("v").rank()), r"rank.*all rows"),
    "an unknown join of streams": (
        lambda: frame().join(frame(), on="k", how="outer"),
        r"how='outer'\) of two streams is not known.*'inner', 'left'",
    ),
    "cross join of streams": (
        lambda: frame().join(frame(), how="cross"),
        r"cross'\) of two streams.*for ever.*join_where\(\.\.\.\) with an equality",
    ),
    "a join of streams that looks at all keys": (
        lambda: frame().join(frame(), on="k", validate="1:1"),
        r"validate=\.\.\.\) of two streams.*later row may repeat.*unique\(",
    ),
    "a join of streams in order": (
        lambda: frame().join(frame(), on="k", maintain_order="left"),
        r"maintain_order=\.\.\.\) of two streams.*query\.read\(\)\.sort",
    ),
    "join_where of streams without an equality": (
        lambda: frame().join_where(frame(), pl.col("v") < pl.col("v_right")),
        r"without an equality.*all that are remembered.*pl\.col\('id_right'\)",
    ),
    "join_where of streams that looks at all rows": (
        lambda: frame().join_where(frame(), pl.col("k") == pl.col("k_right"), pl.col("v") > pl.col("v_right").max()),
        r"max\(\)` looks at all rows.*comparison of columns of the two rows",
    ),
    "join_where of streams by the current time": (
        lambda: frame().join_where(
            frame(),
            pl.col("k") == pl.col("k_right"),
            pl.col("t").dt.replace_time_zone("UTC") < ub.current_timestamp(),
        ),
        r"by the current time.*remembered.*with_columns",
    ),
    "join_where of streams with a number": (
        lambda: frame().join_where(frame(), pl.col("v") + pl.col("v_right")),
        r"the predicate is Int64. Write one that is true or false",
    ),
    "join_where of streams with one name for two columns": (
        lambda: frame().join_where(frame().rename({"v": "k_right"}), pl.col("k") == pl.col("k_right")),
        r"suffix='_right'\).*two columns 'k_right'.*another suffix",
    ),
    "join_asof of streams without watermarks": (
        lambda: frame().join_asof(frame(), left_on="t", right_on="t"),
        r"time of the left, 't', and of the right, 't', has no watermark.*left \.pipe.*and to the right \.pipe",
    ),
    "join_asof of streams of which one has no watermark": (
        lambda: frame().with_watermark("t", "1h").join_asof(frame().rename({"t": "u"}), left_on="t", right_on="u"),
        r"of the right, 'u', has no watermark.*Add to the right \.pipe\(ub\.with_watermark, \"u\", \"10m\"\)",
    ),
    "join_where of a bounded frame with a stream": (
        lambda: pl.LazyFrame(schema=SCHEMA).ub.join_where(frame(), pl.col("k") == pl.col("k_right")),  # type: ignore[attr-defined]  # registered
        r"of a bounded frame with a stream.*Write stream\.join_where\(bounded, ",
    ),
    "join_asof of streams on a number": (
        lambda: frame().with_watermark("t", "1h").join_asof(frame().with_watermark("t", "1h"), on="v"),
        r"the order of event time, and 'v' is Int64\. Join on columns with a watermark, e\.g\. on='t', or",
    ),
    "join_asof behind one without a bound": (
        lambda: near(strategy="forward").join_asof(named("c").with_watermark("t", "1h"), on="t", suffix="_c"),
        r"of the left, 't', has no watermark.*Behind join_asof\(strategy='forward'\) 't' is no event time.*tolerance=",
    ),
    "join_asof of streams that is equal in the times": (
        lambda: frame().join_asof(frame(), on="t", by=["k", "t"]),
        r"'t' = 't' are the times.*Leave them out of by=",
    ),
    "join_asof of streams by columns of different types": (
        lambda: (
            frame()
            .with_columns(d=pl.col("t").dt.cast_time_unit("ms"))
            .join_asof(frame().with_columns(d=pl.col("t")), on="t", by="d")
        ),
        r"'d' of the left is Datetime\(time_unit='ms'.*and 'd' of the right is .*'us'.*one type.*pl.col\('d'\).cast",
    ),
    "join_asof of streams by a different number of columns": (
        lambda: frame().join_asof(frame(), on="t", by_left="k", by_right=["k", "v"]),
        r"by_left= names 1 columns and by_right= 2.*as many for both",
    ),
    "join_asof of streams by an expression": (
        lambda: frame().join_asof(frame(), on="t", by=[pl.col("v") + 1]),
        r"names of columns.*with_columns",
    ),
    "join_asof of streams on an expression": (
        lambda: frame().join_asof(frame(), on=pl.col("t").dt.truncate("1h")),
        r"write on=.*names of columns",
    ),
    "join_asof strategy typo": (
        lambda: frame().join_asof(frame(), on="t", strategy="backwards"),
        r"'backwards'.*did you mean 'backward'\? Write",
    ),
    "join_asof of streams within a number": (
        lambda: frame().join_asof(frame(), on="t", tolerance=5),
        r"tolerance=5\) of two streams.*counts in the unit.*tolerance=\"10m\"",
    ),
    "join_asof within months": (
        lambda: frame().join_asof(frame().clear(), on="t", tolerance="1mo"),
        r"tolerance of join_asof\(\) is '1mo'.*no fixed length",
    ),
    "join_asof within less than nothing": (
        lambda: frame().join_asof(frame(), on="t", tolerance="-5s"),
        r"tolerance of join_asof\(\) is '-5s'.*\"0s\" or more",
    ),
    "right join": (
        lambda: frame().join(pl.DataFrame({"k": ["a"]}), on="k", how="right"),
        r'"right".*how="inner"|how=.right.',
    ),
    "join on an expression": (
        lambda: frame().join(pl.DataFrame({"k": ["a"]}), on=pl.col("k").str.to_uppercase()),
        r"names of columns",
    ),
    "a column that Polars takes for all": (
        lambda: ub.scan_memory(ub.MemorySource({"k": pl.String, "*": pl.Int64})),
        r"'\*'.*all columns.*[Rr]ename",
    ),
    "a column that Polars takes for a pattern": (lambda: frame().rename({"k": "^x$"}), r"'\^x\$'.*pattern.*[Rr]ename"),
    "a join with no frame": (
        lambda: frame().join([1, 2], on="k"),
        r"this is a list: \[1, 2\]\. Give another stream, a pl",
    ),
    "late rows in no folder": (
        lambda: marked().unique("t").sink_memory(late=True),
        r"late=True is no folder\. Write late=",
    ),
    "several places in one scan": (lambda: ub.scan_parquet(["a/", "b/"]), r"\['a/', 'b/'\].*glob.*ub\.concat"),  # type: ignore[arg-type]  # the point
    "watermark on no column": (lambda: frame().with_watermark("time", "1h"), r"no such column.*k, v, t, tags"),
    "watermark on a misspelt column": (lambda: frame().with_watermark("tag", "1h"), r"'tag'.*did you mean 'tags'"),
    "watermark on what is computed": (
        lambda: frame().with_watermark(pl.col("t").dt.truncate("1h"), "1h"),
        r"truncate.*write the name of a column; there are: k, v, t, tags",
    ),
    "windows of a number": (lambda: marked().group_by_dynamic("t", every=5), r"every is 5\. Write \"10m\""),
    "a stretch of time of a number": (lambda: marked().rolling("t", period=5), r"period is 5\. Write \"10m\""),
    "text without its format": (
        lambda: frame().with_columns(pl.col("k").str.to_datetime()),
        r"with_columns\(\) of 'k'.*guesses the format.*Instead: the format in it, such as str\.to_datetime\(\"%Y",
    ),
    "text without its format beside a column": (
        lambda: frame().select("v", pl.col("k").str.to_date()),
        r"select\(\) of 'k'.*guesses the format.*Instead: the format in it",
    ),
    "what looks back without an order": (
        lambda: marked().with_columns(last=pl.col("v").shift(), k="k"),
        r"with_columns\(\) of 'last' cannot.*over\(key, order_by='t'\)",
    ),
    "watermark of months": (lambda: frame().with_watermark("t", "1mo"), r"months.*no fixed length"),
    "watermark below zero": (lambda: frame().with_watermark("t", timedelta(seconds=-1)), r"'-1s'.*cannot be negative"),
    "watermark nonsense": (lambda: frame().with_watermark("t", "soon"), r"'soon'.*no duration"),
    "two watermarks": (
        lambda: frame().with_watermark("t", "1h").with_watermark("t", "2h"),
        r"with a delay of 2h.*already has a watermark on 't' with a delay of 1h\.",
    ),
    "a watermark on another column": (
        lambda: (
            frame().with_columns(u=pl.col("t").dt.offset_by("1h")).with_watermark("t", "1h").with_watermark("u", "1h")
        ),
        r"with_watermark\('u'\).*already has a watermark on 't'",
    ),
    "a watermark on what was computed anew": (
        lambda: (
            frame().with_watermark("t", "1h").with_columns(pl.col("t").dt.offset_by("1h")).with_watermark("t", "1h")
        ),
        r"has this watermark, and 't' was computed anew.*behind the computation",
    ),
    "window on text": (lambda: frame().group_by_dynamic("k", every="5m"), r"String.*Datetime or Date"),
    "window start_by": (lambda: frame().group_by_dynamic("t", every="5m", start_by="datapoint"), r"start_by"),
    "window datapoint": (lambda: frame().group_by_dynamic("t", every="5m", label="datapoint"), r"min\(\) in agg"),
    "window of no length": (lambda: frame().group_by_dynamic("t", every="0s"), r"above zero"),
    "window option typo": (
        lambda: frame().group_by_dynamic("t", every="1h", closed="Left"),
        r"'Left'.*left, right, both",
    ),
    "window label typo": (lambda: frame().group_by_dynamic("t", every="1h", label="Left"), r"'Left'.*left, right"),
    "window of no period": (lambda: frame().group_by_dynamic("t", every="1h", period="0h"), r"period.*above zero"),
    "window of hours over dates": (lambda: dates().group_by_dynamic("d", every="6h"), r"no hours.*pl.Datetime"),
    "window of half days in a zone": (
        lambda: (
            frame().with_columns(pl.col("t").dt.replace_time_zone("Europe/Berlin")).group_by_dynamic("t", every="12h")
        ),
        r"23 or 25 hours.*convert_time_zone",
    ),
    "sessions of no column": (lambda: frame().group_by_session("z", gap="5m"), r"no such column\. There are: k, v, t"),
    "sessions of text": (lambda: frame().group_by_session("k", gap="5m"), r"String.*Datetime or Date.*to_datetime"),
    "sessions of no gap": (lambda: frame().group_by_session("t", gap="0s"), r"gap='0s'.*above zero"),
    "sessions of a negative gap": (lambda: frame().group_by_session("t", gap=timedelta(seconds=-5)), r"above zero"),
    "sessions of months": (lambda: frame().group_by_session("t", gap="1mo"), r"no fixed length.*31d"),
    "sessions of a column's name": (
        lambda: frame().with_columns(gap=pl.duration(hours=1)).group_by_session("t", gap="gap"),
        r"this is a column.*gap=pl.col\('gap'\)",
    ),
    "sessions of a number": (lambda: frame().group_by_session("t", gap=5), r'gap=5.*"10m", a timedelta, or an expr'),
    "sessions of numbers": (lambda: frame().group_by_session("t", gap=pl.col("v")), r"Int64.*pl.duration\(seconds="),
    "sessions of two gaps": (lambda: frame().group_by_session("t", gap=pl.col("k", "v")), r"makes 2 columns"),
    "sessions of a gap over rows": (
        lambda: frame().group_by_session("t", gap=pl.col("t").diff()),
        r"diff.*rows before or behind",
    ),
    "sessions of hours over dates": (lambda: dates().group_by_session("d", gap="6h"), r"no hours.*pl.Datetime"),
    "sessions of a gap per date": (
        lambda: dates().group_by_session("d", gap=pl.duration(days=1)),
        r"no hours, and the gap of a row may have.*pl.Datetime",
    ),
    "sessions with bounds twice": (
        lambda: frame().with_columns(_upper_boundary=1).group_by_session("t", gap="1h", include_boundaries=True),
        r"adds the column '_upper_boundary'.*Rename yours",
    ),
    "the first rows of a session": (
        lambda: frame().group_by_session("t", gap="1h").head(2),
        r"come by turns.*bottom_k_by\('time', 3\)",
    ),
    "distinct values of a session in order": (
        lambda: frame().group_by_session("t", gap="1h").agg(pl.col("v").unique(maintain_order=True)),
        r"come by turns.*implode\(\)",
    ),
    "an aggregate of a session that looks at order": (
        lambda: (
            frame()
            .group_by_session("t", gap="1h")
            .agg(
                ub.aggregate(
                    partial={"v": pl.col("v").first()}, merge={"v": pl.col("v").first()}, finish=pl.col("v")
                ).alias("v")
            )
        ),
        r"say no more then which of their rows came first.*min_by\(\)",
    ),
    "a session's values, paired with filtered ones": (
        lambda: frame().group_by_session("t", gap="1h").agg((pl.col("v").filter(pl.col("v") > 0) + 1).implode()),
        r"single rows, or filter them last",
    ),
    "window of mixed units": (lambda: frame().group_by_dynamic("t", every="1mo2d"), r"cannot mix"),
    "a column of the engine's name": (lambda: frame().rename({"v": "__len__"}), r"__len__.*another name"),
    "group_by nothing": (lambda: frame().group_by(), r"no key"),
    "group_by then map_groups": (lambda: frame().group_by("k").map_groups(len, None), r"map_groups.*Instead"),
    "pivot of one value": (
        lambda: frame().pivot("k", ["a"], index="v"),
        r'pivot\(aggregate_function=None\).*second value.*"first"',
    ),
    "pivot in order": (
        lambda: frame().pivot("k", ["a"], index="v", aggregate_function="len", maintain_order=True),
        r"maintain_order.*sort the answer",
    ),
    "unique of expressions": (lambda: frame().unique(pl.col("v") + 1), r"names of columns.*with_columns"),
    "unique of no twins": (lambda: frame().unique("k", keep="none"), r"twin in any later batch.*n=pl.len\(\)"),
    "unique of a typo": (lambda: frame().unique("k", keep="frist"), r"'frist'.*\"first\""),
    "unique within no watermark": (
        lambda: frame().unique_within_watermark("k"),
        r"unique_within_watermark\('k'\) remembers.*with_watermark, 't', \"10m\".*or write unique\(",
    ),
    "unique within a watermark, of expressions": (
        lambda: frame().with_watermark("t", "1h").unique_within_watermark(pl.col("v") + 1),
        r"unique_within_watermark\(subset=.*names of columns.*with_columns",
    ),
    "a negative length": (lambda: frame().slice(0, -1), r"cannot be negative"),
    "a negative index": (lambda: frame().with_row_index(offset=-1), r"cannot be negative"),
    "every zeroth row": (lambda: frame().gather_every(0), r"must be positive"),
    "merge_sorted without watermark": (
        lambda: frame().merge_sorted(frame(), "t"),
        r"'t' has no watermark.*with_watermark",
    ),
    "merge_sorted with bounded": (lambda: frame().merge_sorted(frame().clear(), "t"), r"bounded frame.*ub.concat"),
    "map_batches of whole frames": (lambda: frame().map_batches(len), r"streamable=True.*foreach_batch"),
    "update by position": (lambda: frame().update(frame().clear()), r"no fixed place.*on="),
    "update of all": (lambda: frame().update(frame().clear(), on="k", how="full"), r'how="left" or "inner"'),
    "cross join with a key": (
        lambda: frame().join(pl.DataFrame({"k": ["a"]}), on="k", how="cross"),
        r"how='cross'.*has no keys. Leave out on=",
    ),
    "join_where outer": (
        lambda: frame().join_where(frame().clear(), pl.col("v") > pl.col("v_right"), how="full"),
        r"join_where\(how='full'\).*bounded side.*how=\"inner\", \"left\"",
    ),
    "join_where of no kind": (
        lambda: frame().join_where(frame().clear(), pl.col("v") > pl.col("v_right"), how="outer"),
        r"join_where\(how='outer'\).*no such kind.*\"semi\" or \"anti\"",
    ),
    "join_asof on nothing": (lambda: frame().join_asof(frame().clear()), r"write on="),
    "groups without rows to show": (lambda: frame().select("k").group_by("k").head(), r"beside the keys"),
    "concat side by side": (lambda: ub.concat([frame(), frame()], how="horizontal"), r"no fixed place.*how='vertical'"),  # type: ignore[call-overload]  # the point
    "concat of no frame": (lambda: ub.concat([frame(), "sales/"]), r"item 1 is a str.*StreamFrame"),  # type: ignore[list-item]  # the point
    "a bounded frame that is to go on": (
        lambda: ub.concat_sequential(frame(), frame().clear()),
        r"the second part goes on.*is a LazyFrame.*ub\.concat\(\[stream, bounded\]\)",
    ),
    "one source in both parts": (
        lambda: ub.concat_sequential(IN_BOTH, ub.concat([IN_BOTH, named("b")])),
        r"source 'a' is to wait for itself.*filter\(",
    ),
    "parts in two orders": (
        lambda: ub.concat([ub.concat_sequential(IN_BOTH, OTHER), ub.concat_sequential(OTHER, IN_BOTH)]).sink_memory(),
        r"is to wait for itself.*in another order. Put the parts in one order",
    ),
    "a history that is no frame": (
        lambda: ub.concat_sequential("sales/", IN_BOTH),  # type: ignore[call-overload]  # the point
        r"concat_sequential\(\).*0 is a str",
    ),
    "a history beside the stream": (
        lambda: ub.concat_sequential(IN_BOTH, OTHER, how="horizontal"),  # type: ignore[call-overload]  # the point
        r"concat_sequential\(how='horizontal'\).*no fixed place",
    ),
    "late rows where none can be": (
        lambda: frame().sink_memory(late="late"),
        r"late='late'.*no step of this query leaves rows out.*with_watermark",
    ),
    "late rows in complete mode": (
        lambda: windows(frame()).sink_memory(late="late", output_mode="complete"),
        r"late='late'.*complete mode forgets no group.*Leave it out, or write with output_mode=\"append\"",
    ),
    "late rows with a column of ours": (
        lambda: windows(frame().with_columns(_window=1)).sink_memory(late="late"),
        r"adds the column '_window'.*come to aggregate-1 have one.*Rename",
    ),
    "late rows in the output": (
        lambda: windows(frame()).sink_parquet("out", checkpoint="ckpt", late="out/late"),
        r"folder of late rows .*out/late and the output .*lie in one another",
    ),
    "late rows in the checkpoint": (
        lambda: windows(frame()).sink_parquet("out", checkpoint="ckpt", late="ckpt"),
        r"folder of late rows .*ckpt and the checkpoint .*lie in one another",
    ),
    "generator that has begun": (
        lambda: ub.scan_generator(iter([]), schema=SCHEMA),  # type: ignore[arg-type]  # the point
        r"list_iterator.*cannot begin again.*def rows\(since, until\)",
    ),
    "generator without offsets": (
        lambda: ub.scan_generator(lambda since: [], schema=SCHEMA),  # type: ignore[arg-type,misc]  # the point
        r"two offsets, and it does not take them.*def rows\(since, until\)",
    ),
    "generator without columns": (lambda: ub.scan_generator(lambda since, until: [], schema={}), r"schema=\{"),
    "generator limit": (
        lambda: ub.scan_generator(lambda since, until: [], schema=SCHEMA, max_rows_per_trigger=0),
        r"whole number above 0, or None",
    ),
    "trigger text": (
        lambda: frame().sink_memory(trigger="5s"),
        r"trigger=ub.processing_time\('5s'\)",
    ),
    "trigger not called": (
        lambda: frame().sink_memory(trigger=ub.available_now),
        r"the function available_now.*trigger=ub\.available_now\(\)",
    ),
    "trigger of Spark's name": (
        lambda: frame().sink_memory(trigger="availableNow"),
        r"trigger is 'availableNow'\. Write trigger=.*ub\.available_now\(\)",
    ),
    "half a name of an option": (
        lambda: frame().sink_parquet("memory://out", mode="complete"),
        r"no option 'mode'; did you mean 'output_mode'",
    ),
    "a short name of an option": (lambda: ub.scan_csv("x", sep=";"), r"'sep'; did you mean 'separator'"),  # type: ignore[call-arg]  # the point
    "watermark without a delay": (
        lambda: ub.scan_memory(ub.MemorySource(SCHEMA), watermark="t"),  # type: ignore[arg-type]  # the point
        r"watermark='t' is not a column and a delay\. Write watermark=\('t', '10m'\)",
    ),
    "a source without time to send": (
        lambda: ub.scan_memory(ub.MemorySource(SCHEMA), idle_timeout="0s"),
        r"idle_timeout='0s' leaves a source no time.*Write \"1m\"",
    ),
    "a path is no source": (
        lambda: ub.scan("sales/"),  # type: ignore[arg-type]  # the point
        r"ub\.scan\('sales/'\): a str is no source.*ub\.scan_parquet\('sales/'\)",
    ),
    "half a source": (
        lambda: ub.scan(Path),  # type: ignore[arg-type]  # the point
        r"lacks acknowledge, default_name, .*schema.*help\(ub\.Source\)",
    ),
    "a path is no sink": (
        lambda: frame().sink("out/"),
        r"sink\('out/'\): a str is no sink.*sink_parquet\('out/', checkpoint=",
    ),
    "the watermark of no column": (
        lambda: frame().with_columns(ub.watermark()).sink_memory(),
        r"ub\.watermark\(\) is how far.*no column of the query has a watermark.*with_watermark",
    ),
    "the watermark beside a Python function": (
        lambda: frame().with_columns(pl.col("v").map_elements(abs, return_dtype=pl.Int64) + ub.watermark()),
        r"ub\.watermark\(\) beside the Python function in .*watermark\(\).*two steps",
    ),
    "the last instant before the start of a window": (
        lambda: windows(frame()).rename({"t": "w"}).with_columns(ub.window_time("w")).sink_memory(),
        r"window_time\('w'\) is the last instant before the end.*'w' is the start.*include_boundaries=True.*label=",
    ),
    "the last instant before a truncated time, as a key": (
        lambda: (
            frame().group_by(w=pl.col("t").dt.truncate("5m")).len().group_by(ub.window_time("w")).len().sink_memory()
        ),
        r"window_time\('w'\).*'w' is the start of one",
    ),
    "the last instant before the lower boundary": (
        lambda: (
            frame()
            .with_watermark("t", "1h")
            .group_by_dynamic("t", every="5m", include_boundaries=True)
            .agg(pl.len())
            .unique("_lower_boundary")
            .select(ub.window_time("_lower_boundary"))
            .sink_memory()
        ),
        r"window_time\('_lower_boundary'\).*start of one",
    ),
    "the last instant before the start of a session": (
        lambda: (
            marked().group_by_session("t", gap="5m").agg(pl.len()).with_columns(w=ub.window_time("t")).sink_memory()
        ),
        r"window_time\('t'\).*'t' is the start of one.*include_boundaries=True",
    ),
    "windows without a watermark": (
        lambda: frame().group_by_dynamic("t", every="5m").agg(pl.len()).sink_memory(),
        r"windows of 't' never close.*ub\.with_watermark, 't', \"10m\"",
    ),
    "windows of numbers": (
        lambda: frame().group_by_dynamic("v", every="5m"),
        r"'v'\): the column is Int64.*Write .*pl\.from_epoch\(",
    ),
    "option typo": (
        lambda: frame().sink_parquet("out", chekpoint="c"),
        r"no option 'chekpoint'; did you mean 'checkpoint'",
    ),
    "loop with a checkpoint": (
        lambda: frame().collect_batches(checkpoint="c"),
        r"collect_batches\(checkpoint='c'\).*the query is the loop itself.*foreach_batch\(f, checkpoint=",
    ),
    "loop in chunks": (lambda: frame().collect_batches(chunk_size=10), r"chunk_size=10.*max_bytes_per_trigger="),
    "loop option typo": (lambda: frame().collect_batches(lasy=True), r"no option 'lasy'; did you mean 'lazy'"),
    "loop over what never closes": (
        lambda: frame().group_by("k").len().collect_batches(lazy=True),
        r"groups by 'k' never close",
    ),
    "batches on an engine": (lambda: frame().sink_batches(print, engine="gpu"), r"engine='gpu'.*without it"),
    "batches to a function of two": (
        lambda: frame().sink_batches(lambda rows, batch_id: None),
        r"needs a function \(rows\).*foreach_batch",
    ),
    "nothing to read again": (
        lambda: frame().sink_memory(reread_bounded="batch"),
        r"reread_bounded='batch'.*the query has none",
    ),
    "reread nonsense": (
        lambda: frame().join(pl.LazyFrame({"k": ["a"]}), on="k").sink_memory(reread_bounded="batches"),
        r"reread_bounded is 'batches'.*or write reread_bounded=\"batch\"",
    ),
    "file option typo": (
        lambda: frame().sink_csv("out", checkpoint="c", seperator=";"),
        r"sink_csv has no option 'seperator'; did you mean 'separator'",
    ),
    "file option of another format": (
        lambda: frame().sink_ndjson("out", checkpoint="c", separator=";"),
        r"sink_ndjson has no option 'separator'",
    ),
    "file option of one big file": (
        lambda: frame().sink_parquet("out", checkpoint="c", lazy=True),
        r"lazy=True of a parquet sink.*begins nothing",
    ),
    "partition by an expression": (
        lambda: frame().sink_parquet("out", checkpoint="c", partition_by=[pl.col("k")]),
        r"names columns of the output.*with_columns",
    ),
    "checkpoint in the output": (
        lambda: frame().sink_parquet("out", checkpoint="out/ckpt"),
        r"checkpoint .*out/ckpt and the output .*out lie in one another.*side by side",
    ),
    "output in the checkpoint": (
        lambda: frame().sink_parquet("ckpt/out", checkpoint="ckpt"),
        r"lie in one another",
    ),
    "sink of a PartitionBy": (
        lambda: frame().sink_parquet(pl.PartitionBy("out", key="k"), checkpoint="c"),
        r'sink_parquet\("out/", partition_by=\["day"\]\)',
    ),
    "sink option typo": (lambda: frame().sink_memory(output_mod="update"), r"did you mean 'output_mode'"),
    "no checkpoint": (lambda: frame().sink_parquet("out"), r'checkpoint="ckpt/<name>"'),
    "the time beside a Python function": (
        lambda: frame().filter(pl.col("t").map_elements(lambda t: t) < ub.current_timestamp()),
        r"current_timestamp.*map_elements|python_udf.*two steps: with_columns",
    ),
    "watermark policy typo": (lambda: frame().sink_memory(watermark_policy="Max"), r"'Max'.*'min'.*or 'max'"),
    "unknown home": (
        lambda: frame().sink_memory(state="memroy"),
        r"state is 'memroy'.*did you mean 'memory'\? Write 'memory', 'files', 'sqlite' or \"postgresql://",
    ),
    "home in capitals": (lambda: frame().sink_memory(state="MEMORY"), r"'MEMORY'.*did you mean 'memory'\? Write"),
    "home misspelt": (lambda: frame().sink_memory(state="sqllite"), r"'sqllite'.*did you mean 'sqlite'\? Write"),
    "home by a URL of another kind": (
        lambda: frame().sink_memory(state="mysql://ada:secret@db/sales"),
        r"state is 'mysql://\.\.\.', and there is no such home of state\. Write 'memory'",
    ),
    "database without its URL": (
        lambda: frame().sink_memory(state="postgresql"),
        r"did you mean 'postgresql://\.\.\.'",
    ),
    "home not called": (
        lambda: frame().sink_memory(state=ub.files_state),
        r"state is the function files_state\. Write it called: ub\.files_state\(\)",
    ),
    "home of a wrong type": (lambda: frame().sink_memory(state=1), r"state is of type int.*Write 'memory'"),
    "home of a URL that is none": (
        lambda: ub.postgresql_state("db.example/sales?password=secret"),
        r"this str is none of PostgreSQL\. Write ub\.postgresql_state",
    ),
    "a schema that is no name": (
        lambda: ub.postgresql_state("postgresql://db/sales", schema="s" * 64),
        r"schema is 's+', which is no name of PostgreSQL: a text of 1 to 63 bytes\. Write .*leave it out",
    ),
    "a schema of PostgreSQL's own": (
        lambda: ub.postgresql_state("postgresql://db/sales", schema="pg_hourly"),
        r"schema is 'pg_hourly', and names that begin with pg_ are PostgreSQL's own\. Write .*schema='hourly'",
    ),
    "an SQLite file that would be none": (
        lambda: ub.sqlite_state(path=":memory:"),
        r"path is ':memory:', and state in SQLite is a file on a local disk\. Write path=.*leave it out",
    ),
    "an SQLite file far away": (lambda: ub.sqlite_state(path="s3://bucket/state.db"), r"path is 's3://.*local disk"),
    "memory without a unit": (lambda: ub.files_state("512"), r"memory_limit is '512', which is no size.*\"512MB\""),
    "no memory": (lambda: ub.files_state(0), r"memory_limit is 0.*above 0"),
    "foreach_batch of no function": (lambda: frame().foreach_batch(lambda rows: None), r"rows"),
}


@pytest.mark.parametrize("case", WRITTEN, ids=list(WRITTEN))
def test_what_cannot_be_written_is_refused_where_it_is_written(case: str) -> None:
    write, sentence = WRITTEN[case]
    with pytest.raises((ub.PlanError, pl.exceptions.ComputeError), match=sentence):
        write()


MODES: dict[str, tuple[Callable[[], ub.StreamFrame], Any, str]] = {
    "rows around versions of groups": (
        lambda: windows(frame()).with_columns(pl.col("len").diff().over("k", order_by="t")),
        "update",
        r"with_columns\(\) would take each version of a group for a row.*append",
    ),
    "windows around versions of groups": (
        lambda: windows(frame()).rolling("t", period="1h").agg(pl.col("len").max()),
        "update",
        r"rolling\(\) would take each version of a group for a row.*append",
    ),
    "rows in complete": (frame, "complete", r'every row that ever came.*output_mode="append"'),
    "groups in append": (
        lambda: frame().group_by("k").len(),
        "append",
        r"groups by 'k' never close.*\.pipe\(ub\.with_watermark, 't', \"10m\"\)\.group_by_dynamic\('t'.*group_by='k'\)",
    ),
    "global in append": (lambda: frame().select(pl.len()), "append", r'global aggregate.*"update" or "complete"'),
    "watermark not in the key": (
        lambda: frame().with_watermark("t", "1h").group_by("k", "v").len(),
        "append",
        r"groups by 'k', 'v' never close.*too: \.group_by_dynamic\('t', every=\"5m\", group_by=\['k', 'v'\]\)",
    ),
    "watermark lost on the way": (
        lambda: frame().with_watermark("t", "1h").with_columns(pl.col("t").dt.offset_by("1h")).group_by("t").len(),
        "append",
        r"never close",
    ),
    "groups of groups in update": (
        lambda: windows(frame()).group_by("k").agg(pl.col("len").sum()),
        "update",
        r'each version of a group.*output_mode="append"',
    ),
    "a sort in append": (lambda: frame().sort("v"), "append", r'sort\(\) needs all rows.*"complete".*query.read\(\)'),
    "a sort of rows in complete": (lambda: frame().sort("v"), "complete", r"every row that ever came"),
    "a sort of groups in update": (lambda: frame().group_by("k").len().sort("len"), "update", r"sort\(\) needs all"),
    "a reversed stream": (lambda: frame().reverse(), "append", r"reverse\(\) needs all rows"),
    "a slice from the end": (lambda: frame().slice(-3), "append", r"slice\(-3\) needs all rows"),
    "a tail in append": (lambda: frame().tail(), "append", r'tail\(\) leaves when a better.*"complete"'),
    "a top_k in update": (lambda: frame().top_k(3, by="v"), "update", r'top_k\(\) have none.*"complete"'),
    "a top_k by the current time": (
        lambda: frame().top_k(3, by=(pl.col("t").dt.replace_time_zone("UTC") - ub.current_timestamp()).abs()),
        "complete",
        r"top_k\(\) by the current time.*with_columns",
    ),
    "a limit of versions": (
        lambda: frame().group_by("k").len().limit(3),
        "update",
        r"head\(\) would take each version",
    ),
    "unique versions": (lambda: frame().group_by("k").len().unique("len"), "update", r"unique\(\) would take each"),
    "update fills the key from a column": (
        lambda: frame().group_by("v").agg(pl.len().cast(pl.Int64).alias("n")).fill_null(pl.col("n")),
        "update",
        r"key column 'v'.*computed anew",
    ),
    "update fills NaN in the key": (
        lambda: frame().group_by(x=pl.col("v").cast(pl.Float64)).len().fill_nan(0.0),
        "update",
        r"key column 'x'.*computed anew",
    ),
    "time filled from a column": (
        lambda: frame().with_watermark("t", "1h").select("t", u="t").fill_null(pl.col("u")).group_by("t").len(),
        "append",
        r"never close",
    ),
    "a left join that no time bounds": (
        lambda: frame().join(frame(), on="k", how="left"),
        "append",
        r"rows of the left without a partner once no partner can come, and for the left.*never known\. Declare a "
        r"watermark before the join, on the right \.pipe\(ub\.with_watermark, 't', \"10m\"\), and say.*"
        r"pl\.col\('t_right'\) <= pl\.col\('t'\) \+ pl\.duration",
    ),
    "an anti join with a watermark on its own side alone": (
        lambda: (
            frame()
            .with_watermark("t", "1h")
            .join_where(frame(), pl.col("k") == pl.col("k_right"), pl.col("t_right") < pl.col("t"), how="anti")
        ),
        "append",
        r"an anti join emits rows of the left.*never known",
    ),
    "a left join of marked times that no predicate bounds": (
        lambda: marked().join_where(marked().rename({"t": "u"}), pl.col("k") == pl.col("k_right"), how="left"),
        "append",
        r"never known\. Say in predicates.*such as pl\.col\('u'\) <= pl\.col\('t'\) \+ pl\.duration",
    ),
    "a full join in update": (
        lambda: frame().with_watermark("t", "1h").join(frame(), on=["k", "t"], how="full"),
        "update",
        r"update mode.*rows without a partner of a full join.*\"append\", or join with how=\"inner\"",
    ),
    "a left join below groups in complete": (
        lambda: frame().with_watermark("t", "1h").join(frame(), on=["k", "t"], how="left").group_by("k").len(),
        "complete",
        r"complete mode.*rows of the left without a partner",
    ),
    "windows behind join_asof without a bound": (
        lambda: near(strategy="nearest").group_by_dynamic("t", every="1h").agg(pl.len()),
        "append",
        r"windows of 't' never close.*Behind join_asof\(strategy='nearest'\) 't' is no event time.*tolerance=\"10m\"",
    ),
    "join_asof of versions": (
        lambda: near(windows(named("c").select("t", "k").with_watermark("t", "1h"))),
        "update",
        r"a join with another stream would take each version.*\"append\"",
    ),
    "join_asof of a whole table with rows": (
        lambda: near(windows(named("c").with_watermark("t", "1h"))).group_by("k").agg(pl.len().alias("n")),
        "complete",
        r"shows the whole of an aggregate.*\"append\"",
    ),
    "a join of versions": (
        lambda: frame().group_by("k").len().join(frame(), on="k"),
        "update",
        r"a join with another stream would take each version.*\"append\"",
    ),
    "a join of a whole table with rows": (
        lambda: frame().group_by("k").len().join(frame(), on="k").group_by("k").agg(pl.len().alias("n")),
        "complete",
        r"aggregate whole in every batch|shows the whole of an aggregate.*\"append\"",
    ),
    "several rows of a group in update": (
        lambda: frame().select("k", "v").group_by("k").head(2),
        "update",
        r'one row per key, and explode\(\).*head\(\) and tail\(\).*"complete"',
    ),
    "append of sessions without a watermark": (
        lambda: frame().group_by_session("t", gap="1h").len(),
        "append",
        r"sessions of 't' never end.*with_watermark.*update",
    ),
    "update drops the start of sessions": (
        lambda: frame().group_by_session("t", gap="1h", group_by="k").len().select("k", "len"),
        "update",
        r"key column 't'.*rename",
    ),
    "update drops the key": (lambda: frame().group_by("k").len().select("len"), "update", r"key column 'k'.*rename"),
    "concat of groups in update": (
        lambda: ub.concat([frame().group_by("k").len(), frame().group_by("k").len()]),
        "update",
        r"no key of its own|two sources",
    ),
    "concat of groups with rows in complete": (
        lambda: ub.concat([frame().select("k"), frame().group_by("k").len().select("k")]),
        "complete",
        r"without an aggregate never ends.*query of its own",
    ),
    "two sources of one name": (
        lambda: ub.concat([frame(), frame()]),
        "append",
        r"two sources are named 'memory'.*name=",
    ),
    "unknown mode": (frame, "upsert", r"'append', 'update' or 'complete'"),
}


@pytest.mark.parametrize("case", MODES, ids=list(MODES))
def test_a_mode_that_a_plan_cannot_keep_is_refused_at_the_start(case: str) -> None:
    make, mode, sentence = MODES[case]
    with pytest.raises(ub.PlanError, match=sentence):
        make().sink_memory(output_mode=mode)


def test_all_reasons_come_at_once() -> None:
    both = ub.concat([frame(), frame()])
    with pytest.raises(ub.PlanError, match=r"(?s)two sources.*never close"):
        both.group_by("k").len().sink_memory()


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_verb_says_because_and_instead(name: str) -> None:
    with pytest.raises(ub.UnsupportedOperationError, match=rf"{name}\(\) cannot .* because .+\. Instead: .+"):
        getattr(frame(), name)()


def test_every_name_of_a_lazyframe_exists() -> None:
    names = [name for name in dir(pl.LazyFrame) if not name.startswith("_") and name != "ub"]
    assert len(names) >= 86
    assert [name for name in names if not hasattr(ub.StreamFrame, name)] == []


def test_polars_own_errors_come_untouched_and_at_the_line_that_made_them() -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="nope"):
        frame().filter(pl.col("nope") > 1)


def test_what_polars_finds_only_when_it_computes_is_found_where_it_is_written() -> None:
    other = frame().rename({"t": "u"}).with_columns(pl.col("u").dt.replace_time_zone("UTC"))
    same = pl.col("k") == pl.col("k_right")
    writes: list[Callable[[], Any]] = [
        lambda: frame().filter(pl.col("t") > datetime(2026, 3, 1, tzinfo=UTC)),
        lambda: marked().with_columns(behind=ub.watermark() - pl.col("t")),
        lambda: frame().select(wrong=pl.col("k") > pl.col("v")),
        lambda: marked().join_where(other, same, pl.col("u") >= pl.col("t")),
    ]
    for write in writes:
        with pytest.raises((pl.exceptions.SchemaError, pl.exceptions.ComputeError)):
            write()


def test_no_function_of_the_user_is_called_before_rows_come() -> None:
    def called(value: Any) -> Any:
        raise AssertionError(value)

    frame().with_columns(pl.col("v").map_elements(called, return_dtype=pl.Int64))
    frame().filter(pl.col("v").map_batches(called, return_dtype=pl.Boolean, is_elementwise=True))


@pytest.mark.parametrize("column", ["k", "v"])
def test_what_a_refused_watermark_says_to_write_can_be_written(column: str) -> None:
    with pytest.raises(ub.PlanError, match=rf"with_watermark\({column!r}\).*must be Datetime or Date") as refused:
        frame().with_watermark(column, "1h")
    advice = re.search(r"Write (\.with_columns\(.*\)) before it", str(refused.value))
    assert advice is not None
    marked_so = eval(f"frame{advice[1]}.with_watermark({column!r}, '1h')", {"frame": frame(), "pl": pl})
    assert marked_so.collect_schema()[column] == pl.Datetime("us")


def test_a_lost_checkpoint_is_not_a_first_run(tmp_path: Path) -> None:
    feed = ub.MemorySource(SCHEMA)
    feed.add([{"k": "a", "v": 1, "t": None, "tags": None}])
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    ub.scan_memory(feed).sink_parquet(tmp_path / "out", **options)
    (tmp_path / "ckpt" / "metadata").unlink()
    with pytest.raises(ub.CheckpointError, match="no metadata"):
        ub.scan_memory(feed).sink_parquet(tmp_path / "out", **options)


CHANGED: dict[str, tuple[Callable[[ub.StreamFrame], ub.StreamFrame], str]] = {
    "a key": (lambda f: f.group_by("k", "v").agg(pl.col("v").sum().alias("s")), r"keys\.v: .* is new"),
    "a key's expression": (
        lambda f: f.group_by(pl.col("k").str.to_uppercase()).agg(pl.col("v").sum().alias("s")),
        r"keys\.k",
    ),
    "an aggregate": (lambda f: f.group_by("k").agg(pl.col("v").max().alias("s")), r"state"),
    "a limit": (lambda f: f.head(4).group_by("k").agg(pl.col("v").sum().alias("s")), r"slice-1.*is new"),
    "no aggregate": (lambda f: f.select("k", s="v"), r"- operators\.aggregate-1 by k is gone\n"),
    "the label of windows": (
        lambda f: (
            f.with_watermark("t", "1h")
            .group_by_dynamic("t", every="1h", label="right", group_by="k")
            .agg(pl.col("v").sum().alias("s"))
        ),
        r"keys|window",
    ),
    "an aggregate's input": (lambda f: f.group_by("k").agg((pl.col("v") * 2).sum().alias("s")), r"state"),
}


@pytest.mark.parametrize("case", CHANGED, ids=list(CHANGED))
def test_a_changed_query_is_refused_with_the_difference_and_the_ways_out(case: str, tmp_path: Path) -> None:
    change, difference = CHANGED[case]
    feed = ub.MemorySource(SCHEMA)
    feed.add([{"k": "a", "v": 1, "t": None, "tags": None}])
    options: Any = {"checkpoint": tmp_path / "ckpt", "output_mode": "update", "trigger": ub.available_now()}
    first = ub.scan_memory(feed).group_by("k").agg(pl.col("v").sum().alias("s"))
    first.sink_parquet(tmp_path / "out", **options)
    with pytest.raises(ub.CheckpointError, match=rf"(?s)different query:.*{difference}.*ub\.reset"):
        change(ub.scan_memory(feed)).sink_parquet(tmp_path / "out", **options)


def test_row_wise_steps_may_change_over_a_restart(tmp_path: Path) -> None:
    feed = ub.MemorySource({"k": pl.String, "v": pl.Int64})
    feed.add([{"k": "a", "v": 1}, {"k": "b", "v": -5}])
    options: Any = {"checkpoint": tmp_path / "ckpt", "output_mode": "update", "trigger": ub.available_now()}
    ub.scan_memory(feed).group_by("k").agg(pl.col("v").sum()).sink_parquet(tmp_path / "out", **options)
    feed.add([{"k": "a", "v": 10}, {"k": "a", "v": -100}])
    second = ub.scan_memory(feed).filter(pl.col("v") > 0).group_by("k").agg(pl.col("v").sum())
    second.sink_parquet(tmp_path / "out", **options)
    assert ub.read_sink(tmp_path / "out").collect().sort("k").rows() == [("a", 11), ("b", -5)]


def test_a_moved_source_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        pl.DataFrame({"k": [folder]}).write_parquet(tmp_path / folder / f"{folder}.parquet")
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    ub.scan_parquet(tmp_path / "a", name="in").sink_parquet(tmp_path / "out", **options)
    with pytest.raises(ub.CheckpointError, match=r"sources\.in\.place: was .*a, is .*b.*allow_source_change=True"):
        ub.scan_parquet(tmp_path / "b", name="in").sink_parquet(tmp_path / "out", **options)
    ub.scan_parquet(tmp_path / "b", name="in", allow_source_change=True).sink_parquet(tmp_path / "out", **options)
    assert sorted(ub.read_sink(tmp_path / "out").collect()["k"]) == ["a", "b"]


def test_a_query_may_not_read_what_it_writes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pl.DataFrame({"k": ["a"]}).write_parquet(tmp_path / "in" / "0.parquet")
    own: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    for source, out in (("in", "in"), ("in", "in/out")):
        with pytest.raises(ub.PlanError, match="read what it writes"):
            ub.scan_parquet(tmp_path / source, recursive=True).sink_parquet(tmp_path / out, **own)
    frame = ub.scan_parquet(tmp_path / "in", recursive=True)
    with pytest.raises(ub.PlanError, match=r"the checkpoint .* lies in what source"):
        frame.sink_parquet(tmp_path / "out", checkpoint=tmp_path / "in" / "ckpt", trigger=ub.available_now())


@pytest.mark.parametrize("place", ["out", "out/read", "ckpt"])
def test_what_a_source_puts_aside_may_not_lie_in_what_the_query_writes(tmp_path: Path, place: str) -> None:
    (tmp_path / "in").mkdir()
    choices: list[Any] = [
        {"clean_source": "archive", "archive_folder": tmp_path / place},
        {"on_bad_record": "dead_letter", "dead_letter_folder": tmp_path / place},
    ]
    for options in choices:
        frame = ub.scan_csv(tmp_path / "in", schema={"a": pl.Int64}, **options)
        with pytest.raises(ub.PlanError, match=r"_folder of source 'in', .* lie in one another.*side by side"):
            frame.sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.available_now())


def test_what_a_source_puts_aside_may_not_be_read_by_another(tmp_path: Path) -> None:
    for name in ("in", "late"):
        (tmp_path / name).mkdir()
    columns: Any = {"schema": {"a": pl.Int64}}
    moved = ub.scan_csv(tmp_path / "in", clean_source="archive", archive_folder=tmp_path / "late", **columns)
    frame = ub.concat([moved, ub.scan_csv(tmp_path / "late", **columns)])
    with pytest.raises(ub.PlanError, match=r"archive_folder of source 'in', .*late lies in what source 'late' reads"):
        frame.sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.available_now())


def test_an_input_is_not_ended_while_a_file_waits(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.csv").write_text("a\n1\n")
    (tmp_path / "in" / "2.csv").write_text("a\n7")
    frame = ub.scan_csv(tmp_path / "in", schema={"a": pl.Int64})
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now(final=True)}
    with pytest.raises(ub.ConnectorError, match=r"'2\.csv' still waits"):
        frame.sink_parquet(tmp_path / "out", **options)
    (tmp_path / "in" / "2.csv").write_text("a\n7\n")
    frame.sink_parquet(tmp_path / "out", **options)
    assert sorted(ub.read_sink(tmp_path / "out").collect()["a"]) == [1, 7]


def test_a_file_that_cannot_be_read_is_named_and_can_be_taken_away(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.csv").write_text("a\n1\n")
    (tmp_path / "in" / "bad.csv").write_text("a\nx\n")
    frame = ub.scan_csv(tmp_path / "in", schema={"a": pl.Int64})
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    with pytest.raises(ub.ConnectorError, match=r"(?s)bad\.csv.*then start again"):
        frame.sink_parquet(tmp_path / "out", **options)
    (tmp_path / "in" / "bad.csv").unlink()
    frame.sink_parquet(tmp_path / "out", **options)
    assert ub.read_sink(tmp_path / "out").collect()["a"].to_list() == [1]


def test_what_a_function_may_have_seen_is_only_planned_anew_when_asked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.csv").write_text("a\nx\n")
    seen: list[int] = []

    def start() -> None:
        frame = ub.scan_csv(tmp_path / "in", schema={"a": pl.Int64})
        frame.foreach_batch(
            lambda rows, _: seen.extend(rows["a"]), checkpoint=tmp_path / "ckpt", trigger=ub.available_now()
        )

    with pytest.raises(ub.ConnectorError, match=r"(?s)bad\.csv.*pending_only=True"):
        start()
    (tmp_path / "in" / "bad.csv").rename(tmp_path / "good.csv")
    with pytest.raises(ub.ConnectorError, match=r"bad\.csv.*gone.*pending_only=True"):
        start()
    assert ub.reset(tmp_path / "ckpt", pending_only=True) == [f"offsets/{0:012d}"]
    (tmp_path / "in" / "good.csv").write_text("a\n1\n")
    start()
    assert seen == [1]


def test_what_is_forgotten_with_its_run_need_not_be_reset(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v\nmany\n")
    query = ub.scan_csv(tmp_path, schema={"v": pl.Int64}).sink_memory(trigger=ub.available_now(), wait=False)
    with pytest.raises(ub.ConnectorError, match=r"'many' is not Int64.*; then start again"):
        query.await_termination()
