"""Does Spark's spelling reach the same scans, sinks and queries, with Spark's options, values and defaults?"""

from __future__ import annotations

import importlib.util
import shutil
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.spark_names import LINES_OF_FRAMES, LINES_OF_GROUPS, NOTHING_LIKE_IT
from unbounded.spark_options import READING, WRITING

SCHEMA: dict[str, Any] = {
    "k": pl.String,
    "v": pl.Int64,
    "w": pl.Float64,
    "time": pl.Datetime("us"),
    "tags": pl.List(pl.String),
}


def frame() -> Any:
    """A frame without its type, for what a type checker would refuse first."""
    return ub.scan_memory(ub.MemorySource(SCHEMA))


# ----------------------------------------------------------------------------------------------- names
def lookup() -> pl.LazyFrame:
    return pl.LazyFrame(schema={"k": pl.String, "time": pl.Datetime("us"), "from": pl.Int64})


@pytest.mark.parametrize("name", [*LINES_OF_FRAMES, *LINES_OF_GROUPS])
def test_the_line_to_write_can_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = (LINES_OF_FRAMES | LINES_OF_GROUPS)[name]
    known = {"frame": frame(), "other": frame(), "lookup": lookup(), "f": lambda rows, batch_id: None}
    eval(line.replace("checkpoint=", "trigger=ub.once(), checkpoint="), {**known, "pl": pl, "ub": ub})


@pytest.mark.parametrize("name", [*LINES_OF_FRAMES, *NOTHING_LIKE_IT])
def test_a_name_of_pyspark_is_answered_with_what_to_write(name: str) -> None:
    answer = LINES_OF_FRAMES.get(name) or NOTHING_LIKE_IT[name]
    with pytest.raises(AttributeError) as refused:
        getattr(frame(), name)
    assert str(refused.value).startswith(f"{name} is PySpark's: ")
    assert answer in str(refused.value)
    assert not hasattr(pl.LazyFrame, name), "Polars has the name, so a frame should too"


@pytest.mark.parametrize("name", LINES_OF_GROUPS)
def test_a_name_of_grouped_data_is_answered_with_what_to_write(name: str) -> None:
    with pytest.raises(AttributeError, match="is PySpark's: write ") as refused:
        getattr(frame().group_by("k"), name)
    assert LINES_OF_GROUPS[name] in str(refused.value)


def test_a_name_that_nobody_has_is_missing_as_everywhere() -> None:
    with pytest.raises(AttributeError, match="'StreamFrame' object has no attribute 'nonsense'"):
        frame().nonsense  # noqa: B018
    assert not hasattr(frame(), "groupBy")


def test_a_frame_says_that_it_is_a_stream() -> None:
    assert frame().isStreaming is True
    assert frame().is_streaming is True


HAS_PYSPARK = importlib.util.find_spec("pyspark") is not None


@pytest.mark.skipif(not HAS_PYSPARK, reason="the names are compared with pyspark's own: pip install unbounded[spark]")
def test_every_public_name_of_pyspark_is_there_or_is_answered() -> None:
    from pyspark.sql import DataFrame, GroupedData  # noqa: PLC0415
    from pyspark.sql.streaming import DataStreamReader, DataStreamWriter, StreamingQuery  # noqa: PLC0415
    from pyspark.sql.streaming import StreamingQueryManager  # noqa: PLC0415

    def public(thing: type) -> set[str]:
        return {name for name in dir(thing) if not name.startswith("_")}

    answered = {*LINES_OF_FRAMES, *NOTHING_LIKE_IT}
    assert public(DataFrame) - public(ub.StreamFrame) - answered == set()
    assert answered - public(DataFrame) == set()
    assert public(GroupedData) - public(ub.StreamGroupBy) - set(LINES_OF_GROUPS) == set()
    for theirs, ours in (
        (DataStreamReader, ub.DataStreamReader),
        (DataStreamWriter, ub.DataStreamWriter),
        (StreamingQuery, ub.StreamingQuery),
        (StreamingQueryManager, ub.StreamingQueryManager),
    ):
        assert public(theirs) - public(ours) == set()
