"""What a query remembers can be read as tables, for every retained batch, without the query and beside it."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import unbounded as ub
from tests.elsewhere import two_more_homes
from tests.test_laws import AGGREGATES, SCHEMA
from unbounded.checkpoint import Checkpoint
from unbounded.errors import CorruptRecordError
from unbounded.operators.answer import Answer
from unbounded.query import MicroBatches
from unbounded.sinks.memory import MemorySink
from unbounded.state import TableSpec
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import decode, encode, open_storage
from unbounded.testing import same_rows

START = datetime(2026, 3, 1)


def batch_of(n: int, size: int = 12) -> pl.DataFrame:
    """The n-th batch: nulls, NaN and both zeros in it."""
    floats = [0.0, -0.0, 1.5, float("nan"), None, n * 0.25]
    return pl.DataFrame(
        {
            "k": [("a", "b", None)[(i + n) % 3] for i in range(size)],
            "g": [i % 2 for i in range(size)],
            "x": [floats[(i * n) % 6] for i in range(size)],
            "n": [n * 10 + i * i for i in range(size)],
            "b": [i % 3 == 0 for i in range(size)],
            "t": [START + timedelta(minutes=10 * n + i) for i in range(size)],
        },
        schema=SCHEMA,
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Running:
    """A query over a feed, a batch for every `add`, in a checkpoint that is gone with the test."""

    def __init__(self, pipeline: Callable[[Any], Any], mode: Any = "update") -> None:
        self.feed, self.rows = ub.MemorySource(SCHEMA), pl.DataFrame(schema=SCHEMA)
        self.place = f"memory://read-state-{uuid.uuid4()}"
        self._pipeline, self._mode, self._sink = pipeline, mode, MemorySink()

    def add(self, rows: pl.DataFrame, **options: Any) -> ub.StreamingQuery:
        self.rows = pl.concat([self.rows, rows])
        self.feed.add(rows)
        frame = self._pipeline(ub.scan_memory(self.feed))
        options = {"output_mode": self._mode, "trigger": ub.available_now(), **options}
        query: ub.StreamingQuery = frame.sink(self._sink, checkpoint=self.place, **options)
        return query


@pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")
def test_every_aggregate_is_read_as_polars_gives_it_after_every_batch() -> None:
    running = Running(lambda frame: frame.group_by("k").agg(AGGREGATES))
    for n in range(3):
        running.add(batch_of(n))
    for n in range(3):
        expected = running.rows.head(12 * (n + 1)).group_by("k").agg(AGGREGATES)
        found = ub.read_state(running.place, batch_id=n).collect()
        assert found.schema == expected.schema
        same_rows(found, expected, key=["k"])


@pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")
def test_sketches_are_read_as_the_query_shows_them() -> None:
    wanted = [pl.col("n").approx_n_unique().alias("n"), pl.col("x").approx_quantile([0.1, 0.5]).alias("q")]
    running = Running(lambda frame: frame.group_by("k").agg(wanted))
    query = running.add(batch_of(1))
    same_rows(ub.read_state(running.place).collect(), query.read().collect(), key=["k"])


def test_windows_stand_in_their_columns_and_having_leaves_no_group_out() -> None:
    running = Running(
        lambda frame: (
            frame.with_watermark("t", "1h")
            .group_by_dynamic("t", every="5m", include_boundaries=True, group_by="k")
            .having(pl.len() > 100)
            .agg(pl.col("n").mean().alias("mean"))
        )
    )
    assert running.add(batch_of(0)).read().collect().is_empty()
    expected = running.rows.group_by_dynamic("t", every="5m", include_boundaries=True, group_by="k").agg(
        pl.col("n").mean().alias("mean")
    )
    found = ub.read_state(running.place).collect()
    assert found.columns == expected.columns
    same_rows(found, expected, key=["k", "t"])


def test_closed_windows_are_gone_and_older_batches_still_have_them() -> None:
    windows = lambda frame: frame.with_watermark("t", "0s").group_by_dynamic("t", every="5m").agg(pl.len())  # noqa: E731
    running = Running(windows, "append")
    running.add(batch_of(0))
    running.add(batch_of(6))
    opened = [ub.read_state(running.place, batch_id=n).collect()["t"].min() for n in (0, 3)]
    assert opened == [START, START + timedelta(minutes=70)]


def test_the_time_of_a_batch_is_the_one_it_had() -> None:
    running = Running(lambda frame: frame.group_by("k").agg(ub.current_timestamp().alias("now")))
    query = running.add(batch_of(0))
    shown = query.read().collect()
    running.add(batch_of(1))
    assert ub.read_state(running.place, batch_id=0).collect()["now"].unique().to_list() == [shown["now"][0]]


OTHERS: dict[str, tuple[Callable[[Any], Any], Any, Callable[[pl.DataFrame], pl.DataFrame]]] = {
    "unique": (lambda f: f.unique(["k", "g"]), "append", lambda rows: rows.select("k", "g").unique()),
    "top_k": (lambda f: f.top_k(4, by="n"), "complete", lambda rows: rows.top_k(4, by="n")),
    "tail": (lambda f: f.tail(3), "complete", lambda rows: rows.tail(3)),
    "slice": (lambda f: f.head(100), "append", lambda rows: pl.DataFrame({"rows": [rows.height]})),
    "with_row_index": (lambda f: f.with_row_index(), "append", lambda rows: pl.DataFrame({"rows": [rows.height]})),
    "aggregate": (lambda f: f.select(pl.len(), pl.col("n").var()), "update", lambda r: r.select(pl.len(), pl.var("n"))),
}


@pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_other_operators_show_their_rows_under_the_users_names(kind: str) -> None:
    pipeline, mode, expected = OTHERS[kind]
    running = Running(pipeline, mode)
    running.add(batch_of(1))
    running.add(batch_of(2))
    same_rows(ub.read_state(running.place).collect(), expected(running.rows))
    same_rows(ub.read_state(running.place, f"{kind}-1").collect(), expected(running.rows))


def test_rows_that_wait_for_their_order_are_shown_in_it() -> None:
    def merged(frame: Any) -> Any:
        other = ub.scan_memory(ub.MemorySource(SCHEMA), name="other").with_watermark("t", "1h")
        return frame.with_watermark("t", "1h").merge_sorted(other, "t")

    running = Running(merged, "append")
    running.add(batch_of(0).reverse())
    assert_frame_equal(ub.read_state(running.place).collect(), batch_of(0))


def test_raw_shows_the_parts_and_the_metadata_says_what_they_are() -> None:
    running = Running(lambda frame: frame.group_by("k").agg(pl.col("x").mean().alias("m"), pl.len().alias("rows")))
    running.add(batch_of(1))
    said = ub.read_state_metadata(running.place).collect().rows(named=True)
    assert [(one["operator"], one["kind"], one["table"], one["home"]) for one in said] == [
        ("aggregate-1", "aggregate", "groups", "memory")
    ]
    assert said[0]["key"] == ["k: String"]
    (count,) = (text.partition(":")[0] for text in said[0]["values"] if 'count of col("x")' in text)
    found = ub.read_state(running.place, raw=True).collect()
    expected = running.rows.group_by("k").agg(pl.col("x").count().cast(pl.Int64).alias(count))
    same_rows(found.select("k", count), expected)
    assert_frame_equal(ub.read_state(running.place, "aggregate-1/groups").collect(), found, check_row_order=False)


@pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")
def test_values_beside_the_groups_are_tables_of_their_own() -> None:
    running = Running(lambda frame: frame.group_by("k").agg(pl.col("n").n_unique()))
    running.add(batch_of(1))
    tables = ub.read_state_metadata(running.place).collect()["table"].to_list()
    assert len(tables) == 2
    groups = ub.read_state(running.place, "aggregate-1/groups").collect()
    assert_frame_equal(ub.read_state(running.place, raw=True).collect(), groups, check_row_order=False)
    (beside,) = set(tables) - {"groups"}
    assert ub.read_state(running.place, f"aggregate-1/{beside}").collect().height == running.rows["n"].n_unique()


def test_an_operator_is_asked_for_by_name_where_there_are_several() -> None:
    running = Running(lambda frame: frame.with_watermark("t", "1h").unique(["k", "t"]).group_by("k").len())
    running.add(batch_of(0))
    with pytest.raises(ub.PlanError, match=r"2 operators .* operator= one of 'aggregate-1', 'unique-1'"):
        ub.read_state(running.place)
    with pytest.raises(ub.PlanError, match=r"'agregate-1' is not in .*; did you mean 'aggregate-1'\?"):
        ub.read_state(running.place, "agregate-1")
    with pytest.raises(ub.PlanError, match=r"unique-1 keeps no table 'groups' \(there are: 'unique-1/seen'\)"):
        ub.read_state(running.place, "unique-1/groups")
    assert ub.read_state(running.place, "unique-1").collect().columns == ["k", "t"]
    assert ub.read_state_metadata(running.place).collect()["operator"].to_list() == ["aggregate-1", "unique-1"]


@pytest.mark.parametrize("batch", [True, 0.0, "0"])
def test_an_operator_or_a_batch_of_a_wrong_type_is_refused_with_those_that_are_there(batch: Any) -> None:
    running = Running(lambda frame: frame.group_by("k").len())
    running.add(batch_of(0))
    with pytest.raises(ub.PlanError, match=rf"batch_id is {batch!r}, and batches are numbered.*from 0 to 0"):
        ub.read_state(running.place, batch_id=batch)
    wrong: Any = 1
    with pytest.raises(ub.PlanError, match=r"operator is 1, and operators have names.* one of 'aggregate-1'"):
        ub.read_state(running.place, wrong)


def test_no_code_is_written_into_a_checkpoint_nor_read_from_it() -> None:
    table = TableSpec(pl.Schema(), pl.Schema({"a": pl.Int64()}), (pl.col("a").sum(),), None)
    honest = Answer("groups", (pl.col("a") + 1,)).record()
    assert len(Answer.of(honest, table).columns) == 1
    assert Answer("groups", (pl.col("a").map_batches(abs),)).record()["columns"] is None
    evil = pl.col("a").name.map(str.upper).meta.serialize()  # which Polars would unpickle
    with pytest.raises(CorruptRecordError, match="code"):
        Answer.of({**honest, "columns": [_text(evil)]}, table)


def test_every_batch_is_read_under_the_names_it_had() -> None:
    names = iter(["before", "after"])
    running = Running(lambda frame: frame.group_by("k").agg(pl.col("n").sum().alias(next(names))), "complete")
    running.add(batch_of(0))
    assert ub.read_state(running.place).collect().columns == ["k", "before"]
    running._sink = MemorySink()
    running.add(batch_of(1))
    assert [ub.read_state(running.place, batch_id=n).collect().columns[1] for n in (0, 1)] == ["before", "after"]


def test_a_query_started_again_as_it_was_writes_no_second_description() -> None:
    running = Running(lambda frame: frame.group_by("k").agg(ub.current_timestamp().alias("now"), pl.len()))
    for n in range(3):
        running.add(batch_of(n))
    assert open_storage(running.place).names("operators") == [f"{0:012d}"]


def test_reading_beside_a_running_query_disturbs_nothing(tmp_path: Path) -> None:
    feed = ub.MemorySource(SCHEMA)
    feed.add(batch_of(0))
    counted = ub.scan_memory(feed).group_by("k").agg(pl.len())
    query = counted.sink_parquet(tmp_path / "out", checkpoint=tmp_path / "ckpt", output_mode="update")
    query.process_all_available()
    before = sorted(tmp_path.rglob("*"))
    same_rows(ub.read_state(tmp_path / "ckpt").collect(), batch_of(0).group_by("k").agg(pl.len()))
    assert sorted(tmp_path.rglob("*")) == before
    feed.add(batch_of(1))
    query.process_all_available()
    query.stop()
    both = pl.concat([batch_of(0), batch_of(1)]).group_by("k").agg(pl.len())
    same_rows(ub.read_state(tmp_path / "ckpt").collect(), both)


def test_a_reader_whose_batch_is_deleted_meanwhile_reads_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbounded.checkpoint.RETAIN", 2)
    records = open_storage(f"memory://passed-{uuid.uuid4()}")
    feed = ub.MemorySource(SCHEMA)
    batches = MicroBatches(
        ub.scan_memory(feed).group_by("k").agg(pl.len())._plan,
        MemorySink(),
        mode="update",
        checkpoint=Checkpoint(records),
        home=MemoryHome(records, retain=2, fan=2),
    )
    batches.open()

    def run(count: int) -> None:
        for _ in range(count):
            feed.add(batch_of(0))
            batches.run_once()

    run(1)
    looked = MemoryHome.look

    def late(home: MemoryHome, ref: Any) -> None:
        monkeypatch.setattr(MemoryHome, "look", looked)
        run(8)
        looked(home, ref)

    monkeypatch.setattr(MemoryHome, "look", late)
    assert ub.read_state(records.url).collect()["len"].sum() == 9 * 12
    with pytest.raises(ub.CheckpointError, match=r"batch 0 is not retained.* from [1-7] to 8"):
        ub.read_state(records.url, batch_id=0)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    ub.scan_memory(_fed()).group_by("k").agg(pl.len()).sink_parquet(
        tmp_path / "out", checkpoint=tmp_path / "ckpt", output_mode="update", trigger=ub.available_now()
    )
    (record,) = (tmp_path / "ckpt" / "state").iterdir()
    record.write_bytes(record.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptRecordError, match=record.name):
        ub.read_state(tmp_path / "ckpt")


def test_a_checkpoint_without_state_says_so(tmp_path: Path) -> None:
    with pytest.raises(ub.CheckpointError, match=r"no batch, so there is no state.*Check the path"):
        ub.read_state(tmp_path / "nothing")
    rows = Running(lambda frame: frame.filter(pl.col("n") > 3), "append")
    rows.add(batch_of(0))
    for read in (ub.read_state, ub.read_state_metadata):
        with pytest.raises(ub.CheckpointError, match=r"remembers nothing.*query\.read\(\)"):
            read(rows.place)
    with pytest.raises(ub.CheckpointError, match=r"batch 7 is not retained .* from 0 to 0"):
        ub.read_state(rows.place, batch_id=7)


def test_a_checkpoint_of_an_earlier_version_says_so() -> None:
    running = Running(lambda frame: frame.group_by("k").len())
    running.add(batch_of(0))
    open_storage(running.place).remove([f"operators/{0:012d}"])
    with pytest.raises(ub.CheckpointError, match=r"what the state of batch 0 means.*Start the query once"):
        ub.read_state(running.place)
    running.add(batch_of(1))
    same_rows(ub.read_state(running.place).collect(), running.rows.group_by("k").len())


@pytest.mark.parametrize(
    ("columns", "sentence"), [([_text(b"\x81\xa7NoNodes\xc0")], "another version of Polars"), (None, "without code")]
)
def test_an_answer_that_cannot_be_made_is_readable_raw(columns: Any, sentence: str) -> None:
    running = Running(lambda frame: frame.group_by("k").len())
    running.add(batch_of(0))
    storage, name = open_storage(running.place), f"operators/{0:012d}"
    record, _ = decode(storage.read(name), "operators", 0, name)
    record["described"]["operators"]["aggregate-1"]["answer"]["columns"] = columns
    storage.remove([name])
    storage.put(name, encode("operators", 0, record))
    with pytest.raises(ub.PlanError, match=rf'{sentence}.*operator="aggregate-1/groups"'):
        ub.read_state(running.place)
    assert ub.read_state(running.place, raw=True).collect().height == 3


def test_a_home_that_needs_a_url_is_told_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    two_more_homes(monkeypatch)
    url = f"postgresql://ada:secret@read-{uuid.uuid4()}"
    running = Running(lambda frame: frame.group_by("k").len())
    running.add(batch_of(0), state=url)
    with pytest.raises(ub.PlanError, match=r"lies in the home 'postgresql'.*URL .*Write state=\"postgresql://user"):
        ub.read_state(running.place)
    with pytest.raises(ub.PlanError, match=r"home 'postgresql' and not in 'memory'"):
        ub.read_state(running.place, state="memory")
    same_rows(ub.read_state(running.place, state=url).collect(), running.rows.group_by("k").len())
    assert ub.read_state_metadata(running.place).collect()["home"].to_list() == ["postgresql"]


def test_credentials_stand_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_more_homes(monkeypatch)
    url = f"postgresql://ada:secret@read-{uuid.uuid4()}?password=secret"
    query = (
        ub.scan_memory(_fed())
        .group_by("k")
        .len()
        .sink_parquet(
            tmp_path / "out", checkpoint=tmp_path / "ckpt", output_mode="update", trigger=ub.available_now(), state=url
        )
    )
    assert query.last_progress is not None
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (written.decode("latin1"), repr(query), query.explain(), query.last_progress.json):
        assert "secret" not in text
    assert "secret" not in repr(ub.postgresql_state(url))


def _fed() -> ub.MemorySource:
    feed = ub.MemorySource(SCHEMA)
    feed.add(batch_of(0))
    return feed
