"""Do the sources of the house keep the contract, and what are memory and rate besides?"""

from __future__ import annotations

import gzip
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import fsspec
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from unbounded.connectors import Remembers, Source, Verifies
from unbounded.errors import PlanError, SchemaMismatchError, SourceDataLostError
from unbounded.sources.cleaning import Clean
from unbounded.sources.files import FileSource
from unbounded.sources.generator import GeneratorSource
from unbounded.sources.memory import MemorySource
from unbounded.sources.options import FormatName
from unbounded.sources.rate import RateSource
from unbounded.testing.contracts.sources import NewWorld, SourceContract

SCHEMA = pl.Schema({"key": pl.String(), "value": pl.Int64()})


@dataclass
class FilesWorld:
    """A folder, wherever it is, that gets one file of two rows at a time."""

    url: str
    form: FormatName
    options: dict[str, Any] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(self.url)
        self.fs.makedirs(self.root, exist_ok=True)

    def open(self) -> FileSource:
        return FileSource(self.url, self.form, schema=SCHEMA, **self.options)

    def grow(self) -> pl.DataFrame:
        number = next(self.numbers)
        if self.form == "lines":
            rows = pl.DataFrame({"line": [f"line {number}", ""]})
            content = f"line {number}\n\n".encode()
        else:
            rows = pl.DataFrame({"key": [f"k{number}", None], "value": [number, -number]}, schema=SCHEMA)
            buffer = BytesIO()
            getattr(rows, f"write_{self.form}")(buffer)
            content = buffer.getvalue()
        self.fs.pipe_file(f"{self.root}/{number}.{self.form}", self.written(content))
        return rows

    def written(self, content: bytes) -> bytes:
        """What the producer makes of a file of these rows."""
        return content


class CompressedWorld(FilesWorld):
    def written(self, content: bytes) -> bytes:
        return gzip.compress(content)


class SpoiltWorld(FilesWorld):
    """Every file has a record that cannot be read."""

    def written(self, content: bytes) -> bytes:
        return content + b"\xff,,,,\n"


@dataclass
class GeneratorWorld:
    """A log of rows, in pieces of three that begin wherever they are asked for."""

    log: list[dict[str, Any]] = field(default_factory=list)

    def open(self) -> GeneratorSource:
        def rows(since: list[int] | None, until: list[int] | None) -> Iterator[tuple[list[dict[str, Any]], tuple[int]]]:
            first, last = since[0] if since else 0, until[0] if until else len(self.log)
            while first < last:
                piece = self.log[first : min(first + 3, last)]
                first += len(piece)
                yield piece, (first,)

        return GeneratorSource(rows, SCHEMA, end=lambda: [len(self.log)] if self.log else None, max_rows_per_trigger=4)

    def grow(self) -> pl.DataFrame:
        number = len(self.log)
        rows: list[dict[str, Any]] = [{"key": f"k{number}", "value": number}, {"key": None, "value": None}]
        self.log += rows
        return pl.DataFrame(rows, schema=SCHEMA)


@dataclass
class MemoryWorld:
    feed: MemorySource = field(default_factory=lambda: MemorySource(SCHEMA))
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def open(self) -> MemorySource:
        return self.feed

    def grow(self) -> pl.DataFrame:
        number = next(self.numbers)
        rows = pl.DataFrame({"key": ["a", f"k{number}"], "value": [number, None]}, schema=SCHEMA)
        self.feed.add(rows)
        return rows


@dataclass
class RateWorld:
    """Time passes by the second, here of three rows."""

    start: datetime | None = datetime(2024, 2, 29, 23, 59, 58)
    now: datetime = datetime(2024, 2, 29, 23, 59, 58, tzinfo=UTC)
    value: Iterator[int] = field(default_factory=itertools.count)

    def open(self) -> RateSource:
        return RateSource(3, start=self.start, clock=lambda: self.now.timestamp())

    def grow(self) -> pl.DataFrame:
        due = [self.now + timedelta(microseconds=part) for part in (0, 333_333, 666_666)]
        self.now += timedelta(seconds=1)
        rows = {"timestamp": due, "value": list(itertools.islice(self.value, 3))}
        return pl.DataFrame(rows, schema={"timestamp": pl.Datetime("us", "UTC"), "value": pl.Int64})


@pytest.mark.parametrize("form", get_args(FormatName))
@pytest.mark.parametrize("order", ["oldest_first", "latest_first"])
class TestFilesOnTheLocalDisk(SourceContract):
    examples = 10

    @pytest.fixture
    def new_world(self, tmp_path: Path, form: FormatName, order: str) -> NewWorld:
        options = {"max_files_per_trigger": 2, "order": order}
        return lambda: FilesWorld(str(tmp_path / secrets.token_hex(8)), form, options)


@pytest.mark.parametrize("form", get_args(FormatName))
class TestFilesElsewhere(SourceContract):
    examples = 10

    @pytest.fixture
    def new_world(self, form: FormatName) -> NewWorld:
        return lambda: FilesWorld(f"memory://{secrets.token_hex(8)}/in", form, {"max_bytes_per_trigger": 1500})


@pytest.mark.parametrize("form", ["csv", "ndjson", "lines"])
class TestCompressedFiles(SourceContract):
    examples = 10

    @pytest.fixture
    def new_world(self, tmp_path: Path, form: FormatName) -> NewWorld:
        return lambda: CompressedWorld(str(tmp_path / secrets.token_hex(8)), form)


@pytest.mark.parametrize("form", ["csv", "ndjson", "lines"])
class TestFilesWithBadRecords(SourceContract):
    examples = 10

    @pytest.fixture
    def new_world(self, tmp_path: Path, form: FormatName) -> NewWorld:
        options = {"on_bad_record": "dead_letter", "dead_letter_folder": tmp_path / "bad"}
        return lambda: SpoiltWorld(str(tmp_path / secrets.token_hex(8)), form, options)


@pytest.mark.parametrize("how", get_args(Clean))
@pytest.mark.parametrize("place", ["here", "elsewhere"])
class TestFilesThatAreCleanedAway(SourceContract):
    examples = 10

    @pytest.fixture
    def new_world(self, tmp_path: Path, place: str, how: Clean) -> NewWorld:
        def new() -> FilesWorld:
            root = str(tmp_path) if place == "here" else "memory:/"
            root = f"{root}/{secrets.token_hex(8)}"
            options = {"archive_folder": f"{root}/read"} if how == "archive" else {}
            return FilesWorld(f"{root}/in", "csv", {"clean_source": how, "max_files_per_trigger": 2, **options})

        return new


class TestGenerator(SourceContract):
    @pytest.fixture
    def new_world(self) -> NewWorld:
        return GeneratorWorld


class TestMemory(SourceContract):
    @pytest.fixture
    def new_world(self) -> NewWorld:
        return MemoryWorld


class TestRate(SourceContract):
    @pytest.fixture
    def new_world(self) -> NewWorld:
        return RateWorld


def test_a_file_source_remembers_and_verifies_and_the_others_need_not() -> None:
    files: Source = FilesWorld(f"memory://{secrets.token_hex(8)}", "csv").open()
    assert isinstance(files, Remembers)
    assert isinstance(files, Verifies)
    assert not isinstance(MemorySource(SCHEMA), Remembers | Verifies)
    assert not isinstance(RateSource(), Remembers | Verifies)


# ----------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize(
    "rows",
    [
        [{"key": "a", "value": 1}, {"value": 2}],
        {"value": [1, 2], "key": ["a", None]},
        pl.DataFrame({"value": [1, 2], "key": ["a", None]}),
    ],
)
def test_memory_takes_rows_columns_and_frames_in_any_order_of_columns(rows: Any) -> None:
    feed = MemorySource(SCHEMA)
    feed.add(rows)
    expected = pl.DataFrame({"key": ["a", None], "value": [1, 2]})
    assert_frame_equal(feed.read(None, 1).collect(), expected)


def test_memory_takes_a_column_of_nulls_for_any_type() -> None:
    feed = MemorySource(SCHEMA)
    feed.add(pl.DataFrame({"key": [None], "value": [None]}))
    assert feed.read(None, 1).collect().schema == SCHEMA


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"key": "a", "value": 1.5}], "1.5"),
        ([{"key": 1, "value": 1}], "Int64"),
        ([{"key": "a", "valeu": 1}], "key 'valeu' is not expected"),
        ({"key": ["a"]}, "column 'value' is missing"),
        ({"key": ["a"], "value": [2**63]}, "value"),
        (pl.DataFrame({"key": ["a"], "value": [1.0]}), "column 'value' is Float64, expected Int64"),
        (pl.DataFrame({"key": ["a"], "value": [1], "more": [1]}), "column 'more' is not expected"),
    ],
)
def test_memory_refuses_rows_that_do_not_fit_and_adds_nothing(rows: Any, says: str) -> None:
    feed = MemorySource(SCHEMA)
    with pytest.raises(SchemaMismatchError, match=says):
        feed.add(rows)
    assert feed.end() is None


def test_memory_of_another_process_cannot_continue_a_checkpoint() -> None:
    with pytest.raises(SourceDataLostError, match=r"after addition 3 .* this one has 0"):
        MemorySource(SCHEMA).latest(3, None, limited=True)
    with pytest.raises(SourceDataLostError, match="after addition 3"):
        MemorySource(SCHEMA).read(2, 3)


def test_memory_without_columns_is_refused() -> None:
    with pytest.raises(PlanError, match="MemorySource needs columns"):
        MemorySource({})


# ------------------------------------------------------------------------------------------- rate
def test_a_row_of_a_rate_is_due_its_share_of_a_second_after_the_one_before() -> None:
    source = RateSource(
        4, start=datetime(2024, 1, 1), clock=lambda: datetime(2024, 1, 1, 0, 0, 2, tzinfo=UTC).timestamp()
    )
    rows = source.read(None, source.latest(None, None, limited=True)).collect()
    expected = pl.select(
        timestamp=pl.datetime_range(
            datetime(2024, 1, 1), datetime(2024, 1, 1, 0, 0, 2), "250ms", closed="left", time_zone="UTC"
        ),
        value=pl.int_range(8, dtype=pl.Int64),
    )
    assert_frame_equal(rows, expected)


def test_a_rate_goes_on_from_the_start_in_the_checkpoint_not_from_its_own() -> None:
    world = RateWorld(start=None)
    grown = [world.grow()]
    world.now -= timedelta(seconds=1)
    first = world.open()
    world.now += timedelta(seconds=1)
    since = first.latest(None, None, limited=True)
    grown += [world.grow(), world.grow()]
    later = world.open()  # its own start is now
    until = later.latest(since, later.end(), limited=True)
    assert_frame_equal(later.read(None, since).collect(), grown[0])
    assert_frame_equal(later.read(since, until).collect(), pl.concat(grown[1:]))


def test_another_rate_cannot_continue_a_checkpoint() -> None:
    since = {"start": 0, "rate": 3, "seconds": 1}
    with pytest.raises(PlanError, match="continues a checkpoint of 3 rows per second"):
        RateSource(4).latest(since, None, limited=True)


def test_a_rate_stands_still_while_the_clock_goes_back() -> None:
    world = RateWorld()
    source = world.open()
    world.grow()
    since = source.latest(None, None, limited=True)
    world.now -= timedelta(hours=1)
    assert source.latest(since, None, limited=True) is None


@pytest.mark.parametrize("rate", [0, -1, 1.5, True, "4"])
def test_a_rate_is_a_whole_number_above_zero(rate: Any) -> None:
    with pytest.raises(PlanError, match="must be a whole number above 0"):
        RateSource(rate)
