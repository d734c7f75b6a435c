"""Does every record that Polars can read arrive, and is every other kept exactly once, with its reason?"""

from __future__ import annotations

import bz2
import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import unbounded as ub
from unbounded.sources.files import FileSource
from unbounded.sources.options import FormatName
from unbounded.testing.contracts.sources import Run, as_stored

SCHEMA = pl.Schema({"a": pl.Int64(), "b": pl.String()})


class Folder:
    """A folder with bad records in it, as each start of a process sees it."""

    def __init__(self, root: Path, form: FormatName, **options: Any) -> None:
        self.inside, self.bad, self.form, self.options = root / "in", root / "bad", form, options
        self.inside.mkdir(exist_ok=True)

    def put(self, name: str, data: bytes) -> Folder:
        (self.inside / name).write_bytes(data)
        return self

    def open(self) -> FileSource:
        options: Any = {"on_bad_record": "dead_letter", "dead_letter_folder": self.bad, **self.options}
        return FileSource(self.inside, self.form, schema=None if self.form == "lines" else SCHEMA, **options)

    def grow(self) -> pl.DataFrame:
        raise NotImplementedError

    def rows(self) -> list[tuple[Any, ...]]:
        run = Run(self)
        run.drain()
        return run.table().rows()

    def letters(self) -> pl.DataFrame:
        found = sorted(self.bad.glob("*.parquet"))
        return pl.concat([pl.read_parquet(file) for file in found]) if found else pl.DataFrame()

    def bad_records(self) -> list[tuple[int | None, bytes]]:
        letters = self.letters()
        return letters.select("line", "record").rows() if letters.height else []


CSV: dict[str, tuple[bytes, list[tuple[Any, ...]], list[tuple[int, bytes]]]] = {
    "nothing bad": (b"a,b\n1,x\n2,y\n", [(1, "x"), (2, "y")], []),
    "a text for a number": (b"a,b\n1,x\nq,y\n3,z\n", [(1, "x"), (3, "z")], [(3, b"q,y\n")]),
    "a float for an integer": (b"a,b\n1.5,x\n2,y\n", [(2, "y")], [(2, b"1.5,x\n")]),
    "too large a number": (b"a,b\n99999999999999999999,x\n2,y\n", [(2, "y")], [(2, b"99999999999999999999,x\n")]),
    "a field too many": (b"a,b\n1,x\n2,y,extra\n3,z\n", [(1, "x"), (3, "z")], [(3, b"2,y,extra\n")]),
    "a field too few": (b"a,b\n1,x\n2\n3,z\n", [(1, "x"), (2, None), (3, "z")], []),
    "no UTF-8": (b"a,b\n1,x\n2,\xff\n3,z\n", [(1, "x"), (3, "z")], [(3, b"2,\xff\n")]),
    "a quote within a field": (b'a,b\n1,5" nail\n2,y\n3,z\n', [(2, "y"), (3, "z")], [(2, b'1,5" nail\n')]),
    "a field over two lines": (b'a,b\n1,"x\ny"\n2,y\nq,z\n', [(1, "x\ny"), (2, "y")], [(5, b"q,z\n")]),
    "a bad record over two lines": (b'a,b\nq,"x\n5,z\n"\n2,y\n', [(2, "y")], [(2, b'q,"x\n5,z\n"\n')]),
    "a quote that is never closed": (b'a,b\n1,x\n2,"y\n3,z\n', [(1, "x")], [(3, b'2,"y\n3,z\n')]),
    "a doubled quote": (b'a,b\n1,"say ""x"""\nq,y\n', [(1, 'say "x"')], [(3, b"q,y\n")]),
    "ends of lines with a return": (b'a,b\r\n1,"x"\r\nq,y\r\n', [(1, "x")], [(3, b"q,y\r\n")]),
    "blank lines": (b"a,b\n\n1,x\nq,y\n", [(None, None), (1, "x")], [(4, b"q,y\n")]),
    "columns in another order": (b"b,a\nx,1\ny,q\n", [(1, "x")], [(3, b"y,q\n")]),
    "several kinds": (b"a,b\nq,x\n1,x\n2,y,z\nr,\xff\n3,z\ns,s\n", [(1, "x"), (3, "z")], [
        (2, b"q,x\n"), (4, b"2,y,z\n"), (5, b"r,\xff\n"), (7, b"s,s\n"),
    ]),
    "all bad": (b"a,b\nq,x\nr,x\n", [], [(2, b"q,x\n"), (3, b"r,x\n")]),
}  # fmt: skip


@pytest.mark.parametrize("case", CSV)
@pytest.mark.parametrize("compressed", [False, True])
def test_of_a_csv_the_good_records_arrive_and_the_bad_are_kept(tmp_path: Path, case: str, compressed: bool) -> None:
    text, good, bad = CSV[case]
    folder = Folder(tmp_path, "csv").put("1", gzip.compress(text) if compressed else text)
    assert folder.rows() == good
    assert folder.bad_records() == bad


NDJSON: dict[str, tuple[bytes, list[tuple[Any, ...]], list[tuple[int, bytes]]]] = {
    "nothing bad": (b'{"a":1,"b":"x"}\n{"a":2}\n', [(1, "x"), (2, None)], []),
    "a text for a number": (b'{"a":1}\n{"a":"q"}\n{"a":3}\n', [(1, None), (3, None)], [(2, b'{"a":"q"}\n')]),
    "no JSON": (b'{"a":1}\n{"a":\n{"a":3}\n', [(1, None), (3, None)], [(2, b'{"a":\n')]),
    "no object": (b'{"a":1}\n[1]\nnull\n', [(1, None)], [(2, b"[1]\n"), (3, b"null\n")]),
    "no UTF-8": (b'{"a":1}\n{"b":"\xff"}\n', [(1, None)], [(2, b'{"b":"\xff"}\n')]),
    "blank lines": (b'{"a":1}\n\n{"a":"q"}\n', [(1, None)], [(3, b'{"a":"q"}\n')]),
}


@pytest.mark.parametrize("case", NDJSON)
def test_of_ndjson_the_good_records_arrive_and_the_bad_are_kept(tmp_path: Path, case: str) -> None:
    text, good, bad = NDJSON[case]
    folder = Folder(tmp_path, "ndjson").put("1", text)
    assert folder.rows() == good
    assert folder.bad_records() == bad


def test_a_line_that_is_not_utf8_is_a_bad_record(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "lines").put("1", b"x\n\xff\ny\n")
    assert folder.rows() == [("x",), ("y",)]
    assert folder.bad_records() == [(2, b"\xff\n")]


@pytest.mark.parametrize(
    ("options", "text", "good", "bad"),
    [
        ({"has_header": False}, b"1,x\nq,y\n3\n", [(1, "x"), (3, None)], [(2, b"q,y\n")]),
        ({"has_header": False}, b"q\n1,x\n", [(1, "x")], [(1, b"q\n")]),
        ({"has_header": False}, b"\xef\xbb\xbf1,x\nq,y\n", [(1, "x")], [(2, b"q,y\n")]),
        ({"separator": ";", "quote_char": "'"}, b"a;b\n1;'x;\n'\nq;y\n", [(1, "x;\n")], [(4, b"q;y\n")]),
        ({"quote_char": None}, b'a,b\n1,"x\nq,y\n', [(1, '"x')], [(3, b"q,y\n")]),
        ({"eol_char": ";"}, b"a,b;1,x;q,y;", [(1, "x")], [(1, b"q,y;")]),
        ({"comment_prefix": "#"}, b"# it's \"odd\na,b\n1,x\n# 2\nq,y\n", [(1, "x")], [(5, b"q,y\n")]),
        ({"null_values": ["-"]}, b"a,b\n-,x\nq,y\n", [(None, "x")], [(3, b"q,y\n")]),
        ({"truncate_ragged_lines": True}, b"a,b\n1,x,9\nq,y,9\n", [(1, "x")], [(3, b"q,y,9\n")]),
        ({"encoding": "utf8-lossy"}, b"a,b\n1,\xff\nq,y\n", [(1, "\ufffd")], [(3, b"q,y\n")]),
        ({"missing_columns": "insert"}, b"a\n1\nq\n", [(1, None)], [(3, b"q\n")]),
        ({"extra_columns": "ignore"}, b"z,a,b\n0,1,x\n0,q,y\n", [(1, "x")], [(3, b"0,q,y\n")]),
    ],
)
def test_records_are_told_apart_as_the_options_say(
    tmp_path: Path, options: dict[str, Any], text: bytes, good: list[Any], bad: list[Any]
) -> None:
    folder = Folder(tmp_path, "csv", **options).put("1", text)
    assert folder.rows() == good
    assert folder.bad_records() == bad


@given(
    lines=st.lists(
        st.one_of(
            st.tuples(st.integers(-99, 99), st.sampled_from(["x", "", 'y"z', "two\nlines", "ü,"])),
            st.sampled_from([b"q,y\n", b"1,2,3\n", b"1,\xff\n", b'1,5" nail\n', b'q,"bad\nrecord"\n']),
        ),
        max_size=20,
    )
)
def test_good_and_bad_records_in_any_order_are_parted(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, str] | bytes]
) -> None:
    good = [line for line in lines if isinstance(line, tuple)]
    text = b"".join(
        pl.DataFrame([line], schema=SCHEMA, orient="row").write_csv(include_header=False).encode()
        if isinstance(line, tuple)
        else line
        for line in lines
    )
    folder = Folder(tmp_path_factory.mktemp("run"), "csv").put("1", b"a,b\n" + text)
    assert folder.rows() == [(a, b) for a, b in good]
    assert [record for _, record in folder.bad_records()] == [line for line in lines if isinstance(line, bytes)]


def test_a_letter_says_file_line_and_reason(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "csv").put("1.csv", b"a,b\n1,x\nq,y\n2,y,z\n")
    folder.rows()
    letters = folder.letters()
    assert letters.schema == {"file": pl.String, "line": pl.Int64, "record": pl.Binary, "reason": pl.String}
    assert letters["file"].unique().to_list() == [str(folder.inside / "1.csv")]
    mistyped, ragged = letters["reason"]
    assert mistyped == "column 'a': 'q' is not Int64"
    assert "more fields" in ragged


@pytest.mark.parametrize("text", [b"a,c\n1,x\n", b"a\n1\n", bz2.compress(b"a,b\n1,x\n")])
def test_a_file_whose_head_does_not_fit_is_kept_as_a_whole(tmp_path: Path, text: bytes) -> None:
    folder = Folder(tmp_path, "csv").put("1.csv", text).put("2.csv", b"a,b\n1,x\n")
    assert folder.rows() == [(1, "x")]
    assert folder.bad_records() == [(None, text)]


def test_columns_of_the_path_are_there_for_the_rows_of_a_file_with_bad_records(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "csv", recursive=True, hive_schema={"day": pl.Date}, include_file_paths="path")
    (folder.inside / "day=2024-02-29").mkdir()
    folder.put("day=2024-02-29/1", b"a,b\n1,x\nq,y\n").put("day=2024-02-29/2", b"a,b\n2,x\n")
    run = Run(folder)
    run.drain()
    paths = [str(folder.inside / "day=2024-02-29" / name) for name in "12"]
    expected = pl.DataFrame({"a": [1, 2], "b": ["x", "x"], "day": [date(2024, 2, 29)] * 2, "path": paths})
    assert_frame_equal(run.table(), expected)


# -------------------------------------------------------------------------------------- exactly once
def spoilt(folder: Folder) -> FileSource:
    folder.put("1", b"a,b\n1,x\nq,y\n")
    return folder.open()


def test_a_letter_is_seen_only_once_its_batch_is_committed(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "csv")
    source = spoilt(folder)
    until = source.latest(None, None, limited=True)
    source.read(None, until)
    source.verify(None, until)
    assert folder.bad_records() == []
    source.acknowledge(until)
    assert folder.bad_records() == [(3, b"q,y\n")]
    assert source.metrics()["bad_records"] == 1


def test_a_batch_that_runs_again_keeps_nothing_twice(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "csv")
    source = spoilt(folder)
    until = as_stored(source.latest(None, None, limited=True))
    for _ in range(2):
        again = folder.open()
        again.read(None, until)
        again.verify(None, until)
    for _ in range(2):
        again.acknowledge(until)
        again = folder.open()
    assert folder.bad_records() == [(3, b"q,y\n")]


def test_two_queries_that_share_a_folder_of_letters_keep_a_record_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "csv")
    spoilt(folder)
    assert folder.rows() == folder.rows() == [(1, "x")]
    assert folder.bad_records() == [(3, b"q,y\n")]


def test_two_queries_that_judge_a_file_differently_each_keep_what_they_found(tmp_path: Path) -> None:
    text = b'a,b\n1,"x\nq,y"\nz,z\n'
    assert Folder(tmp_path, "csv").put("1", text).rows() == [(1, "x\nq,y")]
    other = Folder(tmp_path, "csv", quote_char=None)
    assert other.rows() == [(1, '"x')]
    assert sorted(other.bad_records()) == [(3, b'q,y"\n'), (4, b"z,z\n"), (4, b"z,z\n")]


def test_a_record_that_is_good_when_the_batch_runs_again_is_no_letter(tmp_path: Path) -> None:
    until = as_stored(spoilt(Folder(tmp_path, "csv")).latest(None, None, limited=True))
    Folder(tmp_path, "csv").open().read(None, until)
    mended = Folder(tmp_path, "csv", null_values=["q"])
    source = mended.open()
    assert source.read(None, until).collect().rows() == [(1, "x"), (None, "y")]
    source.acknowledge(until)
    assert mended.bad_records() == []
    assert source.metrics()["bad_records"] == 0


def test_the_letters_of_a_file_with_the_longest_name_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "csv").put("\N{GRINNING FACE}" * 63, b"a,b\nq,y\n")
    assert folder.rows() == []
    assert folder.bad_records() == [(2, b"q,y\n")]


@pytest.mark.parametrize(("taken", "state"), [("bad._unbounded", "was not committed"), ("bad", "is committed")])
def test_letters_that_cannot_be_written_say_where_and_whether_the_batch_is_committed(
    tmp_path: Path, taken: str, state: str
) -> None:
    folder = Folder(tmp_path, "csv").put("1", b"a,b\n1,x\nq,y\n")
    (tmp_path / taken).write_bytes(b"a file, where a folder should be")
    with pytest.raises(ub.ConnectorError, match=rf"dead_letter_folder=.*Not a directory.*{state}.*continues"):
        folder.rows()
    (tmp_path / taken).unlink()
    assert folder.rows() == [(1, "x")]
    assert folder.bad_records() == [(3, b"q,y\n")]


def test_a_query_reports_and_survives_bad_records(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "ndjson")
    folder.put("1", b'{"a":1}\nno\n').put("2", b'{"a":2}\n{"a":"no"}\nno\n')
    options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}

    def start() -> ub.StreamingQuery:
        frame = ub.scan_ndjson(
            folder.inside,
            schema=SCHEMA,
            on_bad_record="dead_letter",
            dead_letter_folder=folder.bad,
            max_files_per_trigger=1,
        )
        return frame.sink_parquet(tmp_path / "out", **options)

    query = start()
    counted = [progress.sources[0].metrics["bad_records"] for progress in query.recent_progress]
    assert counted == [1, 2]
    assert [progress.num_input_rows for progress in query.recent_progress] == [1, 1]
    assert sorted(query.read().collect()["a"]) == [1, 2]
    start()
    assert sorted(record for _, record in folder.bad_records()) == [b"no\n", b"no\n", b'{"a":"no"}\n']


# ------------------------------------------------------------------------------------------ failing
def test_without_it_the_query_fails_and_names_file_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"a": number}) for number in range(5)]
    (tmp_path / "in" / "1.json").write_text("\n".join([*lines, '{"a": "q"}', ""]))
    frame = ub.scan_ndjson(tmp_path / "in", schema=SCHEMA)
    with pytest.raises(ub.ConnectorError, match=r"1\.json, line 6: column 'a': 'q' is not Int64.*dead_letter"):
        frame.sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt", trigger=ub.available_now())


BAD: Any = {"on_bad_record": "dead_letter", "dead_letter_folder": "bad"}


@pytest.mark.parametrize(
    ("form", "options", "says"),
    [
        ("csv", {"on_bad_record": "skip"}, r"Write 'fail' or 'dead_letter'"),
        ("csv", {"on_bad_record": "dead_letter"}, r'dead_letter_folder="bad/"'),
        ("csv", {"dead_letter_folder": "bad"}, r'on_bad_record="dead_letter"'),
        ("csv", {**BAD, "ignore_errors": True}, r"no record is bad.*one of the two"),
        ("csv", {**BAD, "skip_rows": 1}, r"skipped again before each"),
        ("parquet", BAD, r"one damaged byte makes all of it suspect"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, form: FormatName, options: Any, says: str
) -> None:
    with pytest.raises(ub.PlanError, match=says):
        FileSource(tmp_path, form, schema=SCHEMA, **options)


def test_letters_may_not_lie_in_what_is_scanned(tmp_path: Path) -> None:
    given_folder: Any = {"on_bad_record": "dead_letter", "dead_letter_folder": tmp_path / "in" / "bad"}
    with pytest.raises(ub.PlanError, match=r"dead_letter_folder=.* lies in what is scanned"):
        FileSource(tmp_path, "csv", schema=SCHEMA, recursive=True, **given_folder)
    FileSource(tmp_path, "csv", schema=SCHEMA, **given_folder)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int16, pl.UInt8, pl.UInt16])
def test_a_number_too_great_for_a_small_integer_of_ndjson_is_an_error_or_null_as_asked(
    dtype: Any, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.ndjson").write_text('{"y": 3}\n{"y": 70000}\n')
    options: Any = {"trigger": ub.available_now()}
    with pytest.raises(ub.ConnectorError, match=r"1\.ndjson, line 2: column 'y': '70000' is not"):
        ub.scan_ndjson(tmp_path / "in", schema={"y": dtype}).sink_memory(**options)
    lenient = ub.scan_ndjson(tmp_path / "in", schema={"y": dtype}, ignore_errors=True).sink_memory(**options)
    assert lenient.read().collect().to_dict(as_series=False) == {"y": [3, None]}
    kept = {"on_bad_record": "dead_letter", "dead_letter_folder": tmp_path / "bad"}
    sifted = ub.scan_ndjson(tmp_path / "in", schema={"y": dtype}, **kept).sink_memory(**options)  # type: ignore[arg-type]  # options by name
    assert sifted.read().collect()["y"].to_list() == [3]
    assert pl.read_parquet(tmp_path / "bad" / "*.parquet")["record"].to_list() == [b'{"y": 70000}\n']


def test_a_look_at_a_stream_sets_nothing_aside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.csv").write_text("a\n1\nq\n")
    kept: Any = {"on_bad_record": "dead_letter", "dead_letter_folder": tmp_path / "bad"}
    frame = ub.scan_csv(tmp_path / "in", schema={"a": pl.Int64}, **kept)
    assert frame.snapshot().collect().rows() == [(1,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
