"""What does one see of a frame, a query and all queries in a notebook, and is it safe to look at?"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.cards import ShownQueries

START = datetime(2026, 3, 1)
EVIL = "<script>alert('&\"x')</script>"


class Page(HTMLParser):
    """Checks that every tag is closed by its own, and gathers what stands between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag != "rect":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(thing: Any) -> Page:
    return Page(thing._repr_html_())


def hours(feed: ub.MemorySource) -> ub.StreamFrame:
    marked = ub.scan_memory(feed).with_watermark("t", "5m")
    return marked.group_by_dynamic("t", every="1h", group_by="k").agg(pl.len().alias("rows"))


def ran(**options: Any) -> ub.StreamingQuery:
    """A query after two batches with rows, one of which is late."""
    feed = ub.MemorySource({"k": pl.String, "t": pl.Datetime("us")})
    query = hours(feed).sink_memory(**options)
    for minutes in (0, 200, 10):
        feed.add([{"k": "a", "t": START + timedelta(minutes=minutes)}])
        query.process_all_available()
    return query


def failed() -> ub.StreamingQuery:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": EVIL}])

    def fail(rows: pl.DataFrame, batch: int) -> None:
        raise ValueError(f"no luck with {rows['k'].item()}")

    query = ub.scan_memory(feed).foreach_batch(fail, checkpoint="memory://cards/failed", name=EVIL)
    with pytest.raises(ValueError, match="no luck"):
        query.await_termination()
    return query


def test_a_frame_shows_its_columns_its_plan_and_how_to_see_rows() -> None:
    seen = page(hours(ub.MemorySource({"k": pl.String, "t": pl.Datetime("us")}))).text
    for word in ("unbounded, 3 columns", "rows UInt32", "watermark on 't', 5m behind", "every 1h", "frame.show()"):
        assert word in seen


def test_a_running_query_shows_where_it_stands() -> None:
    query = ran(name="hourly")
    try:
        seen = page(query)
        assert "hourly active" in seen.text
        assert query.last_progress is not None
        for word in (
            "aggregate-1",
            "watermark",
            "2026-03-01T03:15:00.000Z",
            "into memory (no guarantee)",
            query.last_progress.state or "no state",
        ):
            assert word in seen.text
        batches, rows_in, rows_out, late = f"0 to {query.last_progress.batch_id}", 3, 1, 1
        assert f"watermark {batches} {rows_in} {rows_out} {late} " in seen.text
        assert {"svg", "rect"} <= seen.tags
    finally:
        query.stop()
    assert "hourly stopped" in page(query).text


def test_a_query_without_a_batch_says_so() -> None:
    query = hours(ub.MemorySource({"k": pl.String, "t": pl.Datetime("us")})).sink_memory(trigger=ub.available_now())
    assert "no batch yet" in page(query).text


def test_a_failed_query_shows_its_error_and_runs_nothing_that_a_name_or_a_value_brought() -> None:
    query = failed()
    seen = page(query)
    assert "ValueError: no luck with" in seen.text
    assert "failed" in seen.text
    assert "script" not in seen.tags
    assert EVIL in seen.text


def test_all_queries_are_a_table_with_a_row_each() -> None:
    queries = [ran(name="one"), ran(name="two")]
    for query in queries:
        query.stop()
    shown = ShownQueries()
    shown._queries = [*queries, failed()]
    seen = page(shown)
    assert "3 known, 0 active" in seen.text
    assert [word for word in ("one", "two", EVIL) if word in seen.text] == ["one", "two", EVIL]
    assert len(re.findall("<tr", shown._repr_html_())) == 4
    assert repr(shown) == "<ub.streams: 3 known, 0 active>"
    shown._queries = []
    assert "no query was started" in page(shown).text


def test_looking_at_a_failed_query_is_no_answer_to_its_error() -> None:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": "a"}])

    def fail(rows: pl.DataFrame, batch: int) -> None:
        raise ValueError("no luck")

    query = ub.scan_memory(feed).foreach_batch(fail, checkpoint="memory://cards/unseen")
    query._wait(None)
    query._repr_html_()
    repr(query)
    assert query.failed_unobserved
    assert isinstance(query.exception(), ValueError)


def test_cards_take_their_colours_from_the_page() -> None:
    query = ran()
    query.stop()
    for html in (
        query._repr_html_(),
        ub.streams._repr_html_(),
        hours(ub.MemorySource({"k": pl.String, "t": pl.Datetime("us")}))._repr_html_(),
    ):
        assert set(re.findall(r"background:(\w+)", html)) <= {"none"}
        assert set(re.findall(r"[^-]color:(\w+)", html)) <= {"inherit"}
        assert "<style" not in html
