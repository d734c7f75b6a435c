"""What is special to compressed text, to lines, to Avro, to parts of paths, and to files with other columns?"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import secrets
import zlib
from collections.abc import Callable
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import fsspec
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from unbounded.errors import ConnectorError, PlanError, SchemaMismatchError
from unbounded.sources import avro, compression
from unbounded.sources.files import FileSource
from unbounded.sources.options import FormatName

SCHEMA = pl.Schema({"x": pl.Int64(), "y": pl.String()})
NOON = 1_700_000_000


def content(form: FormatName, rows: Any) -> bytes:
    buffer = BytesIO()
    getattr(pl.DataFrame(rows), f"write_{form}")(buffer)
    return buffer.getvalue()


def put(url: str, name: str, data: bytes) -> str:
    fs, root = fsspec.core.url_to_fs(url)
    path = f"{root}/{name}"
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, data)
    return path


@pytest.fixture(params=["local", "elsewhere"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "in") if request.param == "local" else f"memory://{secrets.token_hex(8)}/in"


def rows(source: FileSource) -> pl.DataFrame:
    until = source.latest(None, None, limited=False)
    assert until is not None
    return source.read(None, until).collect()


# ------------------------------------------------------------------------------------- compression
def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zlib": zlib.compress, "zstd": zstd}
TEXT = b"x,y\n" + b"".join(b"%d,row %d\n" % (x, x * 7919 % 1000) for x in range(3000))


@pytest.mark.parametrize("packer", PACKERS)
def test_half_a_compressed_file_waits_until_it_is_whole(place: str, packer: str) -> None:
    packed = PACKERS[packer](TEXT)
    put(place, "a", packed[:-1])
    source = FileSource(place, "csv", schema=SCHEMA)
    for length in (len(packed) - 1, len(packed) // 2, 20, 5):
        put(place, "a", packed[:length])
        assert source.latest(None, None, limited=True) is None
        assert source.metrics()["waiting"] == ["a"]
    put(place, "a", packed)
    assert rows(source).height == 3000


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_file_that_stays_a_half_is_warned_of_and_never_read(tmp_path: Path, packer: str) -> None:
    path = put(str(tmp_path), "a", PACKERS[packer](TEXT)[:-5])
    os.utime(path, (NOON, NOON))
    source = FileSource(tmp_path, "csv", schema=SCHEMA, clock=lambda: NOON + 60.0)
    with pytest.warns(UserWarning, match="a is not a whole compressed file.*is not read"):
        assert source.latest(None, None, limited=True) is None


def test_streams_of_gzip_behind_one_another_are_one_text(place: str) -> None:
    put(place, "a", gzip.compress(b"x,y\n1,a\n") + gzip.compress(b"2,b\n"))
    assert rows(FileSource(place, "csv", schema=SCHEMA)).rows() == [(1, "a"), (2, "b")]


def test_streams_of_zlib_behind_one_another_are_not_read_by_half(place: str) -> None:
    put(place, "a", zlib.compress(b"x,y\n1,a\n") + zlib.compress(b"2,b\n"))
    assert FileSource(place, "csv", schema=SCHEMA).latest(None, None, limited=True) is None


@pytest.mark.parametrize("packer", PACKERS)
@given(data=st.binary(max_size=300), cut=st.integers(1, 400))
def test_what_is_packed_is_whole_if_and_only_if_nothing_is_cut(packer: str, data: bytes, cut: int) -> None:
    packed = PACKERS[packer](data)
    assert compression.is_compressed(packed)
    assert compression.is_whole(BytesIO(packed))
    assert compression.contents(packed) == data
    if cut < len(packed) - 4:
        assert not compression.is_whole(BytesIO(packed[:-cut]))


@pytest.mark.parametrize(("kind", "pack"), [("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_text_that_polars_cannot_unpack_is_refused_by_name_and_not_read_as_text(
    place: str, kind: str, pack: Callable[[bytes], bytes]
) -> None:
    put(place, "a", pack(b"x,y\n1,a\n"))
    with pytest.raises(SchemaMismatchError, match=f"in/a does not fit.*compressed with {kind}.*gzip, zstd"):
        FileSource(place, "csv", schema=SCHEMA).latest(None, None, limited=True)


def test_a_half_that_did_not_change_is_not_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(str(tmp_path), "a", gzip.compress(TEXT)[:-1])
    source = FileSource(tmp_path, "csv", schema=SCHEMA)
    source.latest(None, None, limited=True)
    monkeypatch.setattr("unbounded.sources.discovery.is_whole", lambda file: pytest.fail("unpacked again"))
    assert source.latest(None, None, limited=True) is None


# ------------------------------------------------------------------------------------------- lines
@given(lines=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=9), min_size=1))
def test_lines_are_those_of_polars(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("in")
    (folder / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    found = rows(FileSource(folder, "lines"))
    assert_frame_equal(found, pl.scan_lines(folder / "a.txt").collect())
    assert found["line"].to_list() == lines


def test_lines_need_no_schema_nor_a_file_to_know_their_column(tmp_path: Path) -> None:
    frame = ub.scan_lines(tmp_path, include_file_paths="path", name="log")
    assert frame.collect_schema() == {"line": pl.String, "path": pl.String}


# -------------------------------------------------------------------------------------------- avro
RECORD: dict[str, Any] = {
    "type": "record",
    "name": "row",
    "fields": [{"name": "x", "type": ["null", "long"]}, {"name": "y", "type": "string"}],
}


def avro_file(records: list[dict[str, Any]], schema: dict[str, Any] = RECORD, **options: Any) -> bytes:
    """A file as another writer makes it, of many blocks if `sync_interval` is small."""
    buffer = BytesIO()
    fastavro.writer(buffer, schema, records, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro_of_many_blocks_waits_for_its_last_one(place: str, codec: str) -> None:
    data = avro_file([{"x": x, "y": str(x)} for x in range(1000)], sync_interval=100, codec=codec)
    put(place, "a", data[:-1])
    source = FileSource(place, "avro", schema=SCHEMA)
    assert source.latest(None, None, limited=True) is None
    put(place, "a", data)
    assert rows(source)["x"].to_list() == list(range(1000))


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_a_header_is_found_only_where_it_is_whole(length: int) -> None:
    data = avro_file([{"x": 1, "y": "a"}], metadata={"author": "nobody"})
    whole = avro.header(data)
    assert whole is not None
    assert whole.marker == data[-16:]
    assert avro.header(data[: min(length, whole.length - 1)]) is None
    assert avro.header(b"PAR1" + data) is None


def test_a_query_over_avro_reads_the_columns_it_asks_for(tmp_path: Path) -> None:
    for x in range(3):
        put(str(tmp_path), f"{x}", avro_file([{"x": x, "y": str(x)}]))
    frame = ub.scan_avro(tmp_path).filter(pl.col("x") > 0).select("y")
    assert frame.snapshot().collect()["y"].to_list() == ["1", "2"]
    assert frame.snapshot().head(1).collect()["y"].to_list() == ["1"]


@pytest.mark.parametrize("codec", ["null", "deflate"])
@pytest.mark.parametrize("comment", [0, 1, 63, 64, 10_000])
def test_avro_without_rows_has_its_columns(place: str, codec: str, comment: int) -> None:
    put(place, "a", avro_file([], {**RECORD, "doc": "x" * comment}, codec=codec))
    put(place, "b", avro_file([{"x": 1, "y": "a"}], codec=codec))
    assert rows(FileSource(place, "avro")).rows() == [(1, "a")]


def test_avro_that_polars_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    fields = [{"name": "x", "type": ["long", "string"]}]
    put(str(tmp_path), "a", avro_file([{"x": 1}], {"type": "record", "name": "r", "fields": fields}))
    with pytest.raises(ConnectorError, match=r"cannot read the Avro file .*a: .*no unions but with null"):
        ub.scan_avro(tmp_path)


# ---------------------------------------------------------------------------------- parts of paths
FORMATS: list[FormatName] = ["parquet", "csv", "ndjson", "ipc", "avro"]


@pytest.mark.parametrize("form", FORMATS)
def test_parts_of_the_path_are_columns_in_every_format(place: str, form: FormatName) -> None:
    days = ["2024-02-28", "2024-02-29", "__HIVE_DEFAULT_PARTITION__"]
    for x, day in enumerate(days):
        for name in "ab":
            put(place, f"day={day}/city=New%20York/{name}", content(form, {"x": [x], "y": [name]}))
    hive: Any = {"city": pl.String, "day": pl.Date}
    source = FileSource(place, form, schema=SCHEMA, recursive=True, hive_schema=hive, include_file_paths="path")
    assert source.schema == {**SCHEMA, **hive, "path": pl.String}
    found = rows(source)
    assert found.schema == source.schema
    expected = [
        (x, name, "New York", day, f"{source.location}/day={days[x]}/city=New%20York/{name}")
        for x, day in enumerate([date(2024, 2, 28), date(2024, 2, 29), None])
        for name in "ab"
    ]
    assert sorted(found.rows(), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("form", FORMATS)
def test_types_of_parts_are_guessed_from_the_oldest_file_if_asked(place: str, form: FormatName) -> None:
    put(place, "day=2024-02-29/n=7/a", content(form, {"x": [1], "y": ["a"]}))

    def source(**options: Any) -> FileSource:
        return FileSource(place, form, schema=SCHEMA, recursive=True, **options)

    assert source().schema == SCHEMA
    guessed = source(hive_partitioning=True)
    assert guessed.schema == {**SCHEMA, "day": pl.Date, "n": pl.Int64}
    assert rows(guessed).rows() == [(1, "a", date(2024, 2, 29), 7)]
    texts = source(hive_partitioning=True, try_parse_hive_dates=False)
    assert texts.schema == {**SCHEMA, "day": pl.String, "n": pl.Int64}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("folder", "says"), [("other", r"no part 'n=\.\.\.' in their path"), ("n=many", r"do not fit hive_schema")]
)
def test_a_file_whose_path_does_not_fit_is_refused_before_it_is_promised(
    place: str, form: FormatName, folder: str, says: str
) -> None:
    put(place, f"{folder}/a", content(form, {"x": [1], "y": ["a"]}))
    source = FileSource(place, form, schema=SCHEMA, recursive=True, hive_schema={"n": pl.Int64})
    with pytest.raises(SchemaMismatchError, match=says):
        source.latest(None, None, limited=True)


def test_what_a_partitioned_sink_wrote_can_be_scanned_by_its_parts(tmp_path: Path) -> None:
    feed = ub.MemorySource({"x": pl.Int64, "n": pl.Int64})
    feed.add({"x": [1, 2, 3], "n": [7, 8, 7]})
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
    ub.scan_memory(feed).sink_parquet(tmp_path / "out", partition_by="n", **options)
    frame = ub.scan_parquet(tmp_path / "out", recursive=True, hive_schema={"n": pl.Int64})
    assert sorted(frame.snapshot().collect().rows()) == [(1, 7), (2, 8), (3, 7)]


# ------------------------------------------------------------------------------------ other columns
@pytest.mark.parametrize("form", FORMATS)
def test_missing_columns_are_null_and_extra_ones_passed_over_where_that_is_asked_for(
    place: str, form: FormatName
) -> None:
    put(place, "a", content(form, {"x": [1], "y": ["a"]}))
    put(place, "b", content(form, {"x": [2]}))
    put(place, "c", content(form, {"y": ["c"], "z": [1.5], "x": [3]}))
    source = FileSource(place, form, schema=SCHEMA, missing_columns="insert", extra_columns="ignore")
    assert sorted(rows(source).rows()) == [(1, "a"), (2, None), (3, "c")]


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "ndjson"])
@pytest.mark.parametrize(
    ("option", "other", "says"),
    [
        ({"missing_columns": "insert"}, {"x": [1], "y": ["a"], "z": [1]}, "column 'z' is not expected"),
        ({"extra_columns": "ignore"}, {"x": [1]}, "column 'y' is missing"),
    ],
)
def test_one_of_the_two_does_not_allow_the_other(
    place: str, form: FormatName, option: dict[str, Any], other: Any, says: str
) -> None:
    put(place, "a", content(form, other))
    with pytest.raises(SchemaMismatchError, match=f"in/a does not fit.*{says}"):
        FileSource(place, form, schema=SCHEMA, **option).latest(None, None, limited=True)


@pytest.mark.parametrize("form", ["parquet", "ipc", "avro"])
def test_no_policy_of_columns_lets_another_type_pass(place: str, form: FormatName) -> None:
    put(place, "a", content(form, {"x": ["1"], "y": ["a"]}))
    source = FileSource(place, form, schema=SCHEMA, missing_columns="insert", extra_columns="ignore")
    with pytest.raises(SchemaMismatchError, match=r"in/a does not fit.*column 'x' is String, expected Int64"):
        source.latest(None, None, limited=True)


@pytest.mark.parametrize(("option", "how"), [("missing_columns", "raise"), ("extra_columns", "raise")])
def test_ndjson_has_the_keys_that_each_line_has(tmp_path: Path, option: str, how: str) -> None:
    options: Any = {option: how}
    with pytest.raises(PlanError, match=rf"scan_ndjson\({option}='{how}'\): each line has its own keys"):
        FileSource(tmp_path, "ndjson", schema=SCHEMA, **options)


@pytest.mark.parametrize("form", ["parquet", "ipc", "csv"])
@pytest.mark.parametrize("folder", ["k=a=b", "k=x/k=a=b", "k=a%3Db"])
def test_a_folder_has_its_value_however_its_name_is_spelt(tmp_path: Path, form: FormatName, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    rows = pl.DataFrame({"x": [1]})
    getattr(rows, f"write_{form}")(tmp_path / folder / "1")
    source = FileSource(tmp_path, form, schema=rows.schema, recursive=True, hive_schema={"k": pl.String})
    assert source.read(None, source.latest(None, None, limited=True)).collect().rows() == [(1, "a=b")]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path, form: FormatName) -> None:
    (tmp_path / "k=%ff").mkdir()
    rows = pl.DataFrame({"x": [1]})
    getattr(rows, f"write_{form}")(tmp_path / "k=%ff" / "1")
    source = FileSource(tmp_path, form, schema=rows.schema, recursive=True, hive_schema={"k": pl.String})
    with pytest.raises(SchemaMismatchError, match=r"k=%ff is no UTF-8.*Rename the folder"):
        source.latest(None, None, limited=True)
