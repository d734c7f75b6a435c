"""Does a file sink survive a death at any moment? Every durable act fails once, before, after and halfway through."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import polars as pl
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from unbounded import storage
from unbounded.connectors import Mode
from unbounded.errors import ConnectorError
from unbounded.sinks import FileSink, files, levels, manifest, merging, read_sink, verify
from unbounded.sinks.levels import newest, pages
from unbounded.sinks.manifest import Log
from unbounded.testing.contracts.sinks import SCHEMA, Batch, open_sink, play, table

ACTS = ("write_file", "sync_file", "sync_folder", "link", "replace", "unlink", "make_folder")
When: TypeAlias = Literal["before", "halfway"]  # to die after an act is to die before the next
Loss: TypeAlias = Literal["process", "power"]
SCRIPT = [
    Batch((("a", 1), ("b", 2), ("e", 8), ("f", 9), ("g", 10), ("h", 11))),
    Batch(),
    Batch((("a", 3), ("c", 4)), removed=("b", "e")),
    Batch((("b", 5),)),
    Batch((("c", 6), ("d", 7)), removed=("a",)),
    Batch((("a", 12),)),
]
TICKS = itertools.count(0, 1000)  # seconds: every look at the clock is so much later that what may be deleted is


class _Death(BaseException):
    """The process is gone; a BaseException, so that no code of ours believes it could go on."""


@dataclass
class _Disk:
    """The acts of `unbounded.storage` on a disk that can die at one of them, and lose what was not synced.

    What an act did is undone by a closure, kept until its folder is synced; bytes are cut unless their file is.
    """

    aside: Path
    die_at: int | None = None
    when: When = "before"
    done: int = 0
    is_dead: bool = False
    names: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    contents: dict[str, None] = field(default_factory=dict)  # a set, in the order of writing
    acts: dict[str, Callable[..., None]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.aside.mkdir()
        self.acts = {act: getattr(storage, act) for act in ACTS}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for act in ACTS:
            patch.setattr(storage, act, lambda *arguments, act=act: self._act(act, *arguments))

    def start(self, die_at: int | None, when: When) -> None:
        self.die_at, self.when, self.done, self.is_dead = die_at, when, 0, False

    def _act(self, act: str, *arguments: Any) -> None:
        if self.is_dead:
            raise _Death
        if self.when == "before" or act == "write_file":
            self.is_dead = self.done == self.die_at
            self.done += 1
        if self.is_dead and self.when == "halfway":
            path, data = arguments
            self._write_file(path, data[: len(data) // 2])
        if self.is_dead:
            raise _Death
        getattr(self, f"_{act}")(*arguments)

    def _write_file(self, path: str, data: bytes) -> None:
        self.acts["write_file"](path, data)
        self.contents[path] = None
        self._changed(path, lambda: os.unlink(path))

    def _sync_file(self, path: str) -> None:
        self.contents.pop(path, None)

    def _sync_folder(self, path: str) -> None:
        self.names = [(folder, undo) for folder, undo in self.names if folder != path]

    def _link(self, source: str, target: str) -> None:
        self.acts["link"](source, target)
        self._changed(target, lambda: os.unlink(target))

    def _replace(self, source: str, target: str) -> None:
        old = self._kept(target)
        self.acts["replace"](source, target)
        self._changed(target, lambda: os.replace(old, target) if old.exists() else os.unlink(target))

    def _unlink(self, path: str) -> None:
        if os.path.exists(path):
            old = self._kept(path)
            self.acts["unlink"](path)
            self._changed(path, lambda: os.link(old, path))

    def _make_folder(self, path: str) -> None:
        self.acts["make_folder"](path)  # calls `sync_folder` itself

    def _kept(self, path: str) -> Path:
        kept = self.aside / str(next(self.numbers))
        if os.path.exists(path):
            os.link(path, kept)
        return kept

    def _changed(self, path: str, undo: Callable[[], None]) -> None:
        self.names.append((os.path.dirname(path), undo))

    def lose_power(self, chance: random.Random) -> None:
        """Undo what was not synced, all of it or any part of it."""
        for path in self.contents:
            if os.path.exists(path):
                os.truncate(path, chance.randrange(os.path.getsize(path) + 1))
        everything = chance.random() < 0.5
        for _, undo in reversed(self.names):
            if everything or chance.random() < 0.5:
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    undo()
        self.names, self.contents = [], {}


@dataclass(frozen=True)
class _Kind:
    """A sink under test, and how it was left by its writers."""

    mode: Mode
    is_partitioned: bool

    def sink(self, path: Path) -> FileSink:
        by = ["key"] if self.is_partitioned else []
        return FileSink(path, "parquet", partition_by=by, retain=1, clock=lambda: next(TICKS))


KINDS = [_Kind(mode, is_partitioned) for mode in get_args(Mode) for is_partitioned in (False, True)]


@pytest.fixture(autouse=True)
def small_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces make a segment, so that a few batches go through everything a long history does."""
    for module in (manifest, files, merging):
        monkeypatch.setattr(module, "FANOUT", 2)
    monkeypatch.setattr(merging, "_SLICE", 1)
    monkeypatch.setattr(levels, "_PAGE", 2)
    monkeypatch.setattr(manifest, "_LARGEST", 4)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Disk]:
    disk = _Disk(tmp_path / "aside")
    disk.install(monkeypatch)
    yield disk
    disk.is_dead = False


def run(kind: _Kind, path: Path) -> None:
    """One process: open, go over the batches, tidy as the engine does behind each commit, end."""
    sink = open_sink(lambda: kind.sink(path), kind.mode)
    assert isinstance(sink, FileSink)
    since = _committed(path)
    for number in range(since, len(SCRIPT)):
        play(sink, kind.mode, SCRIPT[: number + 1], since=number)
        _commit(path, number)
        sink.tidy(number)
    sink.close()


def _commit(path: Path, number: int) -> None:
    (path.parent / f"{path.name}.committed").write_text(str(number + 1))


def _committed(path: Path) -> int:
    """How many batches the engine, which is not under test, committed: at most one less than the sink holds."""
    file = path.parent / f"{path.name}.committed"
    return int(file.read_text()) if file.exists() else 0


@dataclass(frozen=True)
class _Seen:
    """How many batches the log holds, and the rows that plain readers find."""

    held: int
    plain: list[tuple[Any, ...]]


def check_readers(kind: _Kind, path: Path, *, is_late: bool) -> _Seen:
    """Whatever happened, a reader sees whole batches, and never one more or less than the log says."""
    if not (path.parent / f"{path.name}._unbounded" / "owner").exists():
        assert not path.exists() or os.listdir(path) == []
        return _Seen(0, [])
    last = Log(storage.open_storage(f"{path}._unbounded")).last()
    held = 0 if last is None else last + 1
    assert held in (_committed(path), _committed(path) + 1)
    assert_frame_equal(
        read_sink(path).collect(), table(kind.mode, SCRIPT[:held]), check_row_order=not kind.is_partitioned
    )
    verify(path)
    plain = _plain(path)
    check_plain_readers(kind, set(plain), held, is_late)
    return _Seen(held, plain)


def check_plain_readers(kind: _Kind, shown: set[tuple[Any, ...]], held: int, is_late: bool) -> None:
    """Who reads the folder alone sees only what is committed, whole; `is_late` if the newest may not be seen yet."""
    batches = [set(batch.rows) for batch in SCRIPT[:held]]
    if kind.mode == "append" and not kind.is_partitioned:
        seen = [rows for rows in batches if rows & shown]
        assert shown == set().union(*seen)
        assert is_late or set().union(*batches[:-1]) <= shown
    elif kind.mode == "append":
        assert shown <= set().union(*batches)  # a batch comes into sight file by file
        assert is_late or set().union(*batches[:-1]) <= shown
    elif kind.mode == "complete" and not kind.is_partitioned:
        assert shown in (batches if is_late else batches[-2:]) or (not shown and (is_late or held < 2))
    else:
        assert not shown


def _plain(path: Path) -> list[tuple[Any, ...]]:
    """What Polars and pyarrow, who know nothing of us, find in the folder: the same, and no row twice."""
    found = [file for file in path.rglob("*") if file.is_file()] if path.exists() else []
    if not found:
        return []
    polars = pl.scan_parquet(f"{path}/").select(*SCHEMA).collect()
    arrow = pl.DataFrame(pyarrow.dataset.dataset(path).to_table())
    assert_frame_equal(polars, arrow.select(*SCHEMA), check_row_order=False, check_dtypes=False)
    assert polars.is_unique().all()
    return polars.rows()


def check_finished(kind: _Kind, path: Path) -> None:
    """The answer is there, in both ways to read it, and nothing else is."""
    seen = check_readers(kind, path, is_late=False)
    assert seen.held == len(SCRIPT)
    shows = kind.mode == "append" or (kind.mode == "complete" and not kind.is_partitioned)
    assert sorted(seen.plain) == sorted(table(kind.mode, SCRIPT).rows() if shows else [])
    sink = open_sink(lambda: kind.sink(path), kind.mode)
    assert isinstance(sink, FileSink)
    sink.tidy(len(SCRIPT) - 1)  # the first one of a start looks at everything
    beside = path.parent / f"{path.name}._unbounded"
    assert [name for name in os.listdir(beside) if name.startswith(storage.TEMPORARY)] == []
    records = storage.open_storage(beside)
    levels = newest(records)
    named = {file.name for entry in Log(records).entries(levels.until + 1) for file in entry.all_files()}
    named |= {slice.file.name for slice in levels.slices()}
    named |= {name for replaced in pages(records, levels) for name in replaced.names}
    assert set(os.listdir(beside / "data")) <= named


def die_and_finish(
    kind: _Kind, path: Path, disk: _Disk, schedule: list[tuple[int, When, Loss]], chance: random.Random
) -> bool:
    """Die as scheduled, then run to the end; whether the last death was reached."""
    died = is_late = False
    for at, when, loss in schedule:
        disk.start(at, when)
        died = False
        try:
            run(kind, path)
        except _Death:
            died = True
        disk.start(None, "before")
        if died and loss == "power":
            disk.lose_power(chance)
        # What a power loss took from the folder comes back with the next start that gets far enough.
        is_late = died and (is_late or loss == "power")
        check_readers(kind, path, is_late=is_late)
    run(kind, path)
    check_finished(kind, path)
    return died


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("when", "loss"), [("before", "process"), ("before", "power"), ("halfway", "power")])
def test_a_death_at_any_act_changes_nothing(kind: _Kind, when: When, loss: Loss, tmp_path: Path, disk: _Disk) -> None:
    chance = random.Random(7)
    for at in range(10_000):
        if not die_and_finish(kind, tmp_path / f"out{at}", disk, [(at, when, loss)], chance):
            assert at > (9 if when == "halfway" else 60), "too few acts to be the whole run"
            return


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_schedule_of_deaths_changes_nothing(kind: _Kind, tmp_path: Path, disk: _Disk) -> None:
    numbers = iter(range(10**6))
    death = st.tuples(st.integers(0, 120), st.sampled_from(get_args(When)), st.sampled_from(get_args(Loss)))

    @settings(max_examples=20)
    @given(st.lists(death, min_size=2, max_size=6), st.integers(0, 1000))
    def law(schedule: list[tuple[int, When, Loss]], seed: int) -> None:
        die_and_finish(kind, tmp_path / f"any{next(numbers)}", disk, schedule, random.Random(seed))

    law()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_act_that_fails_once_can_be_tried_again(
    kind: _Kind, tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(10_000):
        path = tmp_path / f"out{at}"
        with monkeypatch.context() as patch:
            _FullDisk(at).install(patch)  # in front of `disk`, which saves the time of real syncs
            attempts = _run_until_done(kind, path)
        check_finished(kind, path)
        if attempts == 1:
            assert at > 60, "too few acts to be the whole run"
            return
        assert attempts == 2


class _FullDisk:
    """A disk on which one act fails for want of space; the next one finds some."""

    def __init__(self, at: int) -> None:
        self._left = at

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for act in set(ACTS) - {"unlink"}:  # which needs no space
            patch.setattr(storage, act, self._failing(getattr(storage, act)))

    def _failing(self, act: Callable[..., None]) -> Callable[..., None]:
        def maybe(*arguments: Any) -> None:
            self._left -= 1
            if self._left == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            act(*arguments)

        return maybe


def _run_until_done(kind: _Kind, path: Path) -> int:
    """As an engine that tries a failed batch again with the same sink object; how often it ran."""
    sink = None
    for attempt in range(1, 10):
        try:
            sink = sink or open_sink(lambda: kind.sink(path), kind.mode)
            assert isinstance(sink, FileSink)
            for number in range(_committed(path), len(SCRIPT)):
                play(sink, kind.mode, SCRIPT[: number + 1], since=number)
                _commit(path, number)
                sink.tidy(number)
            return attempt
        except (OSError, ConnectorError) as error:
            if getattr(error.__cause__ or error, "errno", None) != errno.ENOSPC:
                raise
    raise AssertionError("a failure that is over must not come back")
