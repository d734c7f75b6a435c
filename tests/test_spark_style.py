"""Does Spark's spelling reach the same scans, sinks and queries, with Spark's options, values and defaults?"""

from __future__ import annotations

import importlib
import importlib.util
import re
import threading
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import unbounded as ub
from unbounded.spark.names import LINES_OF_FRAMES, LINES_OF_GROUPS, NOTHING_LIKE_IT
from unbounded.spark.options import READING, WRITING, Options, understood

SCHEMA: dict[str, Any] = {
    "k": pl.String,
    "v": pl.Int64,
    "w": pl.Float64,
    "time": pl.Datetime("us"),
    "tags": pl.List(pl.String),
}


def frame() -> Any:
    """A frame without its type, for what a type checker would refuse first."""
    return ub.scan_memory(ub.MemorySource(SCHEMA))


# ----------------------------------------------------------------------------------------------- names
def lookup() -> pl.LazyFrame:
    return pl.LazyFrame(schema={"k": pl.String, "time": pl.Datetime("us"), "from": pl.Int64})


@pytest.mark.parametrize("name", [*LINES_OF_FRAMES, *LINES_OF_GROUPS])
def test_the_line_to_write_can_be_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = {**LINES_OF_FRAMES, **LINES_OF_GROUPS}[name]
    known = {"frame": frame(), "other": frame(), "lookup": lookup(), "f": lambda rows, batch_id: None}
    eval(line.replace("checkpoint=", "trigger=ub.once(), checkpoint="), {**known, "pl": pl, "ub": ub})


@pytest.mark.parametrize("name", [*LINES_OF_FRAMES, *NOTHING_LIKE_IT])
def test_a_name_of_pyspark_is_answered_with_what_to_write(name: str) -> None:
    answer = LINES_OF_FRAMES.get(name) or NOTHING_LIKE_IT[name]
    with pytest.raises(AttributeError) as refused:
        getattr(frame(), name)
    assert str(refused.value).startswith(f"{name} is PySpark's: ")
    assert answer in str(refused.value)
    assert not hasattr(pl.LazyFrame, name), "Polars has the name, so a frame should too"


@pytest.mark.parametrize("name", LINES_OF_GROUPS)
def test_a_name_of_grouped_data_is_answered_with_what_to_write(name: str) -> None:
    with pytest.raises(AttributeError, match="is PySpark's: write ") as refused:
        getattr(frame().group_by("k"), name)
    assert LINES_OF_GROUPS[name] in str(refused.value)


def test_a_name_that_nobody_has_is_missing_as_everywhere() -> None:
    with pytest.raises(AttributeError, match="'StreamFrame' object has no attribute 'nonsense'"):
        frame().nonsense  # noqa: B018
    assert not hasattr(frame(), "groupBy")


def test_a_frame_says_that_it_is_a_stream() -> None:
    assert frame().isStreaming is True
    assert frame().is_streaming is True


HAS_PYSPARK = importlib.util.find_spec("pyspark") is not None


@pytest.mark.skipif(not HAS_PYSPARK, reason="the names are compared with pyspark's own: pip install unbounded[spark]")
def test_every_public_name_of_pyspark_is_there_or_is_answered() -> None:
    sql, streaming = importlib.import_module("pyspark.sql"), importlib.import_module("pyspark.sql.streaming")

    def public(thing: type) -> set[str]:
        return {name for name in dir(thing) if not name.startswith("_")}

    answered = {*LINES_OF_FRAMES, *NOTHING_LIKE_IT}
    assert public(sql.DataFrame) - public(ub.StreamFrame) - answered == set()
    assert answered - public(sql.DataFrame) == set()
    assert public(sql.GroupedData) - public(ub.StreamGroupBy) - set(LINES_OF_GROUPS) == set()
    for ours in (ub.DataStreamReader, ub.DataStreamWriter, ub.StreamingQuery, ub.StreamingQueryManager):
        theirs = getattr(streaming, ours.__name__)
        assert public(theirs) - public(ours) == set()


# --------------------------------------------------------------------------------------------- reading
def folder(place: Path, **files: str) -> Path:
    """A folder of text files."""
    place.mkdir()
    for name, text in files.items():
        (place / name.replace("_", ".")).write_text(text)
    return place


def rows(stream: ub.StreamFrame) -> list[dict[str, Any]]:
    return stream.snapshot().collect().to_dicts()


def test_each_call_of_a_builder_gives_a_new_one() -> None:
    base = ub.read_stream.format("csv")
    assert base.option("sep", ";") is not base
    assert base == ub.read_stream.format("csv")
    assert ub.readStream is ub.read_stream
    writer = frame().write_stream
    assert writer.option("path", "a") != writer.option("path", "b")
    assert writer == writer.options()


def test_csv_has_no_header_and_takes_its_names_from_the_schema(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_csv="1,x\n2,\n")
    expected = [{"id": 1, "name": "x"}, {"id": 2, "name": None}]
    assert rows(ub.read_stream.schema("id INT, name STRING").csv(place)) == expected
    assert rows(ub.read_stream.format("csv").schema({"id": pl.Int32, "name": pl.String}).load(place)) == expected
    assert rows(ub.read_stream.load(place, "csv", pl.Schema({"id": pl.Int32, "name": pl.String}))) == expected


@pytest.mark.parametrize("header", ["true", True, "TRUE"])
@pytest.mark.parametrize("key", ["header", "HEADER", "Header"])
def test_options_take_text_and_values_under_names_in_any_case(key: str, header: object, tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_csv="name;id\n'x;y';1\n# no row\n")
    reader = ub.read_stream.schema("id INT, name STRING").options(**{key: header}, sep=";", quote="'", comment="#")
    assert rows(reader.csv(place)) == [{"name": "x;y", "id": 1}]


def test_a_value_that_does_not_fit_is_null_and_fails_where_that_is_asked(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_csv="3\n1,2024-01-01T00:00:00Z\nx,yesterday\n4,2024-01-01,more\n")
    reader = ub.read_stream.format("csv").schema("id INT, time TIMESTAMP")
    noon = datetime(2024, 1, 1, tzinfo=UTC)
    assert [tuple(row.values()) for row in rows(reader.load(place))] == [(3, None), (1, noon), (None, None), (4, noon)]
    strict = reader.option("mode", "FAILFAST")
    (place / "a.csv").write_text("1,2024-01-01\nx,\n")
    with pytest.raises(pl.exceptions.ComputeError, match="could not parse `x`"):
        rows(strict.load(place))
    (place / "a.csv").write_text("1,yesterday\n")
    with pytest.raises(pl.exceptions.InvalidOperationError, match="yesterday"):
        rows(strict.load(place))
    (place / "a.csv").write_text("1,2024-01-01\n2,\n")
    assert [row["time"] for row in rows(strict.load(place))] == [noon, None]


def test_a_header_that_does_not_fit_is_an_error_and_no_column_of_nulls(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_csv="ID,name\n1,x\n")
    with pytest.raises(ub.ConnectorError, match="'id' is missing"):
        rows(ub.read_stream.schema("id INT, name STRING").csv(place, header=True))


def test_instants_in_csv_may_name_their_zone(tmp_path: Path) -> None:
    texts = ("2024-01-01T09:30:00.5Z", "2024-01-01 09:30:00.5", "2024-01-01T10:30:00.500000+01:00")
    place = folder(tmp_path / "in", a_csv="\n".join(texts) + "\n")
    found = rows(ub.read_stream.schema("t TIMESTAMP").csv(place))
    assert {row["t"] for row in found} == {datetime(2024, 1, 1, 9, 30, 0, 500_000, UTC)}
    assert rows(ub.read_stream.schema({"t": pl.Datetime("ms", "Asia/Tokyo")}).csv(place)) == found


def test_json_is_an_object_per_line_and_what_it_lacks_is_null(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_json='{"id": 1, "day": "2024-01-31", "more": 2}\n{"id": "one"}\n')
    reader = ub.read_stream.schema("id INT, day DATE, s STRUCT<a: INT>")
    expected = [{"id": 1, "day": date(2024, 1, 31), "s": None}, {"id": None, "day": None, "s": None}]
    assert rows(reader.json(place)) == expected
    with pytest.raises(pl.exceptions.ComputeError, match="'one'"):
        rows(reader.option("mode", "failfast").json(place))


def test_small_integers_in_json_are_null_where_they_do_not_fit(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_json='{"a": 1, "b": -1}\n{"a": 300, "b": 300}\n')
    reader = ub.read_stream.schema("a TINYINT, b SMALLINT").format("json")
    assert [tuple(row.values()) for row in rows(reader.load(place))] == [(1, -1), (None, 300)]
    with pytest.raises(pl.exceptions.InvalidOperationError, match="300"):
        rows(reader.load(place, mode="FAILFAST"))


def test_parquet_without_a_column_has_nulls_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pl.DataFrame({"id": [1], "more": ["x"]}).write_parquet(tmp_path / "in" / "a.parquet")
    assert rows(ub.read_stream.schema("id BIGINT, name STRING").load(tmp_path / "in")) == [{"id": 1, "name": None}]
    assert rows(ub.read_stream.parquet(tmp_path / "in")) == [{"id": 1, "more": "x"}]


def test_limits_order_and_names_of_files_are_sparks(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_csv="1\n", b_csv="2\n", c_txt="3\n")
    reader = ub.read_stream.schema("id INT").option("pathGlobFilter", "*.csv").option("maxFilesPerTrigger", "1")
    query: Any = reader.name("numbers").csv(place).write_stream.format("memory").trigger(availableNow=True).start()
    query.awaitTermination()
    assert [progress.numInputRows for progress in query.recentProgress] == [1, 1]
    assert query.lastProgress["sources"][0]["name"] == "numbers"
    assert query.read().collect()["id"].sum() == 3
    (place / "deep").mkdir()
    (place / "deep" / "d.csv").write_text("4\n")
    assert len(rows(reader.option("recursiveFileLookup", "true").csv(place))) == 3


def test_a_record_that_cannot_be_read_is_kept_where_that_is_asked(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_json='{"id": 1}\nno json\n')
    stream = ub.read_stream.schema("id INT").option("badRecordsPath", str(tmp_path / "bad")).json(place)
    query = stream.write_stream.format("memory").trigger(availableNow=True).start()
    query.awaitTermination()
    assert query.read().collect().rows() == [(1,)]
    assert pl.read_parquet(tmp_path / "bad")["record"].to_list() == [b"no json\n"]


def test_files_that_were_read_are_archived(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_csv="1\n")
    reader = ub.read_stream.schema("id INT").options(cleanSource="ARCHIVE", sourceArchiveDir=str(tmp_path / "old"))
    reader.csv(place).write_stream.format("memory").trigger(availableNow=True).start().awaitTermination()
    assert [file.name for file in (tmp_path / "old").rglob("*.csv")] == ["a.csv"]
    assert list(place.iterdir()) == []


def test_columns_of_the_path_are_named_in_ddl(tmp_path: Path) -> None:
    place = folder(tmp_path / "in")
    folder(place / "day=2024-05-01", a_csv="1\n")
    reader = ub.read_stream.schema("id INT").option("hiveSchema", "day DATE")
    assert rows(reader.csv(place)) == [{"id": 1, "day": date(2024, 5, 1)}]


def test_text_is_the_lines_in_the_column_value(tmp_path: Path) -> None:
    place = folder(tmp_path / "in", a_txt="one\n\ntwo\n")
    assert rows(ub.read_stream.text(place)) == [{"value": "one"}, {"value": ""}, {"value": "two"}]
    assert ub.read_stream.schema("line STRING").text(place).columns == ["line"]


def test_avro_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pl.DataFrame({"id": [1]}).write_avro(tmp_path / "in" / "a.avro")
    assert rows(ub.read_stream.format("avro").schema("id BIGINT, name STRING").load(tmp_path / "in")) == [
        {"id": 1, "name": None}
    ]


def test_rate_counts() -> None:
    assert ub.read_stream.format("rate").option("rowsPerSecond", "5").load().columns == ["timestamp", "value"]


# --------------------------------------------------------------------------------------------- writing
def fed(*values: str) -> Any:
    feed = ub.MemorySource({"k": pl.String})
    feed.add([{"k": value} for value in values])
    return ub.scan_memory(feed)


def test_a_query_starts_and_is_watched_under_sparks_names(tmp_path: Path) -> None:
    writer = fed("a", "b", "a").group_by("k").len().writeStream.outputMode("Complete").queryName("counts")
    query = writer.format("memory").trigger(processingTime="10 milliseconds").start()
    try:
        query.processAllAvailable()
        assert query.isActive
        assert query.status.isTriggerActive in (True, False)
        assert (query.name, query.runId) == ("counts", query.run_id)
        assert query.lastProgress["numInputRows"] == query.lastProgress.numInputRows == 3
        assert query.awaitTermination(0) is False
        assert query in ub.streams.active
    finally:
        query.stop()
    assert sorted(query.read().collect().rows()) == [("a", 2), ("b", 1)]


def test_a_start_never_waits(tmp_path: Path) -> None:
    here = threading.Event()

    def write(batch: pl.DataFrame, batch_id: int) -> None:
        assert here.wait(10), "start() waited for the batch"

    writer = fed("a").write_stream.option("checkpointLocation", str(tmp_path / "ckpt"))
    query = writer.foreachBatch(write).trigger(availableNow=True).start()
    here.set()
    assert query.awaitTermination() is True


def test_files_are_written_with_sparks_defaults_and_options(tmp_path: Path) -> None:
    writer = fed("a", "b").write_stream.format("csv").trigger(once=True)
    writer.start(str(tmp_path / "out"), checkpointLocation=str(tmp_path / "ckpt")).awaitTermination()
    assert [file.read_text() for file in (tmp_path / "out").glob("*.csv")] == ["a\nb\n"]
    two = fed("a", "b").with_columns(n=pl.col("k")).write_stream.format("CSV").trigger(once=True).partition_by("k")
    two = two.options(header="true", path=str(tmp_path / "two"), checkpoint_location=str(tmp_path / "ckpt2"))
    two.start().awaitTermination()
    assert sorted(file.parent.name for file in (tmp_path / "two").rglob("*.csv")) == ["k=a", "k=b"]
    assert {file.read_text().split()[0] for file in (tmp_path / "two").rglob("*.csv")} == {"k,n"}


def test_a_start_takes_everything_at_once(tmp_path: Path) -> None:
    stream = fed("a").with_columns(n=1)
    query = stream.write_stream.start(tmp_path / "o", "json", "append", "k", "j", checkpointLocation=f"{tmp_path}/ckpt")
    query.processAllAvailable()
    query.stop()
    assert ub.read_sink(tmp_path / "o").select("k", "n").collect().rows() == [("a", 1)]
    assert query.name == "j"


def test_console_and_noop_write_what_sparks_do(capsys: pytest.CaptureFixture[str]) -> None:
    writer = fed(*"abc").write_stream.trigger(availableNow=True)
    writer.format("console").option("numRows", "2").option("truncate", False).start().awaitTermination()
    shown = capsys.readouterr().out
    assert "3 rows" in shown
    assert ("b" in shown, "│ c" in shown) == (True, False)
    writer.format("noop").option("checkpointLocation", "memory://noop").start().awaitTermination()
    assert capsys.readouterr().out == ""


def test_the_watermark_policy_has_sparks_name(tmp_path: Path) -> None:
    times = [ub.MemorySource({"t": pl.Datetime("us")}) for _ in "xy"]
    both = [ub.scan_memory(feed, name=name, watermark=("t", "1m")) for name, feed in zip("xy", times, strict=True)]
    writer = ub.concat(both).write_stream.format("memory").trigger(availableNow=True)
    query = writer.option("spark.sql.streaming.multipleWatermarkPolicy", "MAX").start()
    query.awaitTermination()
    assert "the max of x, y" in query.explain()


# ------------------------------------------------------------------------------------------- listening
class Spark:
    """A listener as one writes it for Spark."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def onQueryStarted(self, event: Any) -> None:  # noqa: N802
        self.heard.append(("started", event.name, event.id == event.runId))

    def onQueryProgress(self, event: Any) -> None:  # noqa: N802
        self.heard.append(("progress", event.progress.batchId, event.progress.numInputRows))

    def onQueryIdle(self, event: Any) -> None:  # noqa: N802
        if "idle" not in self.heard[-1]:
            self.heard.append(("idle", event.timestamp > "2024"))

    def onQueryTerminated(self, event: Any) -> None:  # noqa: N802
        self.heard.append(("terminated", event.exception, event.errorClassOnException))


def test_a_listener_written_for_spark_hears_sparks_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbounded.running.handle._IDLE", 0.0)
    listener = Spark()
    ub.streams.addListener(listener)
    try:
        query = fed("a", "b").write_stream.format("memory").queryName("q").start()
        query.processAllAvailable()
        query.stop()
    finally:
        ub.streams.removeListener(listener)
    fed("c").sink_memory(trigger=ub.available_now())
    assert listener.heard == [
        ("started", "q", False),
        ("progress", 0, 2),
        ("idle", True),
        ("terminated", None, None),
    ]


def fails(rows: pl.DataFrame, batch_id: int) -> None:
    raise ZeroDivisionError("division by zero")


def test_a_listener_hears_of_the_error_that_ended_a_query(tmp_path: Path) -> None:
    listener = Spark()
    ub.streams.add_listener(listener)
    try:
        query = fed("a").foreach_batch(fails, checkpoint=tmp_path / "ckpt")
        with pytest.raises(ZeroDivisionError):
            query.await_termination()
    finally:
        ub.streams.remove_listener(listener)
    assert listener.heard[-1] == ("terminated", "division by zero", None)


def test_any_termination_is_told_until_it_is_reset(tmp_path: Path) -> None:
    ub.streams.resetTerminated()
    assert ub.streams.awaitAnyTermination(0) is False
    fed("a").sink_memory(trigger=ub.available_now())
    assert ub.streams.awaitAnyTermination() is False, "its own call waited for it"
    long = fed("a").write_stream.format("memory").start()
    assert ub.streams.awaitAnyTermination(0.02) is False
    fed("a").write_stream.format("memory").trigger(availableNow=True).start().awaitTermination()
    assert ub.streams.awaitAnyTermination() is True
    ub.streams.resetTerminated()
    assert ub.streams.awaitAnyTermination(0.02) is False
    failing = fed("a").write_stream.option("checkpointLocation", str(tmp_path / "ckpt"))
    failed = failing.foreachBatch(fails).start()
    with pytest.raises(ZeroDivisionError):
        failed.awaitTermination()
    fed("a").write_stream.format("memory").trigger(availableNow=True).start().awaitTermination()
    with pytest.raises(ZeroDivisionError):
        ub.streams.awaitAnyTermination()
    long.stop()
    ub.streams.resetTerminated()


# -------------------------------------------------------------------------------------------- refusing
def reader(format: str, **options: Any) -> Any:
    return ub.read_stream.format(format).schema("id INT").options(**options)


REFUSED: dict[str, tuple[Any, str]] = {
    "reader option typo": (lambda: reader("csv", heder=True).load("in"), r"heder.*did you mean 'header'"),
    "writer option typo": (
        lambda: frame().write_stream.option("checkpointLocatoin", "x").start("out"),
        r"did you mean 'checkpointLocation'",
    ),
    "option of another format": (lambda: reader("json", sep=";").load("in"), r"format\('json'\) has no option 'sep'"),
    "no truth": (lambda: reader("csv", header="yes").load("in"), r"option\('header'\) is 'yes'.*True or False"),
    "no number": (lambda: reader("csv", maxFilesPerTrigger="all").load("in"), r"'all', and must be a whole number"),
    "no number below one": (lambda: reader("csv", maxFilesPerTrigger=0).load("in"), r"is 0, and must be"),
    "no text": (lambda: reader("csv", nullValue=1).load("in"), r"is 1, and must be text"),
    "two signs": (lambda: reader("csv", sep="||").load("in"), r"is '\|\|', and must be one sign"),
    "drop malformed": (lambda: reader("csv", mode="DROPMALFORMED").load("in"), r"DROPMALFORMED.*badRecordsPath"),
    "ignored files": (lambda: reader("csv", ignoreCorruptFiles="true").load("in"), r"nobody told"),
    "time format": (
        lambda: reader("csv", timestampFormat="dd/MM").load("in"),
        r"STRING in the schema.*to_datetime",
    ),
    "backslash quotes": (lambda: reader("csv", escape="\\").load("in"), r"two quotes only"),
    "many lines of json": (lambda: reader("json", multiLine="true").load("in"), r"jq -c"),
    "a guess of types": (lambda: reader("csv", inferSchema="true").load("in"), r"ub.infer_schema"),
    "two patterns": (lambda: reader("csv", pathGlobFilter="*.csv").load("in/*"), r"one pattern in load"),
    "no path to read": (lambda: reader("csv").load(), r"Write .load\(path\)"),
    "mode typo of records": (lambda: reader("csv", mode="PERMISIVE").load("in"), r"'permissive', 'failfast'"),
    "text of numbers": (lambda: reader("text").load("in"), r"one column of text.*value STRING"),
    "whole text": (lambda: reader("text", wholetext=True).load("in"), r"line by line"),
    "no schema": (lambda: ub.read_stream.schema(3), r"schema\(3\) is no schema"),  # type: ignore[arg-type]  # the point
    "unbuilt format": (lambda: ub.read_stream.orc("in"), r"format\('orc'\).*not built.*parquet"),
    "format typo": (lambda: reader("parqet").load("in"), r"did you mean 'parquet'"),
    "rate with a schema": (lambda: reader("rate").load(), r"Leave out .schema"),
    "table": (lambda: ub.read_stream.table("t"), r"no catalogue.*load\('t/'\)"),
    "to table": (lambda: frame().write_stream.toTable("t"), r"no catalogue.*start\('t/'\)"),
    "foreach": (lambda: frame().write_stream.foreach(print), r"foreachBatch\(function\).*iter_rows"),
    "clusterBy": (lambda: frame().write_stream.clusterBy("k"), r"clusterBy\('k'\).*partitionBy"),
    "unbuilt sink": (lambda: frame().write_stream.format("kafka").start(), r"not built"),
    "sink typo": (lambda: frame().write_stream.format("consle").start(), r"did you mean 'console'"),
    "no path to write": (lambda: frame().write_stream.start(), r"Write .start\(path\)"),
    "a path of nothing": (lambda: frame().write_stream.format("memory").start("out"), r"so a path means nothing"),
    "folders of nothing": (
        lambda: frame().write_stream.format("console").partitionBy("k").start(),
        r"so partitionBy means nothing",
    ),
    "no function": (lambda: frame().write_stream.format("foreachBatch").start(), r"Write .foreachBatch\(function\)"),
    "no checkpoint": (lambda: frame().write_stream.start("out"), r"checkpoint"),
    "continuous": (lambda: frame().write_stream.trigger(continuous="1 second"), r"micro-batches.*processingTime"),
    "real time": (lambda: frame().write_stream.trigger(realTime="5 minutes"), r"micro-batches"),
    "two triggers": (lambda: frame().write_stream.trigger(once=True, availableNow=True), r"exactly one"),
    "no trigger": (lambda: frame().write_stream.trigger(), r"exactly one"),
    "a trigger that is not": (lambda: frame().write_stream.trigger(availableNow=False), r"says what not to do"),
    "mode typo": (lambda: frame().write_stream.format("memory").outputMode("apend").start(), r"'append', 'update'"),
    "retention": (lambda: frame().write_stream.option("retention", "1d").start("out"), r"keeps every row"),
    "snappy csv": (lambda: frame().write_stream.format("csv").option("compression", "snappy").start("o"), r"'gzip'"),
    "a deaf listener": (lambda: ub.streams.addListener(object()), r"on_query_started"),  # type: ignore[arg-type]  # the point
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_as_in_spark_is_refused_with_what_to_write(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    write, sentence = REFUSED[case]
    with pytest.raises(ub.PlanError, match=sentence):
        write()


@pytest.mark.parametrize(
    ("table", "name"),
    [(table, name) for tables in (READING, WRITING) for table in tables.values() for name in table],
)
def test_every_option_takes_a_value_or_says_what_to_write(table: Options, name: str) -> None:
    def answer(value: object) -> str:
        try:
            return repr(understood({name: value}, table, "call"))
        except ub.PlanError as error:
            return str(error)

    said = [answer(value) for value in ("true", "false", "1", ";", "permissive", "gzip", "min", "id INT", "/x")]
    assert [one for one in said if not re.search(r"^\{|Write |Instead: ...|must be ", one)] == []
    assert understood({name.upper(): None}, table, "call") == {}


def test_what_spark_must_be_told_is_asked_for_in_its_own_words(tmp_path: Path) -> None:
    rows = ub.scan_memory(ub.MemorySource({"k": pl.String}))
    for writer in (rows.write_stream.format("parquet"), rows.write_stream.foreachBatch(lambda rows, batch_id: None)):
        with pytest.raises(ub.PlanError, match=r"\.option\('checkpointLocation', 'ckpt/<name>'\)"):
            writer.start(str(tmp_path / "out") if writer._format == "parquet" else None)
    for format in ("csv", "json"):
        with pytest.raises(ub.PlanError, match=rf"format\('{format}'\) has no schema.*\.schema\('id INT"):
            ub.read_stream.format(format).load(str(tmp_path))
    with pytest.raises(ub.PlanError, match=r"did you mean 'parquet'\? Write one of"):
        ub.read_stream.format("parqet").load(str(tmp_path))
