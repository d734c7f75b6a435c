"""Does a pipeline give over batches what it gives over the whole table? Laws 1 and 2, for one pipeline and its rows."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from unbounded.connectors import Mode, Receipt, WatermarkPolicy
from unbounded.errors import PlanError
from unbounded.operators import at_most_milliseconds, closing_instant
from unbounded.operators.flow import Flow
from unbounded.operators.modes import check
from unbounded.plan import Concat, InOrder, Join, Node, Scan, Step, Unique, Watermark, evaluate, walk
from unbounded.plan.asof import AsofJoin
from unbounded.plan.lineage import clocks, passing, table_key
from unbounded.plan.ordered import Ordered, Rolling
from unbounded.plan.windows import Window
from unbounded.progress import Progress
from unbounded.sinks.memory import MemorySink
from unbounded.testing.lateness import Truth, comes_in_time, truth
from unbounded.testing.rows import difference, same_rows
from unbounded.testing.script import Script, Times, drawn, play, smallest, told
from unbounded.testing.shelf import Shelf
from unbounded.testing.story import Pipeline, Story, Taken, planned, whole_tables

__all__ = ["assert_unified"]

_MODES: tuple[Mode, ...] = ("append", "update", "complete")
_TRIES = 300  # stories told to find a smaller one that fails too; some seconds


def assert_unified(
    pipeline: Pipeline,
    *frames: pl.LazyFrame | pl.DataFrame,
    output_mode: Mode | None = None,
    watermark_policy: WatermarkPolicy = "min",
    runs: int = 10,
    seed: int = 0,
) -> None:
    """Assert that a pipeline gives the same over a stream as over bounded tables: one line in a test suite.

    `pipeline` takes a frame for each of `frames` and gives one. It runs once over the bounded frames in plain Polars,
    and `runs` times per output mode (by default every mode the plan allows) as a stream over all their rows, drawn
    from `seed`: cut into batches, empty ones too; in the order of the frame, in any order, or, where a watermark is
    declared, shuffled within its delay and with rows that come too late; restarted, and killed between any two
    durable acts of a batch. Then the answer in the sink must be that of plain Polars, minus exactly the rows that the
    query reported as late; floats to nine digits.

    Where the order of rows matters (`first`, `last`, `head`), the answer must be that of the rows as they arrived. For
    windows that overlap or have gaps, of which Polars leaves out those that begin before the first row, it must be that
    of the windows as `StreamFrame.group_by_dynamic` defines them. A session that has closed must take no more rows, as
    `ub.group_by_session` says.

    Raises AssertionError with the smallest story that fails, in lines that can be pasted; PlanError if no output mode
    can keep the plan; and what the bounded run raises.

    >>> import polars as pl, unbounded as ub
    >>> from unbounded.testing import assert_unified
    >>> sales = pl.DataFrame({"item": ["tea", "cake", "tea"], "price": [3, 5, 4]})
    >>> def revenue(sales):
    ...     return sales.group_by("item").agg(pl.col("price").sum())
    >>> assert_unified(revenue, sales)
    """
    tables = [frame.lazy().collect() for frame in frames]
    _, plan = planned(pipeline, [table.schema for table in tables])
    modes = _modes(plan, output_mode)
    _assert_same_meaning(pipeline, plan, modes[0], tables)
    times = [_times(plan, f"feed{i}", table) for i, table in enumerate(tables)]
    for mode in modes:
        law = _Law(pipeline, tables, mode, watermark_policy)
        for run in range(runs):
            chance = random.Random(f"{seed} {mode} {run}")
            script = drawn(chance, [table.height for table in tables], times)
            if law.breach(script) is not None:
                raise law.failure(script, f"seed={seed}, run {run + 1} of {runs}")


def _modes(plan: Node, wanted: Mode | None) -> list[Mode]:
    """The modes to try; PlanError if the wanted one, or none at all, can keep the plan."""
    refused: list[PlanError] = []
    able: list[Mode] = []
    for mode in _MODES if wanted is None else (wanted,):
        try:
            check(plan, mode, MemorySink(), Shelf.url)
        except PlanError as error:
            refused.append(error)
        else:
            able.append(mode)
    if not able:
        raise refused[0]
    return able


# ---------------------------------------------------------------------------------------- bounded
def _assert_same_meaning(pipeline: Pipeline, plan: Node, mode: Mode, tables: Sequence[pl.DataFrame]) -> None:
    """The plan over whole tables is what plain Polars gives, where both are bound to agree."""
    named = whole_tables(plan, tables)
    ordered = any(operator.ordered for operator in Flow(plan, mode).operators)
    # The default engine is what the user runs, but it keeps no order where nobody asks for one.
    plain = pipeline(*(table.lazy() for table in tables)).collect(engine="in-memory" if ordered else "auto")
    if any(_differs(node, ordered=ordered) for node in walk(plan)):
        return
    meaning = evaluate(plan, named).collect(engine="in-memory")
    try:
        same_rows(plain, meaning, key=_key(plan))
    except AssertionError as error:
        raise AssertionError(
            f"the pipeline's answer on a bounded frame is not what it means on a stream.\n{_why(plain, meaning, error)}"
            f"{_unsorted(plan)}"
        ) from None


def _differs(node: Node, *, ordered: bool) -> bool:
    """Whether a node of a stream and plain Polars may both be right and not agree."""
    match node:
        case Window():  # Polars leaves out windows that begin before the first row
            return not node.is_tumbling
        case Watermark() | Join():  # on bounded frames the one sorts, the other keeps no order
            return ordered
        case Unique():  # which of several equal rows stays
            return not node.first and set(node.subset) != set(node.schema)
        case _:
            return False


def _unsorted(plan: Node) -> str:
    """What to look at where Polars may have read its windows from unsorted rows, and said nothing."""
    if not any(isinstance(node, Window) for node in walk(plan)):
        return ""
    return (
        "\nOn a bounded frame group_by_dynamic needs its rows in order of time, and does not always say so. Write "
        ".pipe(ub.with_watermark, column, delay) right before it: there it sorts, on a stream once is enough"
    )


def _key(plan: Node) -> list[str]:
    """The columns by which the rows of an answer are known; none where no aggregate tells."""
    return [name for name in table_key(plan) or () if name in plan.schema]


# -------------------------------------------------------------------------------------- unbounded
@dataclass(frozen=True)
class _Breach:
    """How a law was broken, and by which error, if by one."""

    how: str
    cause: Exception | None = None


@dataclass(frozen=True)
class _Law:
    """What every story of a pipeline over these tables must come to, in one output mode."""

    pipeline: Pipeline
    tables: Sequence[pl.DataFrame]
    mode: Mode
    policy: WatermarkPolicy

    def breach(self, script: Script) -> _Breach | None:
        """Tell a script as a story; what of its end is not as it must be."""
        schemas = (table.schema for table in self.tables)
        sink = _Noting()
        story = Story(self.pipeline, *schemas, output_mode=self.mode, watermark_policy=self.policy, sink=lambda: sink)
        try:
            with warnings.catch_warnings():  # a script does not know that a history has ended
                warnings.filterwarnings("ignore", "source .* more, which are not read", UserWarning)
                play(script, story, self.tables)
                if self._ends(story.plan):
                    story.end()
        except Exception as error:  # whatever a query raises over rows that Polars takes breaks the law
            return _Breach(f"the query failed with {type(error).__name__}: {error}", error)
        batches = story.taken()
        must = truth(story.plan, self.mode, batches, self.policy)
        told = _misjudged(batches, story.progress, must)
        if told is None and self.mode == "append":
            told = _behind(story.plan, batches, sink.given) or _untimely(sink.given, must.given)
        if told is not None:
            return _Breach(told)
        answer, expected = story.answer(), must.answer.collect(engine="in-memory")
        try:
            same_rows(answer, expected, key=_key(story.plan))
        except AssertionError as error:
            return _Breach(_why(answer, expected, error))
        return None

    def _ends(self, plan: Node) -> bool:
        """Whether rows wait for the end of the input; in other modes than append groups show at once."""
        waiting = InOrder | Ordered | Rolling | AsofJoin
        return self.mode == "append" or any(isinstance(node, waiting) for node in walk(plan))

    def failure(self, script: Script, drawn_by: str) -> AssertionError:
        """The error that shows the smallest script found that breaks the law too."""
        script = smallest(script, lambda simpler: self.breach(simpler) is not None, tries=_TRIES)
        breach = self.breach(script)
        if breach is None:
            return AssertionError(f"{drawn_by} broke the law once, and not again: the pipeline is not deterministic")
        schemas = ", ".join(_written(table.schema) for table in self.tables)
        plan = planned(self.pipeline, [table.schema for table in self.tables])[1]
        ends = [".end()"] if self._ends(plan) else []
        options = f"output_mode={self.mode!r}" + (f", watermark_policy={self.policy!r}" if self.policy != "min" else "")
        lines = [f"given(pipeline, {schemas}, {options})", *told(script, self.tables), *ends]
        story = "\n    ".join(lines)
        error = AssertionError(
            f"the stream's answer is not that of the same rows in plain Polars, less the late ones.\n{breach.how}\n"
            f"The smallest story found that shows it ({drawn_by}):\n\n{story}"
        )
        error.__cause__ = breach.cause
        return error


def _written(schema: pl.Schema) -> str:
    return "{" + ", ".join(f"{name!r}: pl.{dtype!r}" for name, dtype in schema.items()) + "}"


def _misjudged(batches: Sequence[Taken], reported: Sequence[Progress], must: Truth) -> str | None:
    """The first batch that went by another watermark, or reported other late rows, than the rules say."""
    for batch in batches:
        number, mark = batch.intent.batch, batch.intent.watermark
        if mark != must.marks[number]:
            return f"batch {number} went by the watermark {mark}, and {must.marks[number]} is right"
    for progress in reported:
        late = sum(one.num_rows_dropped_by_watermark for one in progress.state_operators)
        right = must.late.get(progress.batch_id, 0)
        if not progress.adopted and late != right:
            return f"batch {progress.batch_id} reported {late} late rows, and {right} is right"
    return None


class _Noting(MemorySink):
    """Also keeps which rows each batch gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[int, pl.DataFrame] = {}

    def write(self, batch: int, rows: pl.DataFrame, receipt: Receipt, *, removed: pl.DataFrame) -> None:
        self.given[batch] = rows
        super().write(batch, rows, receipt, removed=removed)


def _behind(plan: Node, batches: Sequence[Taken], given: Mapping[int, pl.DataFrame]) -> str | None:
    """The first batch with a row that came out when an operator behind the plan would have found it late."""
    for batch in batches if comes_in_time(plan) else ():
        for name, clock in clocks(plan).items():
            rows, late = given[batch.intent.batch], batch.intent.late
            instant = closing_instant({name: clock}, plan.schema)
            if late is not None and rows.filter(instant <= late).height:
                return f"batch {batch.intent.batch} gave rows of which {name!r} says that none comes any more"
    return None


def _untimely(given: Mapping[int, pl.DataFrame], final: Mapping[int, pl.DataFrame]) -> str | None:
    """The first batch that gave other rows than those that became final in it."""
    for batch, rows in final.items():
        try:
            same_rows(given[batch], rows)
        except AssertionError as error:
            return (
                f"batch {batch} gave other rows than those that became final in it.\n{_why(given[batch], rows, error)}"
            )
    return None


def _why(answer: pl.DataFrame, expected: pl.DataFrame, error: AssertionError) -> str:
    if answer.schema != expected.schema:
        return str(error)
    return difference(answer, expected) or str(error)


# ------------------------------------------------------------------------------------- event time
def _times(plan: Node, feed: str, table: pl.DataFrame) -> Times | None:
    """The event time of every row of a feed, if it has a watermark whose column can be followed to the feed."""
    for mark in walk(plan):
        if not isinstance(mark, Watermark):
            continue
        if (column := _origins(mark.input, mark.column).get(feed)) is not None:
            rows = table
        elif [node.name for node in walk(mark.input) if isinstance(node, Scan)] == [feed]:
            rows, column = evaluate(mark.input, {feed: table.lazy()}).collect(), mark.column
            if rows.height != table.height:
                continue  # which row is which is not known
        else:
            continue
        times = rows.select(at_most_milliseconds(pl.col(column), rows.schema[column])).to_series()
        return Times(times.to_list(), mark.delay)
    return None


def _origins(node: Node, column: str) -> dict[str, str]:
    """The columns of sources that a column is, unchanged: name of the source -> name there."""
    match node:
        case Scan():
            return {node.name: column}
        case Step():
            old = passing(node).get(column)
            return {} if old is None else _origins(node.input, old)
        case Watermark():
            return _origins(node.input, column)
        case Join():
            return _origins(node.left, column)
        case Concat():
            return {name: old for part in node.parts for name, old in _origins(part, column).items()}
        case _:
            return {}
