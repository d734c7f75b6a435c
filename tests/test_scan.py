"""Does a scan say what it needs, take Polars' options and no others, and find or suggest a schema?"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest

import unbounded as ub
from unbounded.errors import ConnectorError, PlanError, UnknownOptionError, UnsupportedOperationError
from unbounded.sources.columns import spelt
from unbounded.sources.files import FileSource
from unbounded.sources.formats import format_of
from unbounded.sources.options import (
    REFUSED,
    AvroOptions,
    CsvOptions,
    FormatName,
    IpcOptions,
    LinesOptions,
    NdjsonOptions,
    ParquetOptions,
)

SCANS: dict[FormatName, tuple[Callable[..., ub.StreamFrame], Callable[..., pl.LazyFrame | pl.DataFrame], Any]] = {
    "parquet": (ub.scan_parquet, pl.scan_parquet, ParquetOptions),
    "csv": (ub.scan_csv, pl.scan_csv, CsvOptions),
    "ndjson": (ub.scan_ndjson, pl.scan_ndjson, NdjsonOptions),
    "ipc": (ub.scan_ipc, pl.scan_ipc, IpcOptions),
    "avro": (ub.scan_avro, pl.read_avro, AvroOptions),
    "lines": (ub.scan_lines, pl.scan_lines, LinesOptions),
}
EVERY: tuple[FormatName, ...] = get_args(FormatName)
ROWS = pl.DataFrame({"x": [1], "t": [datetime(2024, 1, 1)]})
SCHEMA = ROWS.schema


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file of each format, each in a folder of its own."""
    for form in EVERY:
        (tmp_path / form).mkdir()
        if form == "lines":
            (tmp_path / form / "a.txt").write_text("a line\n")
        else:
            getattr(ROWS, f"write_{form}")(tmp_path / form / f"a.{form}")
    return tmp_path


def schema_of(form: FormatName) -> dict[str, Any]:
    """The option that says the columns, for a format that has it."""
    return {} if form == "lines" else {"schema": SCHEMA}


# ----------------------------------------------------------------------------------------- options
@pytest.mark.parametrize("form", EVERY)
def test_every_option_of_polars_is_taken_refused_or_meant_otherwise(form: FormatName) -> None:
    ours, theirs, options = SCANS[form]
    polars = {name for name in inspect.signature(theirs).parameters if not name.startswith("_")}
    own = {name for name in inspect.signature(ours).parameters if name != "options"}
    assert polars - own - set(REFUSED) == set(options.__annotations__)
    assert own & set(options.__annotations__) == set()


OF_COLUMNS = {"schema", "missing_columns", "extra_columns"}
OF_TEXT = {"on_bad_record", "dead_letter_folder"}


@pytest.mark.parametrize("form", EVERY)
def test_all_scans_of_files_take_the_same_options_of_ours(form: FormatName) -> None:
    def ours(function: Callable[..., ub.StreamFrame]) -> list[inspect.Parameter]:
        found = inspect.signature(function).parameters.values()
        return [parameter for parameter in found if parameter.name not in {"options", *OF_COLUMNS, *OF_TEXT}]

    assert ours(SCANS[form][0]) == ours(ub.scan_parquet)
    special = inspect.signature(SCANS[form][0]).parameters.keys() & {*OF_COLUMNS, *OF_TEXT}
    expected = {
        "csv": {*OF_COLUMNS, *OF_TEXT},
        "ndjson": {*OF_COLUMNS, *OF_TEXT},
        "lines": OF_TEXT,
    }
    assert special == expected.get(form, OF_COLUMNS)


@pytest.mark.parametrize("form", EVERY)
def test_an_option_of_ours_has_the_default_of_the_source(form: FormatName) -> None:
    of_source = inspect.signature(FileSource).parameters
    found = inspect.signature(SCANS[form][0]).parameters
    ours = [name for name in found if name in of_source and name != "options"]
    assert {name: found[name].default for name in ours} == {name: of_source[name].default for name in ours}
    assert set(found) - set(ours) == {"name", "watermark", "idle_timeout", "allow_source_change", "options"}


@pytest.mark.parametrize("form", EVERY)
@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("max_file_per_trigger", "max_files_per_trigger"),
        ("include_file_path", "include_file_paths"),
        ("waterMark", "watermark"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_nearest_name(
    folder: Path, form: FormatName, typo: str, meant: str
) -> None:
    with pytest.raises(UnknownOptionError, match=f"scan_{form} has no option '{typo}'; did you mean '{meant}'"):
        SCANS[form][0](folder / form, **schema_of(form), **{typo: 1})


def test_an_option_of_another_format_is_refused(folder: Path) -> None:
    with pytest.raises(UnknownOptionError, match="scan_ndjson has no option 'separator'"):
        ub.scan_ndjson(folder / "ndjson", schema=SCHEMA, separator=";")  # type: ignore[call-arg]  # the point


@pytest.mark.parametrize(
    ("form", "option"),
    [(form, option) for form in EVERY for option in REFUSED if option in inspect.signature(SCANS[form][1]).parameters],
)
def test_an_option_that_an_endless_input_cannot_have_is_refused_with_another_way(
    folder: Path, form: FormatName, option: str
) -> None:
    with pytest.raises(
        UnsupportedOperationError, match=rf"scan_{form}\({option}=\.\.\.\) cannot .* because .* Instead: \w"
    ):
        SCANS[form][0](folder / form, **schema_of(form), **{option: 1})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"order": "newest"}, "Write 'oldest_first' or 'latest_first'"),
        ({"max_files_per_trigger": 0}, "whole number above 0, or None"),
        ({"max_bytes_per_trigger": "1gb"}, "whole number above 0, or None"),
        ({"min_file_age": "soon"}, "min_file_age is 'soon', which is no duration"),
        ({"hive_partitioning": True}, "has no part like 'year=2024'. Leave the option out, or name the columns"),
        ({"hive_partitioning": False, "hive_schema": {"y": pl.Int8}}, "for columns of the path and for none"),
        ({"missing_columns": "ignore"}, "missing_columns='ignore') is not known. Write 'insert' or 'raise'"),
        ({"extra_columns": "insert"}, "extra_columns='insert') is not known. Write 'ignore' or 'raise'"),
        ({"clean_source": "move"}, "Write 'archive', 'delete', or None"),
        ({"clean_source": "archive"}, 'Write clean_source="archive", archive_folder='),
        ({"clean_source": "delete", "archive_folder": "read"}, 'Write clean_source="archive", archive_folder='),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_one_that_does(
    folder: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(PlanError, match=re.escape(says)):
        ub.scan_parquet(folder / "parquet", **options)


# ------------------------------------------------------------------------------------------ schema
@pytest.mark.parametrize("form", ["parquet", "ipc", "avro"])
def test_files_that_say_their_types_need_no_schema(folder: Path, form: FormatName) -> None:
    assert SCANS[form][0](folder / form).collect_schema() == SCHEMA


@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_text_needs_a_schema_and_the_refusal_prints_one(folder: Path, form: FormatName) -> None:
    guess = re.escape('schema={"x": pl.Int64, "t": pl.String}')
    with pytest.raises(PlanError, match=f"scan_{form} needs schema=.*\n    {guess}"):
        SCANS[form][0](folder / form)


def test_the_guess_heeds_the_options_for_guessing(folder: Path) -> None:
    with pytest.raises(PlanError, match=re.escape('schema={"x": pl.Int64, "t": pl.Datetime("us")}')):
        ub.scan_csv(folder / "csv", try_parse_dates=True)


@pytest.mark.parametrize("form", [form for form in EVERY if form != "lines"])
def test_an_empty_folder_needs_a_schema(tmp_path: Path, form: FormatName) -> None:
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(PlanError, match=r"there are no .* files in .* yet \(.*'hidden': 1.*\).*schema=\{"):
        SCANS[form][0](tmp_path)
    assert SCANS[form][0](tmp_path, schema=SCHEMA).collect_schema() == SCHEMA


def test_an_empty_folder_with_folders_in_it_may_be_looked_into(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "day=1" / "1.parquet")
    with pytest.raises(PlanError, match=r"'folder': 1.*Look into the folders with recursive=True, or name them"):
        ub.scan_parquet(tmp_path)
    assert "x" in ub.scan_parquet(tmp_path, recursive=True).collect_schema()


def test_the_schema_is_that_of_the_oldest_file(folder: Path) -> None:
    later = folder / "parquet" / "0.parquet"
    pl.DataFrame({"other": [1]}).write_parquet(later)
    os.utime(folder / "parquet" / "a.parquet", (0, 0))
    assert ub.scan_parquet(folder / "parquet").collect_schema() == SCHEMA


def test_a_schema_may_be_python_types() -> None:
    assert ub.scan_csv("memory://nothing/here", schema={"x": int, "y": str}).collect_schema() == {
        "x": pl.Int64,
        "y": pl.String,
    }


def test_a_missing_folder_is_named_with_the_nearest_that_exists(folder: Path) -> None:
    with pytest.raises(ConnectorError, match=re.escape(f"is {folder}/no/such, which does not exist")) as refused:
        ub.scan_csv(folder / "no" / "such", schema=SCHEMA)
    assert f"the nearest folder that does is {folder}." in str(refused.value)


def test_a_damaged_file_is_named(folder: Path) -> None:
    for form in ("parquet", "ipc"):
        (folder / form / f"a.{form}").write_bytes(b"0123456789abPAR1" if form == "parquet" else b"0123456789ARROW1")
    with pytest.raises(ConnectorError, match=r"cannot tell the columns of .*a\.parquet"):
        ub.scan_parquet(folder / "parquet")
    with pytest.raises(ConnectorError, match=r"cannot tell the columns of .*a\.ipc"):
        ub.scan_ipc(folder / "ipc")


# ------------------------------------------------------------------------------------ infer_schema
def test_a_schema_may_have_types_that_polars_completes_itself(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("t,d\n2026-03-01T08:00:00,1\n")
    short: Any = {"t": pl.Datetime, "d": pl.Int64}
    expected = pl.read_csv(tmp_path / "1.csv", schema=short)
    frame = ub.scan_csv(tmp_path, schema=short)
    assert frame.collect_schema() == expected.schema == ub.MemorySource(short).schema
    assert ub.read_stream.schema(short).option("header", True).csv(str(tmp_path)).collect_schema() == expected.schema
    assert frame.snapshot().collect().equals(expected)


def test_a_type_with_a_unit_keeps_it() -> None:
    assert ub.MemorySource({"t": pl.Datetime("ms")}).schema["t"] == pl.Datetime("ms")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("item STRING, price BIGINT", r"is no schema.*pl\.Datetime.*ub\.read_stream\.schema"),
        ({"a": pl.List, "b": pl.Int64, "c": "INT"}, r"column 'a' is List, column 'c' is 'INT'.*pl\.List\(pl\.String\)"),
    ],
)
def test_what_is_no_schema_is_refused_in_words(tmp_path: Path, schema: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        ub.scan_csv(tmp_path, schema=schema)
    with pytest.raises(PlanError, match=says):
        ub.MemorySource(schema)


@pytest.mark.parametrize("form", EVERY)
def test_infer_schema_says_what_polars_says(folder: Path, form: FormatName) -> None:
    file = next((folder / form).iterdir())
    theirs = SCANS[form][1](str(file)).collect_schema()
    assert ub.infer_schema(folder / form) == ub.infer_schema(folder / form, format=form) == theirs


def test_infer_schema_needs_a_name_that_tells_the_format(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("x\n1\n")
    with pytest.raises(PlanError, match=r"no file .* tells its format\. Write infer_schema\(source, format='csv'\)"):
        ub.infer_schema(tmp_path)
    assert ub.infer_schema(tmp_path, format="csv") == {"x": pl.Int64}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.csv", "csv"),
        ("2024/a.b.CSV.gz", "csv"),
        ("x.jsonl.zst", "ndjson"),
        ("x.arrow", "ipc"),
        ("x.exe", None),
        ("x", None),
    ],
)
def test_a_name_tells_its_format(name: str, form: FormatName | None) -> None:
    assert format_of(name) == form


def test_a_schema_that_is_printed_can_be_pasted() -> None:
    schema = (
        pl.DataFrame(
            {
                'a "quoted" name': [1],
                "nested": [[{"at": datetime(2024, 1, 1), "left": [1.5]}]],
                "day": [date(2024, 1, 1)],
                "time": [time(1)],
                "text": ["a"],
            },
            schema_overrides={"text": pl.Enum(["a", "b"])},
        )
        .with_columns(
            zoned=pl.lit(0).cast(pl.Datetime("ms", "Europe/Paris")),
            took=pl.lit(0).cast(pl.Duration("ns")),
            price=pl.lit(1).cast(pl.Decimal(10, 2)),
            pair=pl.concat_list(pl.lit(1), pl.lit(2)).cast(pl.Array(pl.Int8, 2)),
        )
        .schema
    )
    assert eval(f"dict({spelt(schema)})", {"pl": pl}) == {"schema": dict(schema)}


# ------------------------------------------------------------------------------------------ others
def test_a_scan_of_anything_has_its_schema_and_reads_nothing() -> None:
    feed = ub.MemorySource(SCHEMA)
    assert ub.scan(feed).collect_schema() == ub.scan_memory(feed, watermark=("t", "2h")).collect_schema() == SCHEMA
    assert ub.scan_rate(5).collect_schema() == {"timestamp": pl.Datetime("us", "UTC"), "value": pl.Int64}
