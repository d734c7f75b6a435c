"""The life of a query: start, watch, stop, replace, fail, and what is left when the interpreter exits."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.errors import QueryChangedError


def counting(feed: ub.MemorySource) -> ub.StreamFrame:
    return ub.scan_memory(feed).group_by("k").agg(pl.len().alias("n"))


def feed_of(*keys: str) -> ub.MemorySource:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": key} for key in keys])
    return feed


def test_a_running_query_shows_what_came_after_its_start() -> None:
    feed = feed_of("a", "b")
    query = counting(feed).sink_memory(output_mode="update")
    query.process_all_available()
    assert dict(query.read().collect().iter_rows()) == {"a": 1, "b": 1}
    feed.add([{"k": "a"}])
    query.process_all_available()
    assert dict(query.read().collect().iter_rows()) == {"a": 2, "b": 1}
    assert query.is_active
    query.stop()
    assert not query.is_active
    assert query.exception() is None


def test_a_trigger_that_ends_waits_and_returns_the_finished_query() -> None:
    query = counting(feed_of("a")).sink_memory(output_mode="complete", trigger=ub.available_now())
    assert not query.is_active
    assert query.read().collect().rows() == [("a", 1)]
    unwaited = counting(feed_of("a")).sink_memory(output_mode="complete", trigger=ub.available_now(), wait=False)
    assert unwaited.await_termination(30)


def test_progress_has_attributes_and_sparks_keys() -> None:
    query = counting(feed_of("a", "b")).sink_memory(output_mode="update", trigger=ub.available_now(), name="watched")
    progress = query.last_progress
    assert progress is not None
    assert progress.num_input_rows == progress["numInputRows"] == 2
    assert progress["sources"][0]["numInputRows"] == 2
    assert progress["sink"]["numOutputRows"] == 2
    assert progress["stateOperators"][0]["numRowsTotal"] == 2
    assert {"walCommit", "addBatch", "commitOffsets", "latestOffset", "triggerExecution"} <= set(progress["durationMs"])
    assert progress["name"] == query.name == "watched"
    assert '"batchId": 0' in progress.json


def test_an_error_of_user_code_arrives_as_itself_with_batch_and_offsets() -> None:
    def broken(rows: pl.DataFrame, batch_id: int) -> None:
        raise ZeroDivisionError("user code")

    with pytest.raises(ZeroDivisionError, match="user code") as caught:
        ub.scan_memory(feed_of("a")).foreach_batch(broken, checkpoint="memory://failing", trigger=ub.available_now())
    assert any("in batch 0 (offsets" in note for note in caught.value.__notes__)
    assert "broken" in {entry.name for entry in caught.traceback}


def test_foreach_batch_gets_the_same_batch_again_after_a_failure(tmp_path: Path) -> None:
    feed, calls, fail = feed_of("a", "b"), [], [True]

    def note(rows: pl.DataFrame, batch_id: int) -> None:
        calls.append((batch_id, rows["k"].to_list()))
        if fail.pop():
            raise RuntimeError("once")

    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    with pytest.raises(RuntimeError):
        ub.scan_memory(feed).foreach_batch(note, **options)
    feed.add([{"k": "c"}])
    fail.extend([False, False])
    ub.scan_memory(feed).foreach_batch(note, **options)
    assert calls == [(0, ["a", "b"]), (0, ["a", "b"]), (1, ["c"])]


def test_a_failed_query_says_so_and_keeps_its_error() -> None:
    def broken(rows: pl.DataFrame, batch_id: int) -> None:
        raise ValueError("no luck")

    query = ub.scan_memory(feed_of("a")).foreach_batch(broken, checkpoint="memory://failing-later")
    with pytest.raises(ValueError, match="no luck"):
        query.await_termination(30)
    assert isinstance(query.exception(), ValueError)
    assert "no luck" in repr(query)


def test_a_start_on_the_same_checkpoint_replaces_the_run_and_continues_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    feed = feed_of("a", "b")
    options: Any = {"checkpoint": tmp_path / "ckpt", "output_mode": "update"}
    first = counting(feed).sink_parquet(tmp_path / "out", **options)
    first.process_all_available()
    second = counting(feed).sink_parquet(tmp_path / "out", **options)
    assert not first.is_active
    assert second.id == first.id
    assert second.run_id != first.run_id
    assert "replaces" in caplog.text
    feed.add([{"k": "a"}])
    second.process_all_available()
    second.stop()
    assert dict(ub.read_sink(tmp_path / "out").collect().iter_rows()) == {"a": 2, "b": 1}


def test_another_query_on_the_checkpoint_of_a_run_is_refused_and_stops_nothing(tmp_path: Path) -> None:
    feed = feed_of("a")
    first = counting(feed).sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt", output_mode="update")
    first.process_all_available()
    with pytest.raises(QueryChangedError, match=r"sink: was .*/out, is .*/other"):
        ub.scan_memory(feed).sink_parquet(tmp_path / "other", checkpoint=tmp_path / "ckpt")
    assert first.is_active
    first.stop()


def test_a_start_under_the_same_name_stops_the_other_run() -> None:
    first = counting(feed_of("a")).sink_memory(output_mode="update", name="one of a name")
    second = counting(feed_of("a")).sink_memory(output_mode="update", name="one of a name")
    assert not first.is_active
    assert second in ub.streams.active
    assert ub.streams.get(second.id) is second
    second.stop()


def test_one_frame_may_feed_several_queries(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pl.DataFrame({"k": ["a", "b"]}).write_parquet(tmp_path / "in" / "0.parquet")
    frame = ub.scan_parquet(tmp_path / "in")
    for name in ("x", "y"):
        query = frame.sink_memory(trigger=ub.available_now(), name=name)
        assert query.read().collect().height == 2
    assert frame.snapshot().collect().height == 2


def test_once_is_one_batch_whatever_the_limits(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        pl.DataFrame({"k": [str(i)]}).write_parquet(tmp_path / "in" / f"{i}.parquet")
    frame = ub.scan_parquet(tmp_path / "in", max_files_per_trigger=1)
    query = frame.sink_memory(trigger=ub.once())
    assert [p.num_input_rows for p in query.recent_progress] == [3]
    query = frame.sink_memory(trigger=ub.available_now())
    assert [p.num_input_rows for p in query.recent_progress] == [1, 1, 1]


def test_listeners_hear_the_whole_life_and_their_errors_harm_nothing() -> None:
    heard: list[str] = []

    class Ear:
        def on_query_started(self, id: str, run_id: str, name: str | None) -> None:
            heard.append("started")

        def on_query_progress(self, progress: ub.Progress) -> None:
            heard.append(f"batch {progress.batch_id}")
            raise RuntimeError("a listener's own trouble")

        def on_query_terminated(self, id: str, run_id: str, exception: BaseException | None) -> None:
            heard.append(f"terminated {exception}")

    ear = Ear()
    ub.streams.add_listener(ear)
    try:
        counting(feed_of("a")).sink_memory(output_mode="update", trigger=ub.available_now())
    finally:
        ub.streams.remove_listener(ear)
    assert heard == ["started", "batch 0", "terminated None"]


def test_snapshot_and_show_look_without_a_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for i in range(2):
        pl.DataFrame({"k": ["a", str(i)]}).write_parquet(tmp_path / "in" / f"{i}.parquet")
    frame = ub.scan_parquet(tmp_path / "in").group_by("k").len()
    assert dict(frame.snapshot().collect().iter_rows()) == {"a": 2, "0": 1, "1": 1}
    frame.filter(k="a").show()
    shown = capsys.readouterr().out
    assert "first file of in only" in shown
    assert "1" in shown


def test_an_input_declared_ended_takes_no_more_rows(tmp_path: Path) -> None:
    feed = feed_of("a")
    options: Any = {"checkpoint": tmp_path / "ckpt", "output_mode": "update", "trigger": ub.available_now(final=True)}
    counting(feed).sink_parquet(tmp_path / "out", **options)
    again = counting(feed).sink_parquet(tmp_path / "out", **options)
    assert again.last_progress is None
    feed.add([{"k": "b"}])
    with pytest.raises(ub.CheckpointError, match=r"declared ended.*new checkpoint"):
        counting(feed).sink_parquet(tmp_path / "out", **options)


def test_the_end_of_a_run_says_what_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    feed = ub.MemorySource({"t": pl.Datetime("us")})
    feed.add(pl.DataFrame({"t": ["2026-01-01 00:00:00"]}).with_columns(pl.col("t").str.to_datetime(time_unit="us")))
    frame = ub.scan_memory(feed).with_watermark("t", "1h").group_by_dynamic("t", every="5m").agg(pl.len())
    frame.sink_memory(trigger=ub.available_now())
    assert "1 group stays open: it comes out" in caplog.text
    assert "final=True" in caplog.text


def test_the_end_of_a_run_says_how_many_rows_may_come_out_without_a_partner(caplog: pytest.LogCaptureFixture) -> None:
    feeds = [ub.MemorySource({"k": pl.String, "t": pl.Datetime}) for _ in range(2)]
    ours, theirs = (ub.scan_memory(feed, name=f"{i}", watermark=("t", "1h")) for i, feed in enumerate(feeds))
    feeds[0].add([{"k": "a", "t": datetime(2026, 1, 1)}, {"k": "b", "t": datetime(2026, 1, 1)}])
    feeds[1].add([{"k": "a", "t": datetime(2026, 1, 1)}])
    for how, told in (("inner", ""), ("left", "up to 2 rows of a join wait for a partner: they come out when")):
        caplog.clear()
        ours.join(theirs, on=["k", "t"], how=how).sink_memory(trigger=ub.available_now())
        assert (told in caplog.text) if told else not caplog.text


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments], capture_output=True, text=True, check=False
    )


def test_a_query_still_running_at_exit_commits_its_batch_and_says_so(tmp_path: Path) -> None:
    ended = python(
        """
        import sys, polars as pl, unbounded as ub
        feed = ub.MemorySource({"k": pl.String}); feed.add([{"k": "a"}])
        q = ub.scan_memory(feed).sink_parquet(sys.argv[1] + "/out", checkpoint=sys.argv[1] + "/ckpt")
        q.process_all_available()
        """,
        str(tmp_path),
    )
    assert ended.returncode == 0, ended.stderr
    assert "interpreter exits" in ended.stderr
    assert ub.read_sink(tmp_path / "out").collect().rows() == [("a",)]


def test_a_batch_that_ends_at_exit_is_committed(tmp_path: Path) -> None:
    ended = python(
        """
        import sys, time, polars as pl, unbounded as ub
        feed = ub.MemorySource({"k": pl.String}); feed.add([{"k": "a"}])
        def slow(rows, batch_id): time.sleep(0.5)
        ub.scan_memory(feed).foreach_batch(slow, checkpoint=sys.argv[1])
        time.sleep(0.1)
        """,
        str(tmp_path / "ckpt"),
    )
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "ckpt" / "commits").iterdir())) == 1


def test_ctrl_c_ends_the_wait_and_the_query() -> None:
    ended = python(
        """
        import _thread, threading, time, polars as pl, unbounded as ub
        feed = ub.MemorySource({"k": pl.String}); feed.add([{"k": "a"}])
        def slow(rows, batch_id): time.sleep(1.0)
        threading.Timer(0.3, _thread.interrupt_main).start()
        try:
            ub.scan_memory(feed).foreach_batch(slow, checkpoint="memory://c", trigger=ub.available_now())
        except KeyboardInterrupt:
            print("interrupted", ub.streams.active)
        """
    )
    assert ended.stdout.strip() == "interrupted []", ended.stderr


def test_a_refused_start_leaves_the_running_query_alone(tmp_path: Path) -> None:
    feed = feed_of("a")
    query = ub.scan_memory(feed).sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt")
    with pytest.raises(ub.PlanError):
        counting(feed).sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt")
    assert query.is_active
    query.stop()


def test_a_failure_that_nobody_looked_at_ends_the_process_with_1() -> None:
    ended = python(
        """
        import time, polars as pl, unbounded as ub
        feed = ub.MemorySource({"k": pl.String}); feed.add([{"k": "a"}])
        def broken(rows, batch_id): raise ValueError("nobody looked")
        q = ub.scan_memory(feed).foreach_batch(broken, checkpoint="memory://x")
        while q.is_active: time.sleep(0.01)
        """
    )
    assert ended.returncode == 1
    assert "nobody looked" in ended.stderr


def test_another_process_is_told_who_holds_the_checkpoint(tmp_path: Path) -> None:
    feed = feed_of("a")
    query = ub.scan_memory(feed).sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt")
    ended = python(
        """
        import sys, polars as pl, unbounded as ub
        feed = ub.MemorySource({"k": pl.String})
        ub.scan_memory(feed).sink_parquet(sys.argv[1] + "/out", checkpoint=sys.argv[1] + "/ckpt")
        """,
        str(tmp_path),
    )
    query.stop()
    assert ended.returncode == 1
    assert "CONCURRENT_QUERY" in ended.stderr
    assert '"pid"' in ended.stderr
    assert "Nothing was written" in ended.stderr


def test_reset_forgets_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    feed = feed_of("a")
    counting(feed).sink_parquet(
        tmp_path / "out", checkpoint=tmp_path / "ckpt", output_mode="update", trigger=ub.available_now()
    )
    deleted = ub.reset(tmp_path / "ckpt")
    assert "metadata" in deleted
    assert [path.name for path in (tmp_path / "ckpt").rglob("*") if path.is_file()] == ["lock"]
    assert ub.read_sink(tmp_path / "out").collect().height == 1
    with pytest.raises(ub.CheckpointError, match="no checkpoint"):
        ub.reset(tmp_path / "ckpt")
