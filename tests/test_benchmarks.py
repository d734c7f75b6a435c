"""Do the benchmarks measure what they say? Their queries have the same answers everywhere, and a wrong one is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from tests.benchmarks.answers import answer_of
from tests.benchmarks.budgets import Finding, findings
from tests.benchmarks.events import Events, generate
from tests.benchmarks.queries import QUERIES, Query
from tests.benchmarks.results import LAST_RUN, load, save
from tests.benchmarks.runs import limit_run, unbounded_run
from tests.benchmarks.tables import as_markdown, as_text

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Events:
    """Half a minute of events, so that windows close behind the watermark."""
    return generate(tmp_path_factory.mktemp("events"), 15_000, 4, per_second=500)


@pytest.mark.filterwarnings("ignore::unbounded.UnboundedStateWarning")
@pytest.mark.parametrize("query", QUERIES, ids=[query.name for query in QUERIES])
def test_a_query_has_the_answer_of_plain_polars(query: Query, events: Events, tmp_path: Path) -> None:
    ours = unbounded_run(query, events, tmp_path, files=2)
    assert ours.answer.agrees(limit_run(query, events, tmp_path).answer)
    assert ours.answer.rows > 0
    assert len(ours.batch_ms) == 2


ROWS = pl.LazyFrame({"k": [1, 2, 3], "s": ["a", "b", None], "v": [0.1, 0.2, None]})


def test_the_order_of_rows_and_the_width_of_integers_do_not_change_an_answer() -> None:
    assert answer_of(ROWS.reverse().cast({"k": pl.UInt8})).agrees(answer_of(ROWS))


@pytest.mark.parametrize(
    "wrong",
    [
        ROWS.head(2),
        pl.concat([ROWS, ROWS.head(1)]),
        ROWS.with_columns(pl.col("s").reverse()),
        ROWS.with_columns(pl.col("k").reverse()),
        ROWS.with_columns(pl.col("v").shift(1)),
        ROWS.with_columns(pl.col("v") * (1 + 1e-6)),
        ROWS.rename({"v": "w"}),
    ],
)
def test_a_wrong_value_or_one_in_another_row_is_a_wrong_answer(wrong: pl.LazyFrame) -> None:
    assert not answer_of(wrong).agrees(answer_of(ROWS))


def test_a_figure_holds_the_best_bound_that_it_reaches() -> None:
    at_most = Finding("time", "x", 1.0, must=3, goal=1.5)
    verdicts = [replace(at_most, found=found).verdict for found in (1.5, 1.6, 3.1)]
    assert verdicts == ["goal", "must", "MISSED"]
    at_least = Finding("speed", "x", 1.0, must=20, goal=40, at_least=True)
    assert [replace(at_least, found=found).verdict for found in (40, 39, 19)] == ["goal", "must", "MISSED"]


def test_the_last_run_can_be_read_and_shown(tmp_path: Path) -> None:
    results = load(LAST_RUN)
    save(results, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == LAST_RUN.read_text()
    assert all(one.measure in as_text(results) for one in findings(results))


def test_the_readme_shows_the_last_run() -> None:
    assert as_markdown(load(LAST_RUN)) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", BENCHMARKS, ids=[path.stem for path in BENCHMARKS])
def test_a_file_of_the_benchmarks_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
