"""What does a loop over the batches of a stream see, and what is left when it ends?"""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from polars.testing import assert_frame_equal

import unbounded as ub


def files(path: Path, *values: int) -> ub.StreamFrame:
    """A stream that takes one file a batch, each with one value."""
    path.mkdir(exist_ok=True)
    for value in values:
        pl.DataFrame({"v": [value]}).write_parquet(path / f"{value}.parquet")
    return ub.scan_parquet(path, schema={"v": pl.Int64}, max_files_per_trigger=1, name="in")


def records() -> list[str]:
    """What queries of temporary checkpoints keep in memory."""
    return [name for name in MemoryFileSystem.store if "unbounded-" in name]


def test_a_loop_takes_one_frame_a_batch_and_ends_with_what_is_there(tmp_path: Path) -> None:
    frames = list(files(tmp_path / "in", 0, 1, 2).collect_batches())
    assert [type(rows) for rows in frames] == [pl.DataFrame] * 3
    assert_frame_equal(pl.concat(frames), pl.DataFrame({"v": [0, 1, 2]}))


def test_the_same_loop_runs_over_bounded_and_unbounded_frames(tmp_path: Path) -> None:
    def total(frame: Any) -> int:
        return sum(rows["v"].sum() for rows in frame.filter(pl.col("v") > 0).collect_batches())

    assert total(files(tmp_path / "in", 1, 2, 3)) == total(pl.scan_parquet(tmp_path / "in")) == 6


def test_a_batch_runs_when_its_frame_is_asked_for(tmp_path: Path) -> None:
    ran: list[int] = []

    def note(value: int) -> int:
        ran.append(value)
        return value

    noted = files(tmp_path / "in", 0, 1, 2).select(pl.col("v").map_elements(note, return_dtype=pl.Int64))
    frames = noted.collect_batches()
    seen = [(next(frames)["v"].item(), list(ran)) for _ in range(2)]
    assert seen == [(0, [0]), (1, [0, 1])]
    frames.close()
    assert ran == [0, 1]
    assert list(frames) == []


@pytest.mark.parametrize(("lazy", "expected"), [(False, 1), (True, 2)])
def test_a_lazy_loop_begins_with_its_first_frame(tmp_path: Path, lazy: bool, expected: int) -> None:
    frames = files(tmp_path / "in", 0).collect_batches(lazy=lazy)
    files(tmp_path / "in", 1)
    assert len(list(frames)) == expected


@pytest.mark.parametrize("lazy", [False, True])
def test_nothing_is_left_of_a_query_when_its_loop_is_left(tmp_path: Path, lazy: bool) -> None:
    stream = files(tmp_path / "in", 0, 1, 2).with_columns(k=1).group_by("k").agg(pl.col("v").sum())
    before = records()
    for _ in stream.collect_batches(output_mode="update", lazy=lazy):
        assert records() != before
        break
    stream.collect_batches(output_mode="update", lazy=lazy)  # and of one whose loop never began
    gc.collect()
    assert records() == before


def test_an_error_of_the_query_is_raised_in_the_loop_and_ends_it(tmp_path: Path) -> None:
    before = records()
    stream = files(tmp_path / "in", 0, 1).select(pl.when(pl.col("v") == 1).then(pl.lit("x")).otherwise(pl.lit("7")))
    frames = stream.select(pl.all().cast(pl.Int64)).collect_batches()
    assert next(frames).rows() == [(7,)]
    with pytest.raises(pl.exceptions.InvalidOperationError):
        next(frames)
    assert list(frames) == []
    assert records() == before


def test_an_error_in_the_loop_closes_the_query(tmp_path: Path) -> None:
    def loop() -> None:
        for rows in files(tmp_path / "in", 0, 1).collect_batches():
            assert rows["v"].item() // 0

    before = records()
    with pytest.raises(ZeroDivisionError):
        loop()
    gc.collect()
    assert records() == before


def test_an_endless_loop_waits_for_rows_and_takes_them(tmp_path: Path) -> None:
    stream = files(tmp_path / "in", 0)
    seen = []
    for rows in stream.collect_batches(trigger=ub.processing_time("0s")):
        seen += rows["v"].to_list()
        if len(seen) == 3:
            break
        files(tmp_path / "in", len(seen))
    assert seen == [0, 1, 2]


def test_once_is_one_frame_of_everything(tmp_path: Path) -> None:
    [rows] = files(tmp_path / "in", 0, 1, 2).collect_batches(trigger=ub.once())
    assert rows["v"].to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    ("mode", "expected"), [("update", [[(0, 1)], [(1, 1)], [(0, 2)]]), ("complete", [[(0, 1)], [(0, 1), (1, 1)], None])]
)
def test_a_frame_holds_what_a_sink_of_that_mode_is_given(tmp_path: Path, mode: Any, expected: Any) -> None:
    stream = files(tmp_path / "in", 0, 1, 2).group_by(pl.col("v") % 2).agg(pl.len().cast(pl.Int64).alias("n"))
    frames = [sorted(rows.rows()) for rows in stream.collect_batches(output_mode=mode)]
    assert frames == [wanted or [(0, 2), (1, 1)] for wanted in expected]


def test_a_final_loop_gives_the_groups_that_stay_open(tmp_path: Path) -> None:
    feed = ub.MemorySource({"t": pl.Datetime("us")})
    feed.add(pl.DataFrame({"t": ["2026-01-01 10:10", "2026-01-01 11:10"]}).select(pl.col("t").str.to_datetime()))
    hours = ub.scan_memory(feed, watermark=("t", "0s")).group_by_dynamic("t", every="1h").agg(pl.len())
    assert sum(rows.height for rows in hours.collect_batches()) == 1
    assert sum(rows.height for rows in hours.collect_batches(trigger=ub.available_now(final=True))) == 2


# -------------------------------------------------------------------------------------- sink_batches
def test_a_function_of_rows_is_called_for_every_batch(tmp_path: Path) -> None:
    seen: list[int] = []
    stream = files(tmp_path / "in", 0, 1, 2)
    query = stream.sink_batches(
        lambda rows: seen.extend(rows["v"]),
        checkpoint=tmp_path / "ckpt",
        trigger=ub.available_now(),
        maintain_order=True,
    )
    assert seen == [0, 1, 2]
    assert not query.is_active


def test_a_function_that_returns_true_stops_the_query_behind_its_batch(tmp_path: Path) -> None:
    seen: list[int] = []

    def enough(rows: pl.DataFrame) -> bool:
        seen.extend(rows["v"])
        return len(seen) == 2

    stream = files(tmp_path / "in", 0, 1, 2, 3)
    query = stream.sink_batches(enough, checkpoint=tmp_path / "ckpt", trigger=ub.available_now())
    assert seen == [0, 1]
    assert query.exception() is None
    stream.sink_batches(enough, checkpoint=tmp_path / "ckpt", trigger=ub.available_now())
    assert seen == [0, 1, 2, 3]


def test_a_function_of_rows_that_returns_rows_is_refused(tmp_path: Path) -> None:
    def whole(rows: pl.DataFrame) -> Any:
        return rows

    with pytest.raises(ub.PlanError, match="returned a DataFrame for batch 0"):
        files(tmp_path / "in", 0).sink_batches(whole, checkpoint=tmp_path / "ckpt", trigger=ub.available_now())


def test_errors_of_the_function_come_out_as_they_are(tmp_path: Path) -> None:
    numbers = itertools.count()
    with pytest.raises(ZeroDivisionError):
        files(tmp_path / "in", 0).sink_batches(
            lambda rows: 1 // next(numbers) > 1, checkpoint=tmp_path / "ckpt", trigger=ub.available_now()
        )
