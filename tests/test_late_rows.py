"""Are the rows that come too late kept in the folder of `late=`, all of them and each exactly once?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unbounded as ub
from tests.language import same_rows
from unbounded.checkpoint import Checkpoint
from unbounded.plan import evaluate
from unbounded.query import MicroBatches
from unbounded.sinks.files import FileSink
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import LocalStorage
from unbounded.testing.contracts.tables import content

START = datetime(2026, 3, 1)
SCHEMA: dict[str, Any] = {"k": pl.String, "x": pl.Int64, "t": pl.Datetime("us")}

Rows = list[dict[str, Any]]


def at(*minutes: float, k: str = "a") -> Rows:
    return [{"k": k, "x": round(m * 10), "t": START + timedelta(minutes=m)} for m in minutes]


def marked(frame: Any) -> Any:
    return frame.pipe(ub.with_watermark, "t", "5m")


def windows(frame: Any, *, every: str = "10m", period: str | None = None, **more: Any) -> Any:
    return marked(frame).group_by_dynamic("t", every=every, period=period, **more).agg(pl.len(), pl.col("x").sum())


class Death(BaseException):
    """The process is gone."""


class DyingStorage(LocalStorage):
    """A checkpoint whose process dies in front of the commit of one batch, or behind it."""

    dies: tuple[str, int] | None = None

    def put(self, name: str, data: bytes) -> None:
        at = self.dies
        if at is not None and at == ("before", int(name[-12:]) if name.startswith("commits/") else -1):
            raise Death
        super().put(name, data)
        if at is not None and at == ("behind", int(name[-12:]) if name.startswith("commits/") else -1):
            raise Death


class Query:
    """A query into files, with its late rows beside."""

    def __init__(self, place: Path, pipeline: Any, *, mode: Any = "append") -> None:
        self.feed, self._place, self._pipeline, self._mode = ub.MemorySource(SCHEMA), place, pipeline, mode
        self.storage = DyingStorage(str(place / "checkpoint"))
        self.dropped = 0
        self.start()

    def start(self) -> None:
        self.plan = self._pipeline(ub.scan_memory(self.feed))._plan
        self._batches = MicroBatches(
            self.plan,
            FileSink(self._place / "out", "ipc"),
            mode=self._mode,
            checkpoint=Checkpoint(self.storage),
            home=MemoryHome(self.storage),
            late=self._place / "late",
        )
        self._batches.open()

    def batch(self, rows: Rows) -> Query:
        self.feed.add(rows)
        while (ran := self._batches.run_once()) is not None:
            self.dropped += sum(one.num_rows_dropped_by_watermark for one in ran.state_operators)
        return self

    def restart(self) -> Query:
        self._batches.close()
        self.storage.dies = None
        self.start()
        return self

    def end(self) -> Query:
        self.batch([])
        ran = self._batches.finish()
        self.dropped += sum(one.num_rows_dropped_by_watermark for one in ran.state_operators) if ran else 0
        return self

    def answer(self) -> pl.DataFrame:
        return ub.read_sink(self._place / "out").collect()

    def late(self, operator: str) -> pl.DataFrame:
        return pl.read_parquet(self.late_folder / operator / "*.parquet")

    @property
    def late_folder(self) -> Path:
        return self._place / "late"

    @property
    def files(self) -> list[str]:
        """What lies about, staged or shown, without the parts of names that differ in each run."""
        found = [path for top in ("late", "late._unbounded") for path in (self._place / top).rglob("*.parquet")]
        return sorted(f"{path.relative_to(self._place).parent}/{path.name.split('-')[1]}" for path in found)


def test_late_rows_are_as_they_came_with_the_step_and_the_watermark(tmp_path: Path) -> None:
    query = Query(tmp_path, lambda f: windows(f.with_columns(double=pl.col("x") * 2), group_by="k"))
    query.batch(at(1, 30)).batch(at(2, 21, k="b")).batch(at(3))
    mark = datetime(2026, 3, 1, 0, 25, tzinfo=UTC)
    assert query.late("aggregate-1").sort("x").to_dicts() == [
        {
            **row,
            "double": row["x"] * 2,
            "_operator": "aggregate-1",
            "_watermark": mark,
            "_window": START,
        }
        for row in (*at(2, k="b"), *at(3))
    ]
    assert query.dropped == 2
    assert query.answer()["len"].sum() == 1


def test_a_row_is_late_as_soon_as_the_watermark_has_reached_the_end_of_its_window(tmp_path: Path) -> None:
    query = Query(tmp_path, lambda f: windows(f, every="5m")).batch(at(30)).batch(at(24.9, 25))  # it is at 25
    assert query.late("aggregate-1")["x"].to_list() == [249]
    assert query.dropped == 1


def test_each_window_for_which_a_row_is_late_has_it_once(tmp_path: Path) -> None:
    query = Query(tmp_path, lambda f: windows(f, every="10m", period="30m"))
    query.batch(at(1, 30)).batch(at(12))  # the watermark is at 25: [-10, 20) is over, [0, 30) and [10, 40) are not
    assert query.late("aggregate-1").select("x", "_window").rows() == [(120, START - timedelta(minutes=10))]
    assert query.dropped == 1


STEPS: dict[str, tuple[Any, str]] = {
    "unique": (lambda f: marked(f).unique(["k", "t"]), "unique-1"),
    "unique within the watermark": (lambda f: marked(f).unique_within_watermark("k"), "unique-1"),
    "merge_sorted": (lambda f: marked(f).merge_sorted(marked(f), "t"), "merge_sorted-1"),
    "rows in order": (
        lambda f: marked(f).select("t", "x", y=pl.col("x").shift().over(order_by="t")),
        "over-1",
    ),
    "windows around rows": (
        lambda f: marked(f).rolling("t", period="5m", offset="0m", group_by="k").agg(pl.col("x").sum()),
        "rolling-1",
    ),
    "a raw time": (lambda f: marked(f).group_by("t").agg(pl.len()), "aggregate-1"),
    "a truncated time": (
        lambda f: marked(f).group_by(pl.col("t").dt.truncate("10m"), "k").agg(pl.col("x").max()),
        "aggregate-1",
    ),
    "an ordered aggregate": (
        lambda f: marked(f).group_by_dynamic("t", every="10m").agg(pl.col("x").first()),
        "aggregate-1",
    ),
    "values": (
        lambda f: marked(f).group_by_dynamic("t", every="10m").agg(pl.col("x").median()),
        "aggregate-1",
    ),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_that_counts_late_rows_can_say_which(step: str, tmp_path: Path) -> None:
    pipeline, operator = STEPS[step]
    query = Query(tmp_path, pipeline).batch(at(1, 30)).batch(at(2, 40)).batch(at(3, 4, 50))
    found = query.late(operator)
    assert found.height == query.dropped > 0
    assert set(found["x"]) == {20, 30, 40}
    assert ("_window" in found.columns) == ("aggregate" in step or step == "values")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.lists(st.integers(0, 18).map(lambda n: 5 * n), max_size=6), min_size=1, max_size=6),
    period=st.sampled_from(["10m", "20m", "25m", "3m"]),
    restarts=st.sets(st.integers(0, 5)),
)
def test_the_answer_and_the_late_rows_are_together_all_rows(
    cuts: list[list[int]], period: str, restarts: set[int], tmp_path_factory: Any
) -> None:
    """Windows of some length, as counts and sums."""
    query = Query(tmp_path_factory.mktemp("query"), lambda f: windows(f, period=period, group_by="k"))
    for i, cut in enumerate(cuts):
        query.batch(at(*cut, k="ab"[i % 2]))
        if i in restarts:
            query.restart()
    query.end()
    everything = pl.DataFrame([row for i, cut in enumerate(cuts) for row in at(*cut, k="ab"[i % 2])], SCHEMA)
    parts = [query.answer()]
    if query.dropped:
        late = query.late("aggregate-1").group_by("k", "_window").agg(pl.len(), pl.col("x").sum())
        parts.append(late.rename({"_window": "t"}).select(parts[0].columns))
    together = pl.concat(parts).group_by("k", "t").agg(pl.col("len").sum(), pl.col("x").sum())
    expected = evaluate(query.plan, {"memory": everything.lazy()}).collect()
    same_rows(together.select(expected.columns).cast(expected.schema), expected, key=["k", "t"])


@pytest.mark.parametrize("death", ["before", "behind"])
def test_a_crash_neither_loses_nor_doubles_late_rows(death: str, tmp_path: Path) -> None:
    query = Query(tmp_path, windows).batch(at(1, 30))
    query.storage.dies = (death, 2)
    with pytest.raises(Death):
        query.batch(at(2, 31))
    assert query.files == ["late._unbounded/aggregate-1/000000000002"]  # nobody has seen them yet
    query.restart().batch(at(3))
    assert query.late("aggregate-1")["x"].sort().to_list() == [20, 30]
    assert query.files == [f"late/aggregate-1/{batch:012d}" for batch in (2, 3)]


def test_what_an_attempt_staged_that_never_happened_is_removed(tmp_path: Path) -> None:
    def take(rows: pl.DataFrame, batch: int) -> None:
        if fails and batch == 2:
            raise OSError("the disk is full")

    feed, fails = ub.MemorySource(SCHEMA), [True]
    options: dict[str, Any] = {"checkpoint": tmp_path / "checkpoint", "late": tmp_path / "late"}
    for rows in (at(1, 30), at(2), []):
        feed.add(rows)
        try:
            windows(ub.scan_memory(feed)).foreach_batch(take, trigger=ub.available_now(), **options)
        except OSError:
            fails.clear()
    found = [path for top in ("late", "late._unbounded") for path in (tmp_path / top).rglob("*.parquet")]
    assert [path.parts[-3:-1] for path in found] == [("late", "aggregate-1")]
    assert pl.read_parquet(found)["x"].to_list() == [20]


def test_explain_says_where_they_are(tmp_path: Path) -> None:
    query = windows(ub.scan_memory(ub.MemorySource(SCHEMA))).sink_memory(
        trigger=ub.available_now(), late=tmp_path / "late"
    )
    assert f"late rows: kept in {tmp_path / 'late'}, exactly-once" in query.explain()
    assert "had closed; kept aside and counted" in query.explain()
    assert "null:    rows whose 't' is null; dropped and counted" in query.explain()


def test_a_step_of_other_columns_has_a_folder_of_its_own(tmp_path: Path) -> None:
    query = Query(tmp_path, lambda f: windows(f.with_watermark("t", "5m").unique(["k", "t"]).drop("k")))
    query.batch(at(1, 30)).batch(at(2, 31, 22))
    assert query.late("unique-1").columns == ["k", "x", "t", "_operator", "_watermark"]
    assert query.late("unique-1")["x"].sort().to_list() == [20, 220]  # and so none is late for the windows
    assert not (tmp_path / "late" / "aggregate-1").exists()


def sides(frame: Any) -> tuple[Any, Any]:
    """Rows of key a, and those of others without their key, each with the hour in which they are."""
    rows = marked(frame).with_columns(hour=pl.col("t").dt.truncate("1h"))
    return rows.filter(pl.col("k") == "a"), rows.filter(pl.col("k") != "a").drop("k")


def joined(frame: Any, how: Any = "inner") -> Any:
    ours, theirs = sides(frame)
    return ours.join(theirs, on="hour", how=how)


def test_each_side_of_a_join_has_a_folder_for_its_late_rows(tmp_path: Path) -> None:
    query = Query(tmp_path, joined).batch(at(1, 90) + at(2, k="b")).batch(at(3) + at(4, 70, k="b")).batch(at(5))
    hour = {"hour": START, "_operator": "join-1/left", "_watermark": datetime(2026, 3, 1, 1, 25, tzinfo=UTC)}
    assert query.late("join-1/left").sort("x").to_dicts() == [{**row, **hour} for row in at(3, 5)]
    assert query.late("join-1/right").columns == ["x", "t", "hour", "_operator", "_watermark"]
    assert query.late("join-1/right")["x"].to_list() == [40]
    assert query.dropped == 3


def test_both_sides_of_join_asof_have_a_folder_for_their_late_rows(tmp_path: Path) -> None:
    def nearest(frame: Any) -> Any:
        ours, theirs = sides(frame)
        return ours.join_asof(theirs.select("t", y="x"), on="t")

    query = Query(tmp_path, nearest).batch(at(1, 90) + at(2, k="b")).batch(at(3) + at(4, 95, k="b")).batch(at(5))
    assert query.late("join_asof-1/left")["x"].sort().to_list() == [30, 50]
    assert query.late("join_asof-1/right").select("y", "_operator").rows() == [(40, "join_asof-1/right")]
    assert query.dropped == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(
        st.lists(st.tuples(st.integers(0, 60).map(lambda n: 5 * n), st.sampled_from("ab")), max_size=6),
        min_size=1,
        max_size=6,
    ),
    how=st.sampled_from(["inner", "left", "right", "full", "semi", "anti"]),
    restarts=st.sets(st.integers(0, 5)),
)
def test_the_answer_of_a_join_is_that_of_the_rows_which_are_not_kept_as_late(
    cuts: list[list[tuple[int, str]]], how: str, restarts: set[int], tmp_path_factory: Any
) -> None:
    query = Query(tmp_path_factory.mktemp("query"), lambda f: joined(f, how))
    came = [
        [row for i, (minute, k) in enumerate(cut) for row in at(minute + i / 10 + batch / 100, k=k)]
        for batch, cut in enumerate(cuts)
    ]
    for i, cut in enumerate(came):
        query.batch(cut)
        if i in restarts:
            query.restart()
    query.end()
    everything = pl.DataFrame([row for cut in came for row in cut], SCHEMA)
    assert everything["t"].n_unique() == everything.height
    late = [query.late(f"join-1/{path.name}").select("t") for path in (query.late_folder / "join-1").glob("*")]
    gone = pl.concat([everything.select("t").clear(), *late])
    assert gone.height == query.dropped
    kept = everything.join(gone, on="t", how="anti")
    assert kept.height == everything.height - gone.height
    expected = evaluate(query.plan, {"memory": kept.lazy()}).collect()
    assert content(query.answer().select(expected.columns)) == content(expected)


@pytest.mark.parametrize("death", ["before", "behind"])
def test_a_crash_neither_loses_nor_doubles_late_rows_of_a_join(death: str, tmp_path: Path) -> None:
    query = Query(tmp_path, joined).batch(at(1, 90))
    query.storage.dies = (death, 2)
    with pytest.raises(Death):
        query.batch(at(2, 91) + at(3, k="b"))
    assert query.files == [f"late._unbounded/join-1/{side}/000000000002" for side in ("left", "right")]
    query.restart().batch(at(4, k="b"))
    assert query.late("join-1/left")["x"].to_list() == [20]
    assert query.late("join-1/right")["x"].sort().to_list() == [30, 40]
