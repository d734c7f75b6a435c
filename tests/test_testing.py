"""Does `unbounded.testing` find what is wrong with a pipeline, show it small, and let pass what is right?"""

from __future__ import annotations

import datetime as datetime_module
import itertools
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, get_args

import polars as pl
import pytest

import unbounded as ub
from unbounded.operators.aggregate import AggregateOperator
from unbounded.query import MicroBatches
from unbounded.running.report import Phases
from unbounded.state.memory.home import MemoryHome
from unbounded.testing import Story, assert_unified, given, same_rows
from unbounded.testing.rows import difference
from unbounded.testing.shelf import Death

START = datetime(2026, 3, 1)
EVENTS = pl.DataFrame(
    {
        "k": [("a", "b", None)[i % 3] for i in range(40)],
        "v": [i * 7 % 11 - 5 for i in range(40)],
        "t": [START + timedelta(seconds=i * 997 % 3600) for i in range(40)],
    }
)


def positive(events: Any) -> Any:
    return events.filter(pl.col("v") > 0).with_columns(double=pl.col("v") * 2)


def per_key(events: Any) -> Any:
    return events.group_by("k").agg(pl.len().alias("rows"), pl.col("v").mean().alias("mean"))


def in_all(events: Any) -> Any:
    return events.select(pl.col("v").sum(), pl.len().alias("rows"))


def tumbling(events: Any) -> Any:
    windows = events.pipe(ub.with_watermark, "t", "5m").group_by_dynamic("t", every="10m", group_by="k")
    return windows.agg(pl.len().alias("rows"), pl.col("v").sum())


def sliding(events: Any) -> Any:
    windows = events.pipe(ub.with_watermark, "t", "5m").group_by_dynamic("t", every="5m", period="12m")
    return windows.agg(pl.len().alias("rows"), pl.col("v").first().alias("first"))


def windows_of_windows(events: Any) -> Any:
    again = tumbling(events).pipe(ub.with_watermark, "t", "5m").group_by_dynamic("t", every="30m")
    return again.agg(pl.col("rows").sum())


def by_truncated_time(events: Any) -> Any:
    parsed = events.with_columns(time=pl.col("t").dt.offset_by("1h")).pipe(ub.with_watermark, "time", "0s")
    return parsed.group_by(pl.col("time").dt.truncate("10m"), "k").agg(pl.len().alias("rows"))


def first_ones(events: Any) -> Any:
    return events.head(9).pipe(ub.with_watermark, "t", "1m").unique("t", keep="first")


def windows_of_every_second_row(events: Any) -> Any:
    windows = events.gather_every(2).pipe(ub.with_watermark, "t", "1m").group_by_dynamic("t", every="10m")
    return windows.agg(pl.col("v").last(), pl.len().alias("rows"))


def behind_a_history(events: Any) -> Any:
    return tumbling(ub.concat([EVENTS[:5].lazy(), events]))


def in_order_of_time(events: Any) -> Any:
    marked = events.pipe(ub.with_watermark, "t", "10m")
    return marked.merge_sorted(marked, key="t")


def last_ones(events: Any) -> Any:
    return events.tail(3)


# ------------------------------------------------------------------------------- what is right passes
@pytest.mark.parametrize(
    "pipeline",
    [
        positive,
        per_key,
        in_all,
        tumbling,
        sliding,
        windows_of_windows,
        by_truncated_time,
        first_ones,
        windows_of_every_second_row,
        behind_a_history,
        in_order_of_time,
        last_ones,
    ],
)
def test_pipelines_that_keep_the_laws_pass(pipeline: Callable[..., Any]) -> None:
    assert_unified(pipeline, EVENTS, runs=4)


def test_a_frame_may_be_lazy_or_empty_and_there_may_be_several() -> None:
    assert_unified(tumbling, EVENTS.lazy(), runs=2)
    assert_unified(tumbling, EVENTS.clear(), runs=2)
    assert_unified(lambda *parts: tumbling(ub.concat(parts)), EVENTS, EVENTS[:5], runs=2)


# -------------------------------------------------------------------------- what is wrong is found
def test_a_pipeline_that_looks_at_the_kind_of_its_frame_is_found_before_any_row_flows() -> None:
    def pipeline(events: Any) -> Any:
        return events.filter(pl.col("v") > 0) if isinstance(events, pl.LazyFrame) else events

    with pytest.raises(AssertionError, match=r"on a bounded frame is not what it means on a stream.\nmissing:"):
        assert_unified(pipeline, EVENTS)


def test_windows_that_polars_reads_from_unsorted_rows_are_found_with_the_line_that_sorts() -> None:
    def pipeline(events: Any) -> Any:
        return tumbling(events).group_by_dynamic("t", every="30m").agg(pl.col("rows").sum())

    with pytest.raises(AssertionError, match=r"with_watermark, column, delay\) right before it"):
        assert_unified(pipeline, EVENTS)


def test_a_pipeline_that_remembers_by_itself_is_found() -> None:
    numbers = itertools.count()

    def pipeline(events: Any) -> Any:
        return events.with_columns(pl.col("v").map_elements(lambda v: next(numbers), return_dtype=pl.Int64))

    with pytest.raises(AssertionError, match="missing"):
        assert_unified(pipeline, EVENTS)


def _forgets_to_drop_late_rows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AggregateOperator, "_in_time", lambda self, rows, batch: (rows, 0, 0))


def _drops_late_rows_and_says_nothing(patch: pytest.MonkeyPatch) -> None:
    honest = AggregateOperator._in_time

    def silent(self: AggregateOperator, rows: pl.DataFrame, batch: Any) -> tuple[pl.DataFrame, int, int]:
        kept, _, without_time = honest(self, rows, batch)
        return kept, 0, without_time

    patch.setattr(AggregateOperator, "_in_time", silent)


def _loses_state_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    honest = MemoryHome.restore
    patch.setattr(MemoryHome, "restore", lambda self, ref: honest(self, None))


def _computes_again_what_the_sink_holds(patch: pytest.MonkeyPatch) -> None:
    def again(self: MicroBatches, intent: Any, receipt: Any) -> Any:
        self._pending = None
        return self._complete(self._execute(intent, Phases(self._clock)))

    patch.setattr(MicroBatches, "_adopt", again)


def _runs_ahead_with_the_watermark(patch: pytest.MonkeyPatch) -> None:
    honest = MicroBatches._watermark

    def ahead(self: MicroBatches) -> int | None:
        mark = honest(self)
        return None if mark is None else -(-mark // 600_000) * 600_000

    patch.setattr(MicroBatches, "_watermark", ahead)


def _never_settles(patch: pytest.MonkeyPatch) -> None:
    honest = MicroBatches._watermark

    def restless(self: MicroBatches) -> int | None:
        mark = honest(self)
        return None if mark is None else mark + 1

    patch.setattr(MicroBatches, "_watermark", restless)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (_forgets_to_drop_late_rows, r"reported 0 late rows, and \d+ is right"),
        (_drops_late_rows_and_says_nothing, r"reported 0 late rows, and \d+ is right"),
        (_loses_state_in_a_crash, r"missing:(.|\n)*\.restart\(\)"),
        (_computes_again_what_the_sink_holds, r"failed with(.|\n)*\.crash\('\w+'\)\.restart\(\)"),
        (_never_settles, r"does not settle"),
        (_runs_ahead_with_the_watermark, r"went by the watermark \d+, and \d+ is right"),
    ],
)
def test_an_error_of_the_engine_is_found_and_shown_by_a_small_story(
    error: Callable[[pytest.MonkeyPatch], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error(monkeypatch)
    with pytest.raises(AssertionError, match=told) as found:
        assert_unified(tumbling, EVENTS)
    story = str(found.value).partition("given(")[2]
    assert story.count("'t':") <= 4, "rows that are not needed to see it"
    assert story.count(".add(") <= 4, "arrivals that are not needed to see it"


def test_the_story_of_a_failure_is_code_that_fails_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    _loses_state_in_a_crash(monkeypatch)
    with pytest.raises(AssertionError) as found:
        assert_unified(per_key, EVENTS)
    code = "given(" + str(found.value).partition("\ngiven(")[2]
    names = {"pl": pl, "given": given, "pipeline": per_key, "datetime": datetime_module}
    story = eval(f"({code})", names)
    assert isinstance(story, Story)
    rows = pl.concat([taken.rows["feed0"] for taken in story.taken()])
    with pytest.raises(AssertionError):
        story.expect(per_key(rows.lazy()), key=["k"])


def test_a_failure_is_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    _loses_state_in_a_crash(monkeypatch)

    def told(seed: int) -> str:
        with pytest.raises(AssertionError) as found:
            assert_unified(per_key, EVENTS, seed=seed)
        return str(found.value)

    assert told(3) == told(3)
    assert told(3) != told(4)


# ------------------------------------------------------------------------------- what cannot be asked
def test_a_plan_that_no_mode_keeps_is_refused_with_the_reason() -> None:
    with pytest.raises(ub.PlanError, match="complete mode"):
        assert_unified(positive, EVENTS, output_mode="complete")
    with pytest.raises(ub.PlanError, match="groups by 'k' never close"):
        assert_unified(per_key, EVENTS, output_mode="append")


def test_a_pipeline_must_give_a_stream_for_a_stream() -> None:
    with pytest.raises(ub.PlanError, match=r"LazyFrame for a stream.*without collect\(\) or snapshot\(\)"):
        assert_unified(lambda events: events.snapshot(), EVENTS)


def test_an_error_of_plain_polars_comes_through() -> None:
    with pytest.raises(pl.exceptions.InvalidOperationError):
        assert_unified(lambda events: events.with_columns(pl.col("k").cast(pl.Int64)), EVENTS)


# --------------------------------------------------------------------------------------------- stories
@pytest.mark.parametrize("behind", [None, *get_args(Death)])
def test_a_process_may_die_behind_every_act_of_a_batch(behind: Death | None) -> None:
    story = given(per_key, EVENTS.schema, output_mode="update").add(EVENTS[:7]).run().add(EVENTS[7:9])
    before = story.answer()
    story.crash(behind)
    assert story.answer().equals(before) == (behind in (None, "intended", "remembered"))
    story.restart().expect(per_key(EVENTS[:9].lazy()), key=["k"])


def test_a_story_goes_on_after_a_crash_only_with_a_restart() -> None:
    story = given(positive, EVENTS.schema).crash()
    with pytest.raises(ub.PlanError, match=r"died in crash\(\).*restart\(\)"):
        story.add(EVENTS).run()


def test_an_expectation_that_is_wrong_fails() -> None:
    story = given(per_key, EVENTS.schema, output_mode="complete").add(EVENTS[:3])
    with pytest.raises(AssertionError):
        story.expect([("a", 1, 0.0)])


def test_rows_may_be_expected_in_every_form() -> None:
    story = given(lambda f: f.select("k", "v"), {"k": pl.String, "v": pl.Int64})
    story.add([{"k": "a", "v": 1}]).expect([("a", 1)]).expect([{"k": "a", "v": 1}]).expect({"k": ["a"], "v": [1]})
    story.expect(pl.DataFrame({"k": ["a"], "v": [1]})).expect(pl.LazyFrame({"k": ["a"], "v": [1]}))


def test_same_rows_is_about_rows_columns_and_types_and_not_about_order() -> None:
    rows = pl.DataFrame({"f": [0.1 + 0.2, float("nan")], "k": ["a", "b"]})
    same_rows(rows, pl.DataFrame({"f": [float("nan"), 0.3], "k": ["b", "a"]}))
    for other in (rows[:1], rows.with_columns(f=pl.lit(0.3)), rows.cast({"f": pl.Float32}), rows.select("k", "f")):
        with pytest.raises(AssertionError):
            same_rows(rows, other)


def test_a_difference_shows_what_is_missing_and_what_is_too_many_and_how_often() -> None:
    shown = difference(pl.DataFrame({"k": ["a", "b"]}), pl.DataFrame({"k": ["b", "c", "c"]}))
    missing, _, spare = shown.partition("too many:")
    assert "c" in missing
    assert "2" in missing
    assert "a" in spare
    assert "b" not in spare.replace("too many", "")


# ----------------------------------------------------------------------------------------------- import
def test_testing_is_there_without_an_import_and_costs_nothing_before() -> None:
    program = (
        "import sys, unbounded as ub\n"
        "assert 'unbounded.testing' not in sys.modules\n"
        "assert ub.testing.assert_unified is not None\n"
        "assert not {'pytest', 'hypothesis'} & set(sys.modules)\n"
        "try:\n    ub.tests\nexcept AttributeError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "module 'unbounded' has no attribute 'tests'\n"


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_the_contracts_say_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None\nimport unbounded.testing.contracts"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"and {missing} is not there. Install them: pip install 'unbounded[test]'" in ran.stderr
