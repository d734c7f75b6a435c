"""Is a history read to its end before the live stream begins, once, and with one state for both?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from tests.language import Story, same_rows
from unbounded.checkpoint import Checkpoint
from unbounded.progress import Progress
from unbounded.query import MicroBatches
from unbounded.sinks.files import FileSink
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import open_storage
from unbounded.testing import assert_unified

START = datetime(2026, 3, 1)
SCHEMA: dict[str, Any] = {"k": pl.String, "t": pl.Datetime("us")}


def at(*minutes: float, k: str = "a") -> list[dict[str, Any]]:
    return [{"k": k, "t": START + timedelta(minutes=m)} for m in minutes]


HAS_MORE = r"'.*' has rows more, which are not read: concat_sequential\(\).*'.*' behind it has begun.*Move them to '.*'"


def below(history: Any, live: Any) -> Any:
    return ub.concat_sequential(history.pipe(ub.with_watermark, "t", "0s"), live.pipe(ub.with_watermark, "t", "0s"))


def above(history: Any, live: Any) -> Any:
    return ub.concat_sequential(history, live).pipe(ub.with_watermark, "t", "0s")


def counted(frame: Any) -> Any:
    return frame.group_by_dynamic("t", every="10m").agg(pl.len().alias("rows"))


def read(story: Story) -> list[list[int]]:
    """How many rows each batch read of each source."""
    return [[source.num_input_rows for source in p.sources] for p in story.progress if p.num_input_rows]


def closed(story: Story) -> list[tuple[int, int]]:
    rows = story.answer().rows()
    return sorted(((t - START) // timedelta(minutes=1), n) for t, n in rows)


def test_the_live_stream_waits_until_the_history_has_nothing_more_to_give() -> None:
    story = Story(ub.concat_sequential, SCHEMA, SCHEMA)
    story.add(at(50, 51), feed=1).add(at(1)).batch().add(at(2)).batch().run()
    assert read(story) == [[1, 0], [1, 0], [0, 2]]
    same_rows(story.answer(), pl.DataFrame([*at(1), *at(2), *at(50, 51)], SCHEMA))


def test_what_comes_to_the_history_afterwards_is_not_read_not_even_by_a_later_start() -> None:
    story = Story(ub.concat_sequential, SCHEMA, SCHEMA)
    story.add(at(1)).run().add(at(2)).run()  # the live stream has not begun
    assert read(story) == [[1, 0], [1, 0]]
    story.add(at(50), feed=1).run().add(at(3)).run()
    for _ in range(2):
        with pytest.warns(UserWarning, match=HAS_MORE):
            story.restart().run()
    story.add(at(51), feed=1).run()
    assert read(story) == [[1, 0], [1, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize("death", ["intended", "remembered", "written", "committed"])
def test_a_crash_does_not_bring_the_history_back(death: Any) -> None:
    story = Story(ub.concat_sequential, SCHEMA, SCHEMA).add(at(1)).run()
    story.add(at(50), feed=1).crash(death).restart().run().add(at(2)).add(at(51), feed=1).run()
    same_rows(story.answer().filter(pl.col("t") >= START + timedelta(minutes=50)), pl.DataFrame(at(50, 51), SCHEMA))
    assert story.answer().height == 3


@pytest.mark.parametrize("pipeline", [below, above])
def test_the_watermark_goes_on_from_the_history_to_the_live_stream(pipeline: Any) -> None:
    story = Story(lambda history, live: counted(pipeline(history, live)), SCHEMA, SCHEMA)
    story.add(at(100), feed=1).add(at(1, 12)).batch().add(at(33)).batch()
    assert closed(story) == [(0, 1)]  # the live stream has not sent anything, and is not waited for
    story.run()
    assert closed(story) == [(0, 1), (10, 1), (30, 1)]  # nor is the history, which stands at 33
    story.add(at(101, 131), feed=1).run()
    assert closed(story)[3:] == [(100, 2)]
    assert story.late == 0


def test_each_part_may_aggregate_before() -> None:
    def pipeline(history: Any, live: Any) -> Any:
        return ub.concat_sequential(*(counted(f.pipe(ub.with_watermark, "t", "0s")) for f in (history, live)))

    story = Story(pipeline, SCHEMA, SCHEMA)
    story.add(at(1, 2, 12)).run().add(at(20, 33), feed=1).run().end()
    assert closed(story) == [(0, 2), (10, 1), (20, 1), (30, 1)]


def test_three_parts_come_one_after_another() -> None:
    def pipeline(first: Any, second: Any, third: Any) -> Any:
        return ub.concat_sequential(ub.concat_sequential(first, second), third)

    story = Story(pipeline, SCHEMA, SCHEMA, SCHEMA)
    for feed in (2, 1, 0):
        story.add(at(feed), feed=feed)
    story.run()
    assert read(story) == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_bounded_history_comes_whole_before() -> None:
    story = Story(lambda live: ub.concat_sequential(pl.LazyFrame(at(1, 2), SCHEMA), live), SCHEMA)
    story.add(at(50)).run().add(at(51)).run()
    assert read(story) == [[2, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize("pipeline", [above, lambda h, live: ub.concat_sequential(h, live).unique("k", keep="first")])
def test_the_answer_is_that_of_the_parts_behind_one_another(pipeline: Any) -> None:
    def whole(history: Any, live: Any) -> Any:
        return pipeline(history, live).select("k", "t")

    assert_unified(whole, *(pl.DataFrame(at(*range(n, 30, 3), k="ab"[n]), SCHEMA) for n in range(2)))


def test_groups_go_on_from_the_history() -> None:
    story = Story(lambda h, live: ub.concat_sequential(h, live).group_by("k").len(), SCHEMA, SCHEMA, mode="update")
    story.add(at(1, 2)).run().restart().add(at(3), feed=1).add(at(4, k="b"), feed=1).run().expect([("a", 3), ("b", 1)])


def test_bounded_parts_are_concatenated() -> None:
    history, live = pl.LazyFrame(at(2), SCHEMA), pl.LazyFrame(at(1), SCHEMA)
    assert ub.concat_sequential(history, live).collect().rows() == [("a", row["t"]) for row in at(2, 1)]


# ------------------------------------------------------------------------------------------- files
def write(folder: Path, name: str, *minutes: int) -> None:
    folder.mkdir(exist_ok=True)
    pl.DataFrame(at(*minutes), SCHEMA).write_csv(folder / f"{name}.csv", datetime_format="%FT%T")


def started(place: Path, clock: Callable[[], datetime] = lambda: datetime(2030, 1, 1, tzinfo=UTC)) -> MicroBatches:
    history, live = (
        ub.scan_csv(place / name, schema=SCHEMA, max_files_per_trigger=1, name=name) for name in ("history", "live")
    )
    storage = open_storage(place / "checkpoint")
    batches = MicroBatches(
        ub.concat_sequential(history, live)._plan,
        FileSink(place / "out", "ipc"),
        mode="append",
        checkpoint=Checkpoint(storage),
        home=MemoryHome(storage),
        wall_clock=clock,
    )
    batches.open()
    return batches


def rows_of(ran: list[Progress]) -> list[list[int]]:
    return [[source.num_input_rows for source in p.sources] for p in ran]


def test_a_history_of_files_keeps_its_limits_and_is_waited_for_while_one_is_not_complete(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write(tmp_path / "history", name, 1, 2)
    write(tmp_path / "live", "1", 50)
    incomplete = tmp_path / "history" / "3.csv"
    incomplete.write_text("k,t\na,2026-03-01T00:03:00")
    batches = started(tmp_path)
    assert rows_of(list(iter(batches.run_once, None))) == [[2, 0], [2, 0]]
    batches.close()
    incomplete.write_text("k,t\na,2026-03-01T00:03:00\n")
    batches = started(tmp_path)
    assert rows_of(list(iter(batches.run_once, None))) == [[1, 0], [0, 1]]
    batches.close()
    write(tmp_path / "history", "4", 4)
    write(tmp_path / "live", "2", 51)
    batches = started(tmp_path)
    with pytest.warns(UserWarning, match=r"source 'history' has 1 files more.*Move them to 'live', or read all anew"):
        ran = list(iter(batches.run_once, None))
    assert rows_of(ran) == [[0, 1]]
    assert [dict(source.metrics)["backlog_files"] for source in ran[0].sources] == [1, 0]
    batches.close()


def test_more_of_a_history_is_looked_for_every_ten_minutes_and_told_once(tmp_path: Path) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    write(tmp_path / "history", "1", 1)
    write(tmp_path / "live", "1", 50)
    batches = started(tmp_path, clock=lambda: now)
    assert rows_of(list(iter(batches.run_once, None))) == [[1, 0], [0, 1]]
    write(tmp_path / "history", "2", 2)
    assert batches.run_once() is None  # it was just looked at
    now += timedelta(minutes=10)
    with pytest.warns(UserWarning, match="has 1 files more"):
        assert batches.run_once() is None
    now += timedelta(minutes=10)
    assert batches.run_once() is None
    batches.close()


@pytest.mark.parametrize("kind", ["of other columns", "in no folder"])
def test_nothing_of_an_ended_history_can_fail_the_live_stream(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "history", "1", 1)
    write(tmp_path / "live", "1", 50)
    batches = started(tmp_path)
    list(iter(batches.run_once, None))
    batches.close()
    write(tmp_path / "live", "2", 51)
    batches = started(tmp_path)
    if kind == "in no folder":
        shutil.rmtree(tmp_path / "history")
        ran = list(iter(batches.run_once, None))
    else:
        (tmp_path / "history" / "2.csv").write_text("k\n1\n")
        with pytest.warns(UserWarning, match="has 1 files more"):
            ran = list(iter(batches.run_once, None))
    assert rows_of(ran) == [[0, 1]]
    batches.close()


def test_an_available_now_run_reads_both_as_far_as_they_went_when_it_began(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write(tmp_path / "history", name, 1, 2)
    write(tmp_path / "live", "1", 50)
    batches = started(tmp_path)
    ends = batches.ends()
    assert batches.is_catching_up is False
    first = batches.run_once(ends=ends)
    assert first is not None
    assert batches.is_catching_up is True  # the interval of a trigger is not waited for
    write(tmp_path / "history", "3", 3)
    rest = list(iter(lambda: batches.run_once(ends=ends), None))
    assert rows_of([first, *rest]) == [[2, 0], [2, 0]]  # its new end is not reached, so the live stream waits
    assert rows_of(list(iter(batches.run_once, None))) == [[1, 0], [0, 1]]
    assert batches.is_catching_up is False
    batches.close()


def test_explain_says_what_waits_for_what() -> None:
    history, live = (ub.scan_memory(ub.MemorySource(SCHEMA), name=name) for name in ("history", "live"))
    text = ub.concat_sequential(history, live).explain()
    assert "concat_sequential vertical: the first part to its end, then the second" in text
    assert "order: 'live' waits for the end of 'history'; what comes to that later is warned of, not read" in text
