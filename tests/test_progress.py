"""What people see of a run."""

from __future__ import annotations

import io
import itertools
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.progress import LiveLine, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def three_batches(where: Path) -> list[Progress]:
    (where / "in").mkdir()
    for i in range(3):
        pl.DataFrame({"k": ["a", str(i)]}).write_parquet(where / "in" / f"{i}.parquet")
    frame = ub.scan_parquet(where / "in", max_files_per_trigger=1)
    return frame.sink_memory(trigger=ub.available_now()).recent_progress


def shown(batches: list[Progress], *, seconds_apart: float) -> list[str]:
    """What stood in the line of a terminal, one picture after another."""
    terminal = Terminal()
    line = LiveLine(terminal, clock=itertools.count(step=seconds_apart / 2).__next__)  # asked before and after each
    line.on_query_started("id", "run", None)
    for progress in batches:
        line.on_query_progress(progress)
    line.on_query_terminated("id", "run", None)
    assert terminal.getvalue().count("\n") == (1 if batches else 0)
    return terminal.getvalue().split("\r\x1b[2K")[1:]


def test_a_terminal_shows_one_line_with_a_bar_that_fills(tmp_path: Path) -> None:
    pictures = shown(three_batches(tmp_path), seconds_apart=1)
    assert [text.split("%")[0].split()[-1] for text in pictures] == ["33", "67", "100"]
    assert "6 rows in all" in pictures[-1]


def test_batches_that_follow_too_fast_share_a_picture_and_the_last_is_seen(tmp_path: Path) -> None:
    pictures = shown(three_batches(tmp_path), seconds_apart=0.001)
    assert len(pictures) == 2
    assert "6 rows in all" in pictures[-1]


def test_a_line_is_never_wider_than_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert {len(text.rstrip("\n")) for text in shown(three_batches(tmp_path), seconds_apart=1)} == {39}


def test_without_files_there_is_no_bar_and_without_batches_no_line() -> None:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": "a"}])
    query = ub.scan_memory(feed).sink_memory(trigger=ub.available_now())
    assert "%" not in shown(query.recent_progress, seconds_apart=1)[0]
    assert shown([], seconds_apart=1) == []


def test_a_file_shows_nothing(tmp_path: Path) -> None:
    text = io.StringIO()
    line = LiveLine(text)
    for progress in three_batches(tmp_path):
        line.on_query_progress(progress)
    line.on_query_terminated("id", "run", None)
    assert text.getvalue() == ""


def test_progress_tells_the_watermark_a_batch_decided_by_and_the_one_behind_it() -> None:
    feed = ub.MemorySource({"t": pl.Datetime("us")})
    query = ub.scan_memory(feed, watermark=("t", "10s")).sink_memory()
    for second in (30, 50, 20):
        feed.add({"t": [datetime(2026, 3, 1, second=second)]})
        query.process_all_available()
    query.stop()
    told = [(one.event_time.get("watermark"), one.event_time["next"]) for one in query.recent_progress]
    early, later = "2026-03-01T00:00:20.000Z", "2026-03-01T00:00:40.000Z"
    assert told == [(None, early), (early, later), (later, later)]


@pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")
def test_progress_names_the_home_of_the_state_if_there_is_any(tmp_path: Path) -> None:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": "a"}])
    places: Any = {"trigger": ub.once(), "output_mode": "complete"}
    home = ub.sqlite_state(path=tmp_path / "state.db")
    counts = ub.scan_memory(feed).group_by("k").agg(pl.len()).sink_memory(state=home, **places)
    assert counts.last_progress is not None
    assert counts.last_progress.state == counts.last_progress["state"] == f"SQLite file {tmp_path / 'state.db'}"
    rows = ub.scan_memory(feed).sink_memory(trigger=ub.once())
    assert rows.last_progress is not None
    assert rows.last_progress.state is None
