"""What a damaged, incomplete, foreign or outdated checkpoint says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.errors import ConcurrentQueryError, CorruptRecordError, SinkOwnedError
from unbounded.storage import LocalStorage, decode, encode, open_storage


def run(where: Path, batches: int = 1, out: str = "out") -> None:
    """Let `batches` files arrive and be counted, one a batch."""
    folder = where / "in"
    folder.mkdir(exist_ok=True)
    for _ in range(batches):
        n = len(list(folder.iterdir()))
        pl.DataFrame({"k": ["a", "b", str(n)]}).write_parquet(folder / f"{n}.parquet")
    frame = ub.scan_parquet(folder, max_files_per_trigger=1).group_by("k").len()
    frame.sink_parquet(where / out, checkpoint=where / "ckpt", output_mode="update", trigger=ub.available_now())


def failure(act: Callable[[], None]) -> Exception | None:
    """The error of an act that need not fail: a record that nobody needs any more is not read."""
    try:
        act()
    except Exception as error:
        return error
    return None


def records(where: Path) -> list[Path]:
    return sorted(path for path in (where / "ckpt").rglob("*") if path.is_file() and path.name != "lock")


def test_a_flipped_bit_in_any_needed_record_is_named_and_never_an_answer(tmp_path: Path) -> None:
    run(tmp_path, 3)
    newest = [
        path
        for path in records(tmp_path)
        if path.name.startswith(("000000000002", "2.", "metadata")) or "state" in str(path)
    ]
    assert len(newest) >= 3
    found = 0
    for path in newest:
        good = path.read_bytes()
        for at in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
            error = failure(lambda: run(tmp_path, 0))
            if error is not None:
                assert isinstance(error, CorruptRecordError)
                assert path.name in str(error)
                found += 1
            path.write_bytes(good)
    run(tmp_path, 1)
    assert ub.read_sink(tmp_path / "out").collect().filter(k="a")["len"].to_list() == [4]
    assert found >= 6


def test_a_gap_in_the_commits_is_an_error_and_not_an_older_state(tmp_path: Path) -> None:
    run(tmp_path, 3)
    (tmp_path / "ckpt" / "commits" / f"{1:012d}").unlink()
    with pytest.raises(ub.CheckpointError, match="no record of batch 1"):
        run(tmp_path, 1)


def test_a_checkpoint_older_than_its_sink_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1)
    shutil.copytree(tmp_path / "ckpt", tmp_path / "backup")
    run(tmp_path, 3)
    shutil.rmtree(tmp_path / "ckpt")
    (tmp_path / "backup").rename(tmp_path / "ckpt")
    with pytest.raises(ub.CheckpointError, match="older than its output"):
        run(tmp_path, 1)


def test_a_new_checkpoint_on_the_output_of_another_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 1)
    shutil.rmtree(tmp_path / "ckpt")
    with pytest.raises(SinkOwnedError):
        run(tmp_path, 1)


def test_an_output_that_lost_its_batches_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 2)
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out._unbounded")
    with pytest.raises(ub.ConnectorError, match="does not hold batch 1"):
        run(tmp_path, 1)


def test_another_output_path_is_a_changed_query(tmp_path: Path) -> None:
    run(tmp_path, 1)
    with pytest.raises(ub.CheckpointError, match=r"sink: was .*out"):
        run(tmp_path, 1, out="elsewhere")


def test_a_refusal_shows_what_differs_in_a_long_expression_and_nothing_else(tmp_path: Path) -> None:
    feed = ub.MemorySource({"key": pl.String, "time": pl.Datetime, "value": pl.Int64})
    frame = ub.scan_memory(feed, watermark=("time", "1m"))

    def start(window: str, key: str) -> ub.StreamingQuery:
        mean = pl.col("value").rolling_mean_by("time", window_size=window).over(key).alias("mean")
        return frame.with_columns(mean).sink_parquet(
            tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.available_now()
        )

    start("10m", "key")
    with pytest.raises(ub.CheckpointError) as longer:
        start("20m", "key")
    (calls,) = (line for line in str(longer.value).splitlines() if ".looks.1.calls: " in line)
    was, _, now = calls.partition(", is ")
    assert "600000000000" in was
    assert "1200000000000" in now
    assert ".keys" not in str(longer.value)
    with pytest.raises(ub.CheckpointError, match=r'- .*looks\.1\.keys\.col\("key"\): String is gone'):
        start("10m", "value")


@pytest.mark.parametrize("place", ["local", "memory://storage-test"])
def test_a_record_is_written_once(place: str, tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "records" if place == "local" else place)
    storage.put("a/1", b"first")
    with pytest.raises(FileExistsError):
        storage.put("a/1", b"second")
    assert storage.read("a/1") == b"first"
    assert storage.names("a") == ["1"]
    assert storage.names("nothing") == []
    storage.remove(["a/1", "a/2"])
    with pytest.raises(FileNotFoundError):
        storage.read("a/1")


def test_a_record_in_the_place_of_another_is_found_out() -> None:
    data = encode("commits", 7, {"x": 1}, b"blob")
    assert decode(data, "commits", 7, "here") == ({"x": 1}, b"blob")
    for kind, batch in (("offsets", 7), ("commits", 8)):
        with pytest.raises(CorruptRecordError, match="here does not start with"):
            decode(data, kind, batch, "here")
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(CorruptRecordError):
            decode(flipped, "commits", 7, "here")


def test_a_lock_is_free_again_when_its_holder_lets_go(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    lock = storage.lock({"pid": 1})
    with pytest.raises(ConcurrentQueryError, match='"pid": 1'):
        storage.lock({"pid": 2})
    lock.release()
    storage.lock({"pid": 3}).release()


def test_settling_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path))
    storage.put("a/1", b"whole")
    (tmp_path / "a" / ".tmp-dead").write_bytes(b"torn")
    assert storage.names("a") == ["1"]
    storage.settle("a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["1"]


def test_only_what_is_retained_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbounded.checkpoint.RETAIN", 5)
    run(tmp_path, 20)
    kept: Any = sorted(int(path.name) for path in (tmp_path / "ckpt" / "commits").iterdir())
    assert kept[-1] == 19
    assert 5 <= len(kept) <= 8
    run(tmp_path, 1)
    assert ub.read_sink(tmp_path / "out").collect().filter(k="a")["len"].to_list() == [21]
