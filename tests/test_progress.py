"""What people see of a run."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl

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


def test_a_terminal_shows_one_line_with_a_bar_that_fills(tmp_path: Path) -> None:
    terminal = Terminal()
    line = LiveLine(terminal)
    line.on_query_started("id", "run", None)
    for progress in three_batches(tmp_path):
        line.on_query_progress(progress)
    line.on_query_terminated("id", "run", None)
    shown = terminal.getvalue().split("\r\x1b[2K")[1:]
    assert [text.split("%")[0].split()[-1] for text in shown] == ["33", "67", "100"]
    assert "6 rows in all" in shown[-1]
    assert terminal.getvalue().count("\n") == 1


def test_a_file_shows_nothing(tmp_path: Path) -> None:
    text = io.StringIO()
    line = LiveLine(text)
    for progress in three_batches(tmp_path):
        line.on_query_progress(progress)
    line.on_query_terminated("id", "run", None)
    assert text.getvalue() == ""
