"""Is a file taken away when its rows are safe, not before, and never one that was not read?"""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest

import unbounded as ub
from unbounded.sources import cleaning
from unbounded.sources.cleaning import Clean
from unbounded.sources.files import FileSource
from unbounded.storage import encode
from unbounded.testing.contracts.sources import as_stored

SCHEMA = pl.Schema({"x": pl.Int64()})


class Place:
    """Folders `in` and `read`, on the local disk or elsewhere."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.fs.makedirs(f"{self.root}/in", exist_ok=True)

    def put(self, name: str, x: int = 1) -> None:
        path = f"{self.root}/{name}"
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(path, f"x\n{x}\n".encode())

    def names(self) -> list[str]:
        above = len(self.root.rstrip("/")) + 1
        return sorted(name[above:] for name in self.fs.find(self.root))

    def open(self, how: Clean, **options: Any) -> FileSource:
        archive = {"archive_folder": f"{self.url}/read"} if how == "archive" else {}
        return FileSource(f"{self.url}/in", "csv", schema=SCHEMA, clean_source=how, **{**archive, **options})


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(str(tmp_path))


@pytest.fixture(params=["local", "elsewhere"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(str(tmp_path) if request.param == "local" else f"memory://{secrets.token_hex(8)}")


def read(source: FileSource) -> Any:
    """One batch up to its commit."""
    until = as_stored(source.latest(None, None, limited=True))
    source.read(None, until).collect()
    source.remember(source.memory(until))
    return until


def test_a_file_is_archived_after_the_commit_under_its_relative_name(place: Place) -> None:
    place.put("in/2024/a")
    place.put("in/b")
    source = place.open("archive", recursive=True)
    until = read(source)
    assert place.names() == ["in/2024/a", "in/b"]
    source.acknowledge(until)
    assert place.names() == ["read/2024/a", "read/b"]
    assert source.metrics()["not_cleaned"] == 0


def test_a_file_is_deleted_after_the_commit_and_others_are_not(place: Place) -> None:
    place.put("in/a")
    source = place.open("delete")
    until = read(source)
    place.put("in/b")
    source.acknowledge(until)
    assert place.names() == ["in/b"]


def test_what_a_crash_left_is_cleaned_after_the_restart_and_only_once(place: Place) -> None:
    place.put("in/a")
    until = read(place.open("archive"))
    for _ in range(3):
        place.open("archive").acknowledge(until)
    assert place.names() == ["read/a"]


@pytest.mark.parametrize("how", ["archive", "delete"])
def test_another_file_that_took_the_name_is_left_alone(place: Place, how: Clean) -> None:
    place.put("in/a")
    source = place.open(how)
    until = read(source)
    place.put("in/a", x=1234)
    source.acknowledge(until)
    assert place.names() == ["in/a"]
    assert place.fs.cat_file(f"{place.root}/in/a") == b"x\n1234\n"


def test_no_file_in_the_archive_is_overwritten(place: Place) -> None:
    place.put("read/a", x=7)
    place.put("in/a", x=8)
    source = place.open("archive")
    source.acknowledge(read(source))
    first, second = place.names()
    assert first == "read/a"
    assert second.startswith("read/a.")
    assert place.fs.cat_file(f"{place.root}/read/a") == b"x\n7\n"
    assert place.fs.cat_file(f"{place.root}/{second}") == b"x\n8\n"


def test_a_crash_between_the_two_names_leaves_one(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("in/a")
    source = here.open("archive")
    until = read(source)

    def die(path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cleaning, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            source.acknowledge(until)
    assert here.names() == ["in/a", "read/a"]
    here.open("archive").acknowledge(until)
    assert here.names() == ["read/a"]


def test_of_a_symbolic_link_the_file_behind_it_is_archived(here: Place) -> None:
    here.put("data/a")
    Path(here.root, "in/a").symlink_to("../data/a")
    options: Any = {"archive_folder": f"{here.root}/read/deep"}
    source = here.open("archive", **options)
    source.acknowledge(read(source))
    assert not Path(here.root, "in/a").is_symlink()
    assert Path(here.root, "read/deep/a").read_bytes() == b"x\n1\n"


def test_an_archive_on_another_disk_is_copied_to(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("in/a")
    source = here.open("archive")

    def other_disk(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(cleaning, "link", other_disk)
    source.acknowledge(read(source))
    assert here.names() == ["read/a"]


def test_a_file_that_cannot_be_cleaned_is_warned_of_and_counted_and_the_query_goes_on(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.put("in/a")
    source = here.open("delete")
    until = read(source)

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(cleaning, "unlink", refuse)
    with pytest.warns(UserWarning, match=r"in/a was read and is committed, but could not be cleaned"):
        source.acknowledge(until)
    assert source.metrics()["not_cleaned"] == 1
    assert source.latest(None, None, limited=True) is None


def test_a_query_cleans_as_it_goes_and_knows_what_it_read(here: Place) -> None:
    options: Any = {"checkpoint": f"{here.root}/ckpt", "trigger": ub.available_now()}

    def start() -> list[int]:
        frame = ub.scan_csv(
            f"{here.root}/in", schema=SCHEMA, clean_source="archive", archive_folder=f"{here.root}/read"
        )
        query = frame.sink_parquet(f"{here.root}/out", **options)
        return sorted(query.read().collect()["x"])

    here.put("in/a", x=1)
    assert start() == [1]
    here.put("in/a", x=2)  # a name is read once
    here.put("in/b", x=3)
    assert start() == [1, 3]
    assert [name for name in here.names() if name.startswith(("in", "read"))] == ["in/a", "read/a", "read/b"]


def test_a_query_that_died_after_its_commit_cleans_at_the_next_start(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.put("in/a")

    def start() -> None:
        frame = ub.scan_csv(f"{here.root}/in", schema=SCHEMA, clean_source="delete")
        frame.sink_parquet(f"{here.root}/out", checkpoint=f"{here.root}/ckpt", trigger=ub.available_now())

    def die(source: FileSource, until: Any) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "acknowledge", die)
        with pytest.raises(RuntimeError, match="crash"):
            start()
    assert "in/a" in here.names()
    start()
    assert "in/a" not in here.names()


@pytest.mark.parametrize(
    ("path", "recursive", "archive", "allowed"),
    [
        ("in", False, "in", False),
        ("in", False, "in/read", True),
        ("in", True, "in/read", False),
        ("in", True, "in/_read", True),
        ("in/*/*.csv", False, "in/read", False),
        ("in/2*/*.csv", False, "in/read", True),
        ("in/*.csv", False, "in/read", True),
        ("in/**/*.csv", False, "in/read/deep", False),
        ("in", True, "read", True),
    ],
)
def test_an_archive_in_what_is_scanned_is_refused(
    here: Place, path: str, recursive: bool, archive: str, allowed: bool
) -> None:
    options: Any = {"clean_source": "archive", "archive_folder": f"{here.root}/{archive}", "recursive": recursive}
    if allowed:
        FileSource(f"{here.root}/{path}", "csv", schema=SCHEMA, **options)
        return
    with pytest.raises(ub.PlanError, match=r"archive_folder=.* lies in what is scanned.*outside of it"):
        FileSource(f"{here.root}/{path}", "csv", schema=SCHEMA, **options)


@pytest.mark.parametrize(("url", "archive"), [("memory://x/in", "read"), (".", "memory://x/read")])
def test_an_archive_on_another_kind_of_disk_is_refused(url: str, archive: str) -> None:
    with pytest.raises(ub.PlanError, match="is not where the files are"):
        FileSource(url, "csv", schema=SCHEMA, clean_source="archive", archive_folder=archive)


def test_the_output_of_a_query_is_never_cleaned(place: Place) -> None:
    place.put("in/a")
    place.fs.makedirs(f"{place.root}/in._unbounded", exist_ok=True)
    place.fs.pipe_file(f"{place.root}/in._unbounded/owner", encode("sink-owner", 0, {"mode": "append"}))
    with pytest.raises(ub.PlanError, match=r"in is the output of a query.*Leave clean_source out"):
        place.open("delete")
