"""How does a neutral case run on this engine? Step by step, through nothing but the public names of `unbounded`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

import unbounded as ub
from tests.conformance.expressions import DTYPES, Json, NotBuiltError, UntranslatedError
from tests.conformance.plans import RefusedError, frame_of
from tests.conformance.sources import Sources

__all__ = ["DeviationError", "NotBuiltError", "UntranslatedError", "answers", "run"]

PHASES: Final = ("analysis", "start", "run")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
READERS: Final = ("expect_new", "expect_update", "expect_complete", "expect_sink")


class DeviationError(AssertionError):
    """Something that Spark does otherwise: every difference of the case."""

    def __init__(self, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        super().__init__("\n".join(differences))


def run(case: Json, folder: Path) -> None:
    """Run a case in an empty folder.

    Raises DeviationError for differences from what Spark did, NotBuiltError where the engine says that it cannot do
    this yet, UntranslatedError where the adapter has no spelling for it; other errors are the adapter's own.
    """
    told = _Case(case, folder)
    try:
        told.play()
    finally:
        told.close()
    if told.differences:
        raise DeviationError(told.differences)


def answers(case: Json, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the plan of a case keeps of made-up rows that come in two batches, and what bounded Polars makes of them."""
    sources = Sources(case, folder)
    frame = frame_of(case["plan"], sources)
    query = frame.sink_memory(output_mode=case["output_mode"])
    for batch in range(2):
        for source in case["sources"]:
            made = [[_made(kind, 5 * batch + i) for _, kind in source["schema"]] for i in range(5)]
            sources.add({"source": source["name"], "rows": made})
        sources.stage.publish()
        query.process_all_available()
    query.stop()
    return query.read().collect(), frame.snapshot().collect()


def _made(kind: str, i: int) -> Json:
    """A value of a type, a null now and then."""
    match kind:
        case _ if i % 7 == 6:
            return None
        case "string":
            return "xyab"[i % 4]
        case "timestamp":
            return f"1970-01-01T00:{i:02}:{7 * i % 60:02}Z"
    return i % 3


# -------------------------------------------------------------------------------------------- cases
class _Case:
    """A case while it runs."""

    def __init__(self, case: Json, folder: Path) -> None:
        self._case, self._folder = case, folder
        self.differences: list[str] = []
        self._plan, self._mode = case["plan"], case.get("output_mode", "append")
        starts = [step["start"] for step in case["steps"] if "start" in step]
        self._last_plan = [self._plan, *(start["plan"] for start in starts if "plan" in start)][-1]
        self._conf = dict(case.get("conf", {}))
        self._sources = Sources(case, folder)
        self._pending: list[Json] = []
        self._query: ub.StreamingQuery | None = None
        self._trigger = "continuous_micro_batch"
        self._phase = PHASES[0]
        self._unread = True
        self._written: dict[int, pl.DataFrame] = {}
        self._shown = -1
        self._progress: list[ub.Progress] = []
        self._looked_at = 0
        self._taken = 0

    # The script ---------------------------------------------------------------------------------
    def play(self) -> None:
        failed: Exception | None = None
        for i, step in enumerate(self._case["steps"]):
            ((name, argument),) = step.items()
            if failed is not None and name != "expect_error":
                if name.startswith("expect_"):
                    break
                continue  # a refusal may come earlier than Spark's
            try:
                if name == "expect_error":
                    self._expect_error(i, argument, failed)
                    failed = None
                elif name.startswith("expect_"):
                    self._expect(i, name, argument)
                else:
                    self._act(name, argument)
            except (ub.UnboundedError, pl.exceptions.PolarsError, RefusedError) as error:
                failed = _unless_not_built(error)
        if failed is not None:
            self.differences.append(f"step {i} {name}: {self._phase} failed with {failed}")

    def _act(self, name: str, argument: Json) -> None:
        match name:
            case "add_data":
                self._pending.append(argument)
            case "process":
                self._process()
            case "start":
                self._start(argument)
            case "stop":
                self.close()
            case "forget_last_commit":
                newest = max((self._folder / "checkpoint" / "commits").iterdir(), key=lambda path: path.name)
                newest.unlink()
                self._unread = True
            case "advance_clock_ms":
                self._process()
                raise UntranslatedError("a clock that is moved by hand")
            case "set_static":
                self._sources.change_static(argument["name"], argument["rows"])
            case "delete_file":
                self._sources.delete_file(argument["source"], argument["file"])
            case _:
                raise UntranslatedError(f"the step {name!r}")

    def _publish(self) -> None:
        for addition in self._pending:
            self._sources.add(addition)
        self._unread |= bool(self._pending)
        self._pending = []
        self._sources.stage.publish()

    def _process(self) -> None:
        self._publish()
        if self._query is None:
            self._start({})
        elif self._trigger != "continuous_micro_batch":
            return
        elif self._query.is_active:
            self._query.process_all_available()
        else:
            self._begin()
        self._look()

    def _start(self, options: Json) -> None:
        self._publish()
        if self._query is None:
            self._progress, self._looked_at = [], 0
        self._plan = options.get("plan", self._plan)
        self._mode = options.get("output_mode", self._mode)
        self._trigger = options.get("trigger", "continuous_micro_batch")
        self._conf |= options.get("conf", {})
        self._begin()

    def _begin(self) -> None:
        """Start a run, and wait until everything is processed."""
        trigger, lasts = self._trigger_of_run()
        if isinstance(trigger, type(ub.once())) and not self._unread:
            return
        self._look()
        self._sources.stage.begin()
        self._phase = "analysis"
        frame = frame_of(self._plan, self._sources)
        if not isinstance(frame, ub.StreamFrame):
            raise RefusedError("a bounded frame has no sink that keeps it up to date")
        frame = _structs(frame)
        self._phase = "start"
        self._taken = 0
        options = {"checkpoint": self._folder / "checkpoint", "output_mode": self._mode, "trigger": trigger}
        if "multiple_watermark_policy" in self._conf:
            options["watermark_policy"] = self._conf["multiple_watermark_policy"]
        self._query = self._sink(frame)(wait=False, **options)
        self._phase = "run"
        if lasts:
            self._query.process_all_available()
        else:
            self._query.await_termination()
        self._unread = False
        self._look()

    def _trigger_of_run(self) -> tuple[ub.Trigger, bool]:
        """How to run, and whether the run goes on.

        Files come into sight one by one, so a query that reads them runs only after the last one; one batch at a
        time is how to go without the batch that a moved watermark alone brings.
        """
        if self._trigger == "once" or not self._conf.get("no_data_batches", True):
            return ub.once(), False
        if self._trigger == "available_now" or not self._sources.of_rows:
            return ub.available_now(), False
        return ub.processing_time(), True

    def _sink(self, frame: ub.StreamFrame) -> Callable[..., ub.StreamingQuery]:
        sink = self._case.get("sink", {})
        if sink.get("kind") != "files":
            return lambda **options: frame.foreach_batch(self._take, **options)
        verbs: dict[str, Any] = {"json": frame.sink_ndjson, "csv": frame.sink_csv, "parquet": frame.sink_parquet}
        by = sink.get("partition_by", ())
        return lambda **options: verbs[sink["format"]](self._folder / "out", partition_by=by, **options)

    def _take(self, rows: pl.DataFrame, batch: int) -> None:
        if batch in self._written and _multiset(_rows(rows)) != _multiset(_rows(self._written[batch])):
            self.differences.append(f"batch {batch} came again with other rows: {rows.rows()}")
        self._written[batch] = rows

    def close(self) -> None:
        if self._query is not None:
            self._look()
            self._query.stop()
            self._query.exception()  # looked at, whatever it is
        self._query = None

    def _look(self) -> None:
        """Keep what the run has told of its batches so far."""
        if self._query is not None:
            told = self._query.recent_progress
            self._progress += told[self._taken :]
            self._taken = len(told)

    # What is expected ---------------------------------------------------------------------------
    def _expect(self, i: int, name: str, wanted: Json) -> None:
        if name in READERS:
            self._expect_rows(i, name, wanted)
            return
        if wanted is None or not self._progress:
            return
        last = self._progress[-1]
        match name:
            case "expect_watermark":
                mark = last.event_time.get("next")
                found = EPOCH if mark is None else max(datetime.fromisoformat(mark), EPOCH)
                self._compare(i, name, wanted, _plain(found))
            case "expect_state":
                self._expect_state(i, wanted)
            case "expect_batches":
                if "batch" in (self._case.get("note") or ""):
                    self._compare(i, name, wanted, last.batch_id + 1)

    def _compare(self, i: int, name: str, wanted: Json, found: Json) -> None:
        if wanted != found:
            self.differences.append(f"step {i} {name}: Spark has {wanted}, here {found}")

    def _expect_rows(self, i: int, name: str, wanted: Json) -> None:
        frame = self._visible()
        if frame is None:
            found = []
        else:
            found = _rows(frame)
            if self._plan is self._last_plan:
                self._expect_columns(i, frame.schema)
        wanted = [[_plain(one) for one in row] for row in wanted]
        if self._case.get("ordered"):
            self._compare(i, name, wanted, found)
        else:
            self._compare(i, name, _multiset(wanted), _multiset(found))

    def _expect_columns(self, i: int, schema: pl.Schema) -> None:
        columns = dict(self._case["output_columns"])
        self._compare(i, "columns", list(columns), schema.names())
        for name, kind in columns.items():
            if kind in DTYPES and name in schema and _family(DTYPES[kind]) != _family(schema[name]):
                self._compare(i, f"type of {name}", kind, str(schema[name]))

    def _visible(self) -> pl.DataFrame | None:
        """What the sink shows: all of it, or what came since the last look."""
        if self._case.get("sink", {}).get("kind") == "files":
            return ub.read_sink(self._folder / "out").collect() if (self._folder / "out").exists() else None
        if not self._written:
            return None
        newest = max(self._written)
        if self._mode == "complete":
            return self._written[newest]
        fresh = [self._written[batch] for batch in sorted(self._written) if batch > self._shown]
        self._shown = newest
        return pl.concat(fresh) if fresh else None

    def _expect_state(self, i: int, wanted: Json) -> None:
        fresh = self._progress[self._looked_at :]
        self._looked_at = len(self._progress)
        told = [one.state_operators for one in self._progress if one.state_operators]
        if not told:
            return
        rows = [one.num_rows_total for one in told[-1]]
        late = [
            sum(one.state_operators[n].num_rows_dropped_by_watermark for one in fresh if one.state_operators)
            for n in range(len(rows))
        ]
        most, dropped = wanted.get("rows") or [], wanted.get("dropped_late") or []
        if len(most) != len(rows):  # the plan is cut into operators in another way
            most, rows = most and [sum(most)], [sum(rows)]
        if len(dropped) != len(late):
            dropped, late = dropped and [sum(dropped)], [sum(late)]
        # Of two operators beside one another neither is the first.
        if any(n > limit for n, limit in zip(sorted(rows), sorted(most), strict=False)):
            self.differences.append(f"step {i} rows of state: Spark keeps {most}, here {rows}")
        if any((n > 0) != (m > 0) for n, m in zip(late, dropped, strict=False)):
            self.differences.append(f"step {i} rows dropped as late: Spark drops {dropped}, here {late}")

    def _expect_error(self, i: int, wanted: Json, failed: Exception | None) -> None:
        if failed is None:
            self.differences.append(f"step {i}: Spark refuses ({wanted['spark_condition']}), here nothing failed")
        elif PHASES.index(self._phase) > PHASES.index(wanted["phase"]):
            self.differences.append(f"step {i}: Spark fails in {wanted['phase']}, here only in {self._phase}: {failed}")


def _unless_not_built(error: Exception) -> Exception:
    if any(words in str(error) for words in ("not built yet", "not kept in this version")):
        raise NotBuiltError(str(error)) from error
    return error


def _structs(frame: ub.StreamFrame) -> ub.StreamFrame:
    """Put windows that stand in the answer together again, as Spark shows them."""
    names = frame.columns
    windows = {name.removesuffix(".start") for name in names if f"{name.removesuffix('.start')}.end" in names}
    if not windows:
        return frame
    ends = {name: pl.struct(pl.col(f"{name}.{end}").alias(end) for end in ("start", "end")) for name in windows}
    whole = dict.fromkeys(name.removesuffix(".start").removesuffix(".end") for name in names)
    return frame.select(ends[name].alias(name) if name in windows else pl.col(name) for name in whole)


# ------------------------------------------------------------------------------------------- values
def _rows(frame: pl.DataFrame) -> list[list[Json]]:
    return [[_plain(one) for one in row] for row in frame.rows()]


def _plain(found: Any) -> Json:
    """A value as the cases write it; doubles to 9 decimals."""
    match found:
        case datetime():
            text = found.strftime("%Y-%m-%dT%H:%M:%S.%f")
            return text.rstrip("0").rstrip(".") + "Z"
        case date():
            return found.isoformat()
        case float():
            return "NaN" if math.isnan(found) else round(found, 9) + 0.0
        case dict():
            return {name: _plain(one) for name, one in found.items()}
        case list():
            return [_plain(one) for one in found]
    return found


def _multiset(rows: Sequence[Json]) -> list[Json]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def _family(dtype: Any) -> str:
    kinds = {"is_integer": "integer", "is_float": "float"}
    return next((kind for asked, kind in kinds.items() if getattr(dtype, asked)()), str(dtype))
