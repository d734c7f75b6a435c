"""Is the README true? Every Python block runs, in order, and prints what the text block behind it says."""

from __future__ import annotations

import contextlib
import io
import re
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

README = Path(__file__).parent.parent / "README.md"

_BLOCKS = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n^```text\n(?P<printed>.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


def _flights(day: int) -> pl.DataFrame:
    """What the README's second example expects to find in its folders."""
    times = [datetime(2013, 1, day) + timedelta(minutes=10 * i) for i in range(100)]
    return pl.DataFrame({"time": times, "origin": ["JFK", "LGA"] * 50, "dep_delay": [None, 5, 10, 20] * 25})


def test_every_example_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for day, folder in enumerate(("history", "incoming"), start=1):
        (tmp_path / folder).mkdir()
        _flights(day).write_parquet(tmp_path / folder / "flights.parquet")

    text = README.read_text()
    blocks = list(_BLOCKS.finditer(text))
    assert len(blocks) == text.count("```python")

    names: dict[str, object] = {}
    for block in blocks:
        line = text.count("\n", 0, block.start("code"))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Blank lines in front, so that a traceback names the line of the README.
            exec(compile("\n" * line + block["code"], str(README), "exec"), names)
        if block["printed"] is not None:
            assert printed.getvalue() == block["printed"], f"README line {line}"
