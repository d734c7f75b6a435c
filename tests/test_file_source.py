"""What does a folder of files do when files are unfinished, unwanted, changed, unlike each other, or many?"""

from __future__ import annotations

import gc
import gzip
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from unbounded.errors import ConnectorError, PlanError, SchemaMismatchError, SourceDataLostError
from unbounded.sources.columns import Files
from unbounded.sources.discovery import Order
from unbounded.sources.files import FileSource
from unbounded.sources.folder import File, LocalFolder, RemoteFolder, open_folder
from unbounded.sources.options import FormatName
from unbounded.sources.pattern import why_ignored
from unbounded.storage import encode
from unbounded.testing.contracts.sources import Run

SCHEMA = pl.Schema({"x": pl.Int64(), "y": pl.String()})
NOON = 1_700_000_000  # seconds since 1970, when nothing happens by itself
TEXT: tuple[FormatName, ...] = ("csv", "ndjson")
BINARY: tuple[FormatName, ...] = ("parquet", "ipc", "avro")
EVERY: tuple[FormatName, ...] = (*BINARY, *TEXT)  # that have columns; lines are tested by themselves


def content(form: FormatName, rows: Any) -> bytes:
    """A file as Polars writes it."""
    buffer = BytesIO()
    getattr(pl.DataFrame(rows), f"write_{form}")(buffer)
    return buffer.getvalue()


def row(x: int) -> dict[str, list[Any]]:
    return {"x": [x], "y": [f"row {x}"]}


class Place:
    """A folder on the local disk or elsewhere, and what is in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fs, self.root = fsspec.core.url_to_fs(url)
        self.fs.makedirs(self.root, exist_ok=True)

    def put(self, name: str, data: bytes, *, at: float | None = None) -> None:
        """Write a file over whatever is there; `at` is its date, on the local disk."""
        path = f"{self.root}/{name}"
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.fs.pipe_file(path, data)
        if at is not None:
            os.utime(path, (at, at))

    def remove(self, name: str) -> None:
        self.fs.rm_file(f"{self.root}/{name}")


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "in"))


@pytest.fixture(params=["local", "elsewhere"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(str(tmp_path / "in") if request.param == "local" else f"memory://{secrets.token_hex(8)}/in")


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


def names(offset: Any) -> list[str]:
    return [] if offset is None else [file[0] for file in offset["files"]]


def batches(source: FileSource, *, end: Any = None) -> Iterator[list[str]]:
    """The names of each batch, as the engine would read them."""
    while (until := source.latest(None, end, limited=True)) is not None:
        yield names(until)
        source.remember(source.memory(until))


def found(source: FileSource) -> list[str]:
    return names(source.latest(None, None, limited=False))


def rows(source: FileSource) -> pl.DataFrame:
    return source.read(None, source.latest(None, None, limited=False)).collect()


# ----------------------------------------------------------------------------- files that change
@pytest.mark.parametrize("form", EVERY)
@pytest.mark.parametrize("change", ["replaced", "grown", "deleted"])
def test_a_file_that_changed_after_it_was_planned_fails_the_batch(place: Place, form: FormatName, change: str) -> None:
    place.put("a", content(form, row(1)))
    place.put("b", content(form, row(2)))
    source = FileSource(place.url, form, schema=SCHEMA)
    until = source.latest(None, None, limited=True)
    match change:
        case "replaced":
            place.put("b.new", content(form, row(3)))
            place.fs.mv(f"{place.root}/b.new", f"{place.root}/b")
        case "grown":
            place.put("b", content(form, row(2)) * 2)
        case "deleted":
            place.remove("b")
    with pytest.raises(SourceDataLostError, match=r"in/b as \d+ bytes of .* but it is (gone|now \d+ bytes of )"):
        source.read(None, until)


def test_a_file_of_the_same_size_and_date_is_another_if_it_is_another_file(here: Place) -> None:
    here.put("a.csv", b"x,y\n1,a\n", at=NOON)
    source = FileSource(here.url, "csv", schema=SCHEMA)
    until = source.latest(None, None, limited=True)
    here.put("b", b"x,y\n2,a\n", at=NOON)
    os.replace(f"{here.root}/b", f"{here.root}/a.csv")
    with pytest.raises(SourceDataLostError, match="Move that very file back"):
        source.read(None, until)


def test_a_file_that_changed_while_polars_read_it_fails_the_batch_before_the_sink(here: Place) -> None:
    here.put("a.csv", b"x,y\n1,a\n")
    source = FileSource(here.url, "csv", schema=SCHEMA)
    until = source.latest(None, None, limited=True)
    source.read(None, until).collect()
    source.verify(None, until)
    here.put("a.csv", b"x,y\n1,a\n2,b\n")
    with pytest.raises(SourceDataLostError, match=r"a\.csv"):
        source.verify(None, until)


def test_a_file_that_changed_while_its_bytes_were_fetched_fails_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"memory://{secrets.token_hex(8)}/in")
    place.put("a.csv", b"x,y\n1,a\n")
    source = FileSource(place.url, "csv", schema=SCHEMA)
    until = source.latest(None, None, limited=True)
    fetch = RemoteFolder.read

    def fetch_slowly(folder: RemoteFolder, name: str) -> bytes | None:
        place.put("a.csv", b"x,y\n2,b\n")
        return fetch(folder, name)

    monkeypatch.setattr(RemoteFolder, "read", fetch_slowly)
    with pytest.raises(SourceDataLostError, match=r"a\.csv"):
        source.read(None, until)


def test_a_file_that_was_read_is_not_read_again_whatever_happens_to_it(place: Place) -> None:
    place.put("a.csv", b"x,y\n1,a\n")
    source = FileSource(place.url, "csv", schema=SCHEMA)
    assert list(batches(source)) == [["a.csv"]]
    place.put("a.csv", b"x,y\n1,a\n2,b\n")
    assert list(batches(source)) == []


def test_a_file_that_vanished_before_it_was_planned_is_not_promised(here: Place) -> None:
    for x in range(3):
        here.put(f"{x}.csv", content("csv", row(x)), at=NOON + x)
    source = FileSource(here.url, "csv", schema=SCHEMA, max_files_per_trigger=1)
    source.latest(None, None, limited=True)
    here.remove("1.csv")
    assert list(batches(source)) == [["0.csv"], ["2.csv"]]


def test_a_folder_that_vanished_is_an_error_and_not_an_empty_one(here: Place) -> None:
    source = FileSource(here.url, "csv", schema=SCHEMA)
    os.rmdir(here.root)
    with pytest.raises(ConnectorError, match=r"cannot list .*/in: No such file"):
        source.latest(None, None, limited=True)


# -------------------------------------------------------------------------------- unfinished files
@pytest.mark.parametrize("form", EVERY)
def test_an_unfinished_file_waits_by_name_and_is_read_when_it_is_finished(place: Place, form: FormatName) -> None:
    whole = content(form, row(12))
    place.put("a", content(form, row(1)))
    place.put("b", whole[:-1])
    source = FileSource(place.url, form, schema=SCHEMA)
    assert list(batches(source)) == [["a"]]
    assert source.metrics()["waiting"] == ["b"]
    place.put("b", whole)
    assert list(batches(source)) == [["b"]]
    assert source.metrics()["waiting"] == []


def test_an_unfinished_file_that_was_removed_waits_no_more(place: Place) -> None:
    place.put("a.csv", b"x,y\n1,a")
    source = FileSource(place.url, "csv", schema=SCHEMA)
    assert list(batches(source)) == []
    place.remove("a.csv")
    assert list(batches(source)) == []
    assert source.metrics()["waiting"] == []


@pytest.mark.parametrize("form", TEXT)
def test_a_text_without_a_last_newline_is_read_with_a_warning_after_a_minute(here: Place, form: FormatName) -> None:
    clock = Clock()
    here.put("a", content(form, row(1))[:-1], at=NOON)
    source = FileSource(here.url, form, schema=SCHEMA, clock=clock)
    clock.now = NOON + 59.9
    assert list(batches(source)) == []
    clock.now = NOON + 60
    with pytest.warns(UserWarning, match="in/a does not end in a newline"):
        assert list(batches(source)) == [["a"]]


@pytest.mark.parametrize("form", BINARY)
def test_a_file_without_its_footer_is_never_read_and_warned_of_once(here: Place, form: FormatName) -> None:
    clock = Clock()
    here.put("a", content(form, row(1))[:-1], at=NOON)
    source = FileSource(here.url, form, schema=SCHEMA, clock=clock)
    clock.now = NOON + 60
    with pytest.warns(UserWarning, match="in/a has no footer") as warned:
        assert [*batches(source), *batches(source)] == []
    assert len(warned) == 1
    assert source.metrics()["waiting"] == ["a"]


def test_a_file_dated_in_the_future_waits_a_minute_from_the_first_look(here: Place) -> None:
    clock = Clock()
    here.put("a.csv", b"x,y\n1,a", at=NOON + 1e6)
    source = FileSource(here.url, "csv", schema=SCHEMA, clock=clock)
    assert list(batches(source)) == []
    clock.now += 60
    with pytest.warns(UserWarning, match=r"a\.csv does not end"):
        assert list(batches(source)) == [["a.csv"]]


def test_a_file_that_still_grows_goes_on_waiting(here: Place) -> None:
    clock = Clock()
    source = FileSource(here.url, "csv", schema=SCHEMA, clock=clock)
    for second in range(0, 300, 50):
        clock.now = NOON + second
        here.put("a.csv", b"x,y\n" + b"1,a\n" * second + b"1", at=clock.now)
        assert list(batches(source)) == []


@pytest.mark.parametrize("form", TEXT)
def test_compressed_text_needs_no_last_newline(place: Place, form: FormatName) -> None:
    place.put("a.gz", gzip.compress(content(form, row(1))))
    source = FileSource(place.url, form, schema=SCHEMA)
    assert_frame_equal(rows(source), pl.DataFrame(row(1)))


def test_a_line_ends_as_the_options_say(here: Place) -> None:
    here.put("a.csv", b"x,y;1,a;")
    source = FileSource(here.url, "csv", schema=SCHEMA, eol_char=";")
    assert rows(source).rows() == [(1, "a")]


def test_a_file_waits_for_its_age(here: Place) -> None:
    clock = Clock()
    here.put("a.csv", b"x,y\n1,a\n", at=NOON - 9)
    source = FileSource(here.url, "csv", schema=SCHEMA, min_file_age=timedelta(seconds=10), clock=clock)
    assert list(batches(source)) == []
    assert source.metrics()["ignored"] == {"young": 1}
    clock.now += 1
    assert list(batches(source)) == [["a.csv"]]


# ------------------------------------------------------------------------------------ which files
def test_names_that_are_not_for_readers_are_passed_over_and_counted(place: Place) -> None:
    for name in ("_SUCCESS", ".a.csv", "a.csv.tmp", "a.part", "a.inprogress", "a.crdownload", "ü.partial", "b.swp"):
        place.put(name, b"x,y\n1,a\n")
    place.put("nothing.csv", b"")
    place.put("a.csv", b"x,y\n1,a\n")
    source = FileSource(place.url, "csv", schema=SCHEMA)
    assert found(source) == ["a.csv"]
    assert source.metrics()["ignored"] == {"hidden": 2, "temporary": 6, "empty": 1}


def test_a_folder_that_is_not_looked_into_is_counted(here: Place) -> None:
    here.put("day=1/a.csv", b"x,y\n1,a\n")
    here.put("_day=2/a.csv", b"x,y\n1,a\n")
    source = FileSource(here.url, "csv", schema=SCHEMA)
    assert found(source) == []
    assert source.metrics()["ignored"] == {"folder": 1}


def test_an_empty_file_is_read_once_it_is_filled(place: Place) -> None:
    place.put("a.csv", b"")
    source = FileSource(place.url, "csv", schema=SCHEMA)
    assert list(batches(source)) == []
    place.put("a.csv", b"x,y\n1,a\n")
    assert list(batches(source)) == [["a.csv"]]


@pytest.mark.parametrize(
    ("path", "recursive", "expected"),
    [
        ("", False, ["a.csv", "b.txt"]),
        ("/", False, ["a.csv", "b.txt"]),
        ("", True, ["2023/12/d.csv", "2024/1/e.csv", "2024/c.csv", "a.csv", "b.txt"]),
        ("/*.csv", False, ["a.csv"]),
        ("/[ab].*", False, ["a.csv", "b.txt"]),
        ("/2024/*.csv", False, ["c.csv"]),
        ("/202?/*/*.csv", False, ["2023/12/d.csv", "2024/1/e.csv"]),
        ("/**/*.csv", False, ["2023/12/d.csv", "2024/1/e.csv", "2024/c.csv", "a.csv"]),
        ("/2024/**", False, ["1/e.csv", "c.csv"]),
        ("/a.csv", False, ["a.csv"]),
        ("/_hidden/f.csv", False, ["f.csv"]),
        ("/**/_*/*.csv", False, []),
    ],
)
def test_a_path_is_a_folder_a_glob_or_a_file(place: Place, path: str, recursive: bool, expected: list[str]) -> None:
    for name in ("a.csv", "b.txt", "2024/c.csv", "2023/12/d.csv", "2024/1/e.csv", "_hidden/f.csv"):
        place.put(name, b"x,y\n1,a\n")
    source = FileSource(place.url + path, "csv", schema=SCHEMA, recursive=recursive)
    assert sorted(found(source)) == expected
    assert rows(source.fresh()).height == len(expected) if expected else True


def test_linked_folders_are_followed_where_that_cannot_go_in_circles(here: Place) -> None:
    here.put("2024/a.csv", b"x,y\n1,a\n")
    os.symlink(here.root, f"{here.root}/2024/circle")
    os.symlink(f"{here.root}/2024", f"{here.root}/current")
    assert found(FileSource(here.url, "csv", schema=SCHEMA, recursive=True)) == ["2024/a.csv"]
    assert sorted(found(FileSource(f"{here.url}/*/*.csv", "csv", schema=SCHEMA))) == ["2024/a.csv", "current/a.csv"]


@pytest.mark.parametrize("form", EVERY)
def test_a_name_with_glob_characters_is_a_name(place: Place, form: FormatName) -> None:
    place.put("a[1]*?.x", content(form, row(1)))
    assert_frame_equal(rows(FileSource(place.url, form, schema=SCHEMA)), pl.DataFrame(row(1)))
    one = FileSource(f"{place.url}/a[1]*?.x", form, schema=SCHEMA, glob=False)
    assert_frame_equal(rows(one), pl.DataFrame(row(1)))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("incoming/", "incoming"), ("incoming/*/x-*.csv", "incoming"), ("incoming/a.csv", "a.csv")],
)
def test_the_default_name_is_the_last_fixed_part_of_the_path(tmp_path: Path, path: str, expected: str) -> None:
    Place(str(tmp_path / "incoming")).put("a.csv", b"x\n")
    assert FileSource(tmp_path / path, "csv", schema=SCHEMA).default_name == expected


def test_credentials_are_not_shown() -> None:
    source = FileSource("memory://user:secret@bucket/in", "csv", schema=SCHEMA)
    assert source.description == "csv files in memory://bucket/in"


# -------------------------------------------------------------------------------- order and limits
@pytest.mark.parametrize(
    ("order", "expected"), [("oldest_first", ["c", "a", "b", "d"]), ("latest_first", ["d", "b", "a", "c"])]
)
def test_files_come_by_date_and_then_by_name(here: Place, order: Order, expected: list[str]) -> None:
    for name, at in (("a", NOON + 1), ("b", NOON + 1), ("c", NOON), ("d", NOON + 2)):
        here.put(name, b"x,y\n1,a\n", at=at)
    source = FileSource(here.url, "csv", schema=SCHEMA, order=order, max_files_per_trigger=3)
    assert list(batches(source)) == [expected[:3], expected[3:]]


def test_a_file_moved_in_with_an_old_date_is_new(here: Place) -> None:
    here.put("new.csv", b"x,y\n1,a\n", at=NOON)
    source = FileSource(here.url, "csv", schema=SCHEMA)
    assert list(batches(source)) == [["new.csv"]]
    here.put("old.csv", b"x,y\n1,a\n", at=0)
    assert list(batches(source)) == [["old.csv"]]


def test_the_newest_come_first_even_while_older_ones_wait_their_turn(here: Place) -> None:
    for x in range(3):
        here.put(f"{x}.csv", content("csv", row(x)), at=NOON + x)
    source = FileSource(here.url, "csv", schema=SCHEMA, order="latest_first", max_files_per_trigger=1)
    run = batches(source)
    assert next(run) == ["2.csv"]
    here.put("9.csv", content("csv", row(9)), at=NOON + 9)
    assert list(run) == [["9.csv"], ["1.csv"], ["0.csv"]]


def test_bytes_limit_a_batch_but_one_file_is_always_taken(here: Place) -> None:
    for name, size in (("a", 400), ("b", 600), ("c", 20), ("d", 5000), ("e", 10)):
        here.put(name, b"x,y\n" + b"1,a\n" * (size // 4), at=NOON + ord(name))
    source = FileSource(here.url, "csv", schema=SCHEMA, max_bytes_per_trigger=1024)
    assert list(batches(source)) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_both_limits_hold_at_once(here: Place) -> None:
    for x in range(4):
        here.put(f"{x}", b"x,y\n1,a\n", at=NOON + x)
    source = FileSource(here.url, "csv", schema=SCHEMA, max_files_per_trigger=3, max_bytes_per_trigger=16)
    assert list(batches(source)) == [["0", "1"], ["2", "3"]]


def test_a_backlog_is_counted_until_it_is_read(here: Place) -> None:
    for x in range(3):
        here.put(f"{x}", b"x,y\n1,a\n", at=NOON + x)
    source = FileSource(here.url, "csv", schema=SCHEMA, max_files_per_trigger=2)

    def counts() -> tuple[int, int, int]:
        known = source.metrics()
        return known["seen"], known["backlog_files"], known["backlog_bytes"]

    until = source.latest(None, None, limited=True)
    assert counts() == (0, 3, 24)
    source.remember(source.memory(until))
    assert counts() == (2, 1, 8)
    end = source.end()
    until = source.latest(None, end, limited=True)
    assert counts() == (2, 1, 8)
    source.remember(source.memory(until))
    assert counts() == (3, 0, 0)


# ------------------------------------------------------------------------------------------- cost
@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a folder was listed, and files of it looked at."""
    counts = {"names": 0, "stat": 0, "glimpse": 0}

    def counting(method: str) -> Callable[..., Any]:
        original = getattr(LocalFolder, method)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[method] += 1
            return original(*arguments, **options)

        return call

    for method in counts:
        monkeypatch.setattr(LocalFolder, method, counting(method))
    return counts


def test_files_that_were_read_are_not_looked_at_again(
    here: Place, looks: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here.put("new.csv", b"x,y\n1,a\n")
    many = [f"{number}.csv" for number in range(100_000)]
    source = FileSource(here.url, "csv", schema=SCHEMA)
    source.remember(source.memory({"files": [[name, 1, 1, 1] for name in many]}))
    monkeypatch.setattr(LocalFolder, "names", lambda *_: ((name, None) for name in [*many, "new.csv"]))
    assert found(source) == ["new.csv"]
    assert looks == {"names": 0, "stat": 1, "glimpse": 1}


@pytest.mark.parametrize("folder", ["", "a/", "a/b/"])
def test_a_name_that_was_read_costs_no_judgement_in_a_later_listing(
    here: Place, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FileSource(here.url, "csv", schema=SCHEMA, recursive=True)
    judged: list[str] = []

    def judge(name: str) -> str | None:
        judged.append(name)
        return why_ignored(name)

    monkeypatch.setattr("unbounded.sources.folder.why_ignored", judge)
    for x in range(9):
        here.put(f"{folder}{x}", b"x,y\n1,a\n")
        assert list(batches(source)) == [[f"{folder}{x}"]]
    assert found(source) == []
    judged.clear()
    assert found(source) == []
    assert not {str(x) for x in range(9)} & set(judged)


def test_names_that_are_gone_are_forgotten_in_time(here: Place) -> None:
    source = FileSource(here.url, "csv", schema=SCHEMA)
    here.put("stays", b"x,y\n1,a\n")
    assert list(batches(source)) == [["stays"]]
    for x in range(50):
        here.put(f"{x}", b"x,y\n1,a\n")
        assert list(batches(source)) == [[f"{x}"]]
        here.remove(f"{x}")
    assert len(source._discovery._read) <= 4


def test_a_long_history_is_listed_once_and_each_file_looked_at_as_often(here: Place, looks: dict[str, int]) -> None:
    here.put("unfinished", b"x,y\n1,a", at=NOON)
    for x in range(20):
        here.put(f"{x}", b"x,y\n1,a\n", at=NOON + x + 1)
    source = FileSource(here.url, "csv", schema=SCHEMA, max_files_per_trigger=2, clock=Clock())
    run = batches(source)
    for _ in range(10):
        next(run)
    assert looks == {"names": 1, "stat": 21, "glimpse": 21}


def test_newcomers_are_found_among_a_backlog_without_looking_at_that_again(here: Place, looks: dict[str, int]) -> None:
    for x in range(20):
        here.put(f"{x}", b"x,y\n1,a\n", at=NOON + x)
    source = FileSource(here.url, "csv", schema=SCHEMA, max_files_per_trigger=1, order="latest_first")
    run = batches(source)
    for _ in range(5):
        next(run)
    assert looks == {"names": 5, "stat": 20, "glimpse": 5}


def test_elsewhere_a_listing_tells_all_and_only_files_taken_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"memory://{secrets.token_hex(8)}/in")
    for x in range(5):
        place.put(f"{x}", b"x,y\n1,a\n")
    source = FileSource(place.url, "csv", schema=SCHEMA, max_files_per_trigger=2)
    looked = []
    stat = RemoteFolder.stat

    def noting(folder: RemoteFolder, name: str) -> Any:
        looked.append(name)
        return stat(folder, name)

    monkeypatch.setattr(RemoteFolder, "stat", noting)
    assert names(source.latest(None, None, limited=True)) == looked
    assert len(looked) == 2


@pytest.mark.parametrize("size", [0, 1, 10, 200_000])
def test_of_a_large_file_only_the_edges_are_looked_at(place: Place, size: int) -> None:
    place.put("a", bytes(size) + b"end")
    folder = open_folder(place.url, recursive=False, glob=True, storage_options=None)
    glimpse = folder.glimpse("a", head=4, tail=2)
    assert glimpse is not None
    assert (glimpse.file.size, glimpse.head, glimpse.tail) == (size + 3, (bytes(size) + b"end")[:4], b"nd")


def test_a_deviation_that_polars_allows_is_shown_to_it_once(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for x in range(5):
        here.put(f"{x}", content("parquet", {"x": [x]}))
    source = FileSource(here.url, "parquet", schema=SCHEMA, missing_columns="insert")
    shown = []
    scan = Files.scan

    def noting(found: Files, files: list[File]) -> pl.LazyFrame:
        shown.append(files)
        return scan(found, files)

    monkeypatch.setattr(Files, "scan", noting)
    assert len(found(source)) == 5
    assert len(shown) == 1


# ------------------------------------------------------------------------------------ other columns
@pytest.mark.parametrize("form", ["parquet", "csv", "ipc"])
@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"x": [1]}, "column 'y' is missing, expected String"),
        ({"x": [1], "y": ["a"], "z": [1]}, "column 'z' is not expected"),
        ({"x": [1], "Y": ["a"]}, "column 'y' is missing, expected String; column 'Y' is not expected"),
    ],
)
def test_a_file_with_other_columns_is_refused_by_name_before_it_is_promised(
    place: Place, form: FormatName, other: dict[str, list[Any]], says: str
) -> None:
    place.put("a", content(form, row(1)))
    source = FileSource(place.url, form, schema=SCHEMA)
    assert list(batches(source)) == [["a"]]
    place.put("b", content(form, other))
    for _ in range(2):
        with pytest.raises(SchemaMismatchError, match=f"in/b does not fit .* in .*in: {says}"):
            source.latest(None, None, limited=True)
    place.remove("b")
    place.put("c", content(form, row(2)))
    assert list(batches(source)) == [["c"]]


@pytest.mark.parametrize("form", BINARY)
def test_a_file_with_another_type_is_refused_even_if_no_query_asks_for_the_column(
    place: Place, form: FormatName
) -> None:
    place.put("a", content(form, pl.DataFrame(row(1)).cast({"x": pl.Int32})))
    source = FileSource(place.url, form, schema=SCHEMA)
    with pytest.raises(SchemaMismatchError, match="column 'x' is Int32, expected Int64"):
        source.latest(None, None, limited=True)


def test_a_file_without_rows_does_not_let_others_of_its_type_pass(here: Place) -> None:
    other = pl.DataFrame(row(1)).cast({"x": pl.Int32})
    here.put("a", content("parquet", other.clear()), at=NOON)
    here.put("b", content("parquet", other), at=NOON + 1)
    with pytest.raises(SchemaMismatchError, match="in/b does not fit"):
        FileSource(here.url, "parquet", schema=SCHEMA).latest(None, None, limited=True)


def test_a_csv_without_header_must_have_as_many_columns(place: Place) -> None:
    place.put("a", b"1,a,3\n")
    with pytest.raises(SchemaMismatchError, match="it has 3 columns, expected 2"):
        FileSource(place.url, "csv", schema=SCHEMA, has_header=False).latest(None, None, limited=True)


@pytest.mark.parametrize("form", EVERY)
def test_the_order_of_columns_is_that_of_the_schema(place: Place, form: FormatName) -> None:
    place.put("a", content(form, {"y": ["a"], "x": [1]}))
    place.put("b", content(form, {"x": [2], "y": ["b"]}))
    assert sorted(rows(FileSource(place.url, form, schema=SCHEMA)).rows()) == [(1, "a"), (2, "b")]


def test_the_order_of_struct_fields_is_that_of_the_schema(place: Place) -> None:
    place.put("a", content("parquet", {"s": [{"p": 1, "q": 2}]}))
    place.put("b", content("parquet", {"s": [{"q": 2, "p": 1}]}))
    source = FileSource(place.url, "parquet", schema={"s": pl.Struct({"p": pl.Int64, "q": pl.Int64})})
    assert rows(source)["s"].to_list() == [{"p": 1, "q": 2}] * 2


@pytest.mark.parametrize(
    ("form", "other", "options", "expected"),
    [
        ("parquet", {"x": [1]}, {"missing_columns": "insert"}, (1, None)),
        ("parquet", {"x": [1], "y": ["a"], "z": [1]}, {"extra_columns": "ignore"}, (1, "a")),
        (
            "parquet",
            pl.DataFrame(row(1)).cast({"x": pl.Int8}),
            {"cast_options": pl.ScanCastOptions(integer_cast="upcast")},
            (1, "row 1"),
        ),
        ("csv", {"x": [1]}, {"missing_columns": "insert"}, (1, None)),
        ("csv", {"x": [1], "y": ["a"], "z": [1]}, {"extra_columns": "ignore"}, (1, "a")),
        ("ndjson", {"x": [1], "z": [1]}, {}, (1, None)),
    ],
)
def test_options_of_polars_let_other_columns_pass(
    place: Place, form: FormatName, other: Any, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    place.put("a", content(form, other))
    place.put("b", content(form, other))
    assert rows(FileSource(place.url, form, schema=SCHEMA, **options)).rows() == [expected] * 2


@pytest.mark.parametrize("form", EVERY)
def test_the_path_of_a_file_can_be_a_column(place: Place, form: FormatName) -> None:
    place.put("a", content(form, row(1)))
    place.put("b", content(form, row(2)))
    source = FileSource(place.url, form, schema=SCHEMA, include_file_paths="path")
    assert source.schema == pl.Schema({**SCHEMA, "path": pl.String()})
    found_rows = rows(source)
    assert found_rows.schema == source.schema
    assert sorted(found_rows["path"]) == [f"{source.location}/a", f"{source.location}/b"]


@pytest.mark.parametrize("form", BINARY)
def test_parts_of_the_path_can_be_columns(here: Place, form: FormatName) -> None:
    for day in ("01", "02"):
        here.put(f"day={day}/a", content(form, row(int(day))))
    options: dict[str, Any] = {"hive_partitioning": True, "hive_schema": {"day": pl.String}}
    source = FileSource(here.url, form, recursive=True, **options)
    assert source.schema == pl.Schema({**SCHEMA, "day": pl.String()})
    assert rows(source).rows() == [(1, "row 1", "01"), (2, "row 2", "02")]


@pytest.mark.parametrize("form", BINARY)
def test_a_schema_may_name_the_columns_of_the_path_as_well(here: Place, form: FormatName) -> None:
    here.put("day=01/a", content(form, row(1)))
    whole = pl.Schema({**SCHEMA, "day": pl.String(), "path": pl.String()})
    source = FileSource(
        here.url, form, schema=whole, recursive=True, hive_schema={"day": pl.String}, include_file_paths="path"
    )
    assert source.schema == rows(source).schema == whole


# ------------------------------------------------------------------------------------------- sinks
@pytest.mark.parametrize("path", ["", "/*.csv"])
def test_the_output_of_a_query_that_replaces_files_is_refused(place: Place, path: str) -> None:
    place.put("a.csv", b"x,y\n1,a\n")
    sink = Place(f"{place.url}._unbounded")
    sink.put("owner", encode("sink-owner", 0, {"mode": "append"}))
    assert found(FileSource(place.url + path, "csv", schema=SCHEMA)) == ["a.csv"]
    sink.put("owner", encode("sink-owner", 0, {"mode": "update"}))
    with pytest.raises(PlanError, match=r"output of a query in update mode.*ub\.read_sink"):
        FileSource(place.url + path, "csv", schema=SCHEMA)


def test_what_a_sink_keeps_for_itself_is_never_read(here: Place) -> None:
    here.put("out/a.csv", b"x,y\n1,a\n")
    here.put("out._unbounded/owner", encode("sink-owner", 0, {"mode": "append"}))
    here.put("out._unbounded/files/b.csv", b"x,y\n2,b\n")
    source = FileSource(here.url, "csv", schema=SCHEMA, recursive=True)
    assert found(source) == ["out/a.csv"]
    assert source.metrics()["ignored"] == {"manifest": 1}
    here.put("out._unbounded/owner", encode("sink-owner", 0, {"mode": "complete"}))
    with pytest.raises(PlanError, match="in/out is the output of a query in complete mode"):
        found(FileSource(here.url, "csv", schema=SCHEMA, recursive=True))


# ------------------------------------------------------------------------------------------- runs
def test_a_fresh_source_has_not_read_what_another_has(here: Place) -> None:
    here.put("a.csv", b"x,y\n1,a\n")
    here.put("b.csv", b"x,y\n2,b\n")
    source = FileSource(here.url, "csv", schema=SCHEMA)
    assert len(list(batches(source))) == 1
    assert names(source.fresh(units=1).latest(None, None, limited=True)) == ["a.csv"]
    assert len(found(source.fresh())) == 2
    assert found(source) == []


def test_an_unfinished_file_does_not_keep_a_run_from_its_end(here: Place) -> None:
    clock = Clock()
    here.put("a.csv", b"x,y\n1,a\n", at=NOON)
    here.put("b.csv", b"x,y\n2,b", at=NOON)
    source = FileSource(here.url, "csv", schema=SCHEMA, clock=clock)
    assert list(batches(source, end=source.end())) == [["a.csv"]]
    assert source.metrics()["waiting"] == ["b.csv"]


def test_a_query_over_files_gives_what_polars_gives_over_all_of_them(place: Place) -> None:
    for x in range(7):
        place.put(f"{x}.parquet", content("parquet", row(x)))

    class World:
        def open(self) -> FileSource:
            return FileSource(place.url, "parquet", max_files_per_trigger=2)

        def grow(self) -> pl.DataFrame:
            raise NotImplementedError

    run = Run(World())
    run.drain()
    assert_frame_equal(run.table(), pl.concat([pl.DataFrame(row(x)) for x in range(7)]))
    assert len(run.rows) == 4


def test_a_link_to_itself_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("x\n1\n")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    source = FileSource(tmp_path, "csv", schema={"x": pl.Int64})
    until = source.latest(None, None, limited=True)
    assert source.read(None, until).collect().rows() == [(1,)]
    assert source.metrics()["ignored"] == {"vanished": 1}


@pytest.mark.skipif(gc.is_tracked({b"": None}), reason="a Python that goes through every dictionary")
def test_garbage_collection_goes_through_no_file_that_was_read(tmp_path: Path) -> None:
    source = FileSource(tmp_path, "lines").fresh()

    def gone_through() -> int:
        return sum(map(len, map(gc.get_referents, gc.get_objects())))

    before = gone_through()
    source.remember(pl.DataFrame({"name": [b"%016d" % n for n in range(50_000)]}, schema=source.memory_schema))
    assert source.metrics()["seen"] == 50_000
    assert gone_through() - before < 5_000
