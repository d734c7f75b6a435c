"""The loop: one micro-batch after another, each happening exactly once.

`MicroBatches.run_once` reads as the protocol is written: intend, ask the sink, execute, remember,
write, commit, let go. Nothing here runs in a thread of its own; `manager` gives it one, and one beside it that
waits for the disk.

A batch of which nobody saw a row may be planned anew. So its intent becomes durable while its rows flow, and only
before the sink sees them; a sink that says exactly what it holds needs none. And what such a sink holds has happened:
the commit only repeats it, and becomes durable while the next batch flows.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import polars as pl

from unbounded.beside import Beside
from unbounded.checkpoint import Checkpoint, Commit, Intent
from unbounded.connectors import Identity, Mode, Offset, Sink, Stages, Tidies, WatermarkPolicy
from unbounded.errors import CheckpointError, ConnectorError, FinishedError
from unbounded.inputs import Inputs
from unbounded.lineage import table_key
from unbounded.operators import FINAL, Batch, Tables
from unbounded.operators.flow import Flow, Outcome
from unbounded.operators.modes import check
from unbounded.plan import Node
from unbounded.progress import Progress
from unbounded.report import Phases, left_open, report
from unbounded.state import Home, StateRef
from unbounded.state.homes import refuse_another
from unbounded.watermarks import advanced, combined, settled

__all__ = ["Background", "MicroBatches"]

Background = Callable[[Callable[[], None]], None]
"""Runs a task some time later, one at a time."""


class MicroBatches:
    """A query from its sources to its sink, advanced a batch at a time by `run_once`.

    A batch that raises leaves nothing committed, but the tables in memory half changed: close, and open
    a new one on the same checkpoint.
    """

    def __init__(
        self,
        plan: Node,
        sink: Sink,
        *,
        mode: Mode,
        checkpoint: Checkpoint,
        home: Home,
        name: str | None = None,
        watermark_policy: WatermarkPolicy | None = None,
        reread_bounded: str | timedelta | None = None,
        background: Background = lambda task: task(),
        beside: Beside | None = None,
        forget_at_end: bool = False,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check(plan, mode, sink, checkpoint.url)
        self._flow = Flow(plan, mode, reread_bounded, keeps_table=sink.keeps_table)
        self._sink, self._mode, self._name = sink, mode, name
        self._stage = sink.stage if isinstance(sink, Stages) else None
        self._asked_policy = watermark_policy
        self._policy: WatermarkPolicy = watermark_policy or "min"
        self._checkpoint, self._home = checkpoint, home
        self._background, self._beside = background, beside or Beside()
        self._wall_clock, self._clock = wall_clock, clock
        self.run_id = secrets.token_hex(16)
        self._tables = Tables.declared(home, self._flow.tables())
        self._inputs = Inputs(self._flow.scans, home)
        self._reported: float | None = None
        self._last: Commit | None = None
        self._pending: Intent | None = None
        self._running: Mapping[str, Offset] | None = None
        self._forget_at_end = forget_at_end

    @property
    def id(self) -> str:
        """The query's own id, the same after every restart; empty before `open`."""
        return self._checkpoint.id

    @property
    def _next_batch(self) -> int:
        return 0 if self._last is None else self._last.batch + 1

    @property
    def _sink_tells(self) -> bool:
        """Whether the sink alone knows which batches happened."""
        return self._sink.guarantee == "exactly-once"

    def explain(self) -> str:
        """The plan, what is remembered, for how long and where, and what the sink guarantees."""
        sink = f"sink: {self._sink.description}, {self._mode} mode, {self._sink.guarantee}"
        home = f"state: {self._home.description}"
        which = f"watermark: the {self._policy} of {', '.join(self._flow.delays)}"
        return "\n\n".join([self._flow.explain(), *([which] if len(self._flow.delays) > 1 else []), f"{home}\n{sink}"])

    def growths(self) -> list[str]:
        """What will be remembered without a bound, and what would bound it."""
        return self._flow.growths()

    # Start --------------------------------------------------------------------------------------
    def open(self) -> None:
        """Take the checkpoint, roll the sink forward, and bring state and sources back to the last batch."""
        moving = [f"sources.{name}.place" for name, scan in self._flow.scans.items() if scan.may_move]
        self._checkpoint.open(self.run_id, self._name, self._pinned(), may_differ=[*moving, "watermark_policy"])
        began = self._checkpoint.pinned.get("watermark_policy", "min")
        several = len(self._flow.delays) > 1
        self._policy = settled(self._asked_policy, began, where=self._checkpoint.url, several=several)
        identity = Identity(self._checkpoint.id, self.run_id, self._name)
        self._sink.open(identity, self._flow.plan.schema, self._flow.key, self._sink_mode)
        self._last, self._pending = self._checkpoint.last, self._checkpoint.pending
        if self._sink_tells and (receipt := self._sink.written(self._next_batch)) is not None:
            self._pending = Commit.of(receipt).intent
        self._refuse_another_history()
        refuse_another(self._checkpoint.url, self._last.state if self._last is not None else None, self._home)
        self._restore(self._last.state if self._last is not None else None)
        self._checkpoint.describe(self._flow.described(self._inputs.logged))
        self._flow.open(self._wall_clock)
        if self._last is not None:
            self._inputs.acknowledge(
                self._last.intent.offsets
            )  # a crash may have come before that, or in the midst of it

    @property
    def _sink_mode(self) -> Mode:
        """A table of one row without a key is replaced whole: what is update to the plan is complete to its sink."""
        whole = self._mode == "update" and table_key(self._flow.plan) == {} and self._sink.keeps_table
        return "complete" if whole and "complete" in self._sink.modes else self._mode

    def _pinned(self) -> dict[str, Any]:
        own = {
            "watermark_policy": self._policy,
            "sources": self._inputs.pinned(),
            "sink": self._sink.description,
        }
        return {**self._flow.pinned(), **own}

    def _refuse_another_history(self) -> None:
        """A crash leaves the sink ahead by the one batch that was begun; anything else means a restored backup."""
        following = self._next_batch + (self._pending is not None)
        if self._sink.written(following) is not None:
            raise CheckpointError(
                f"{self._checkpoint.url} ends before batch {following}, which {self._sink.description} already holds: "
                "the checkpoint is older than its output. Restore the newer checkpoint, or start with a new "
                "checkpoint and a new output path"
            )
        # A memory sink of another process began empty, and would show a part of the answer as the whole.
        remembers = self._sink.guarantee == "exactly-once" or (self._sink.keeps_table and self._mode != "complete")
        if self._last is not None and remembers and self._sink.written(self._last.batch) is None:
            raise ConnectorError(
                f"{self._sink.description} does not hold batch {self._last.batch}, which {self._checkpoint.url} says "
                "was written there. Restore the output, or start with a new checkpoint and a new output path"
            )

    def _restore(self, ref: StateRef | None) -> None:
        self._home.restore(ref)
        self._inputs.restore()

    # One micro-batch ----------------------------------------------------------------------------
    def run_once(self, *, limited: bool = True, ends: Mapping[str, Offset | None] | None = None) -> Progress | None:
        """Run the next batch, or None if nothing is new and the watermark has not moved.

        `ends` keeps an available-now run from passing what was there when it began; `limited` asks to
        honour the limits per trigger.
        """
        phases = Phases(self._clock)
        with phases.phase("triggerExecution"):
            with phases.phase("latestOffset"):
                intent = self._pending or self._plan(limited, ends)
            if intent is None:
                self._beside.settle()
                return None
            return self._run(intent, phases)

    def finish(self) -> Progress | None:
        """Declare the input ended: one last batch with an infinite watermark closes every group."""
        if self._last is not None and self._last.intent.final:
            return None
        waiting = list(self._inputs.waiting())
        if waiting:
            raise ConnectorError(
                f"final=True declares the input ended, and {', '.join(map(repr, waiting[:3]))} still waits to be "
                "complete: it has no footer or no newline at its end. Complete it or take it away, then start again"
            )
        phases = Phases(self._clock)
        with phases.phase("triggerExecution"):
            return self._run(self._intent({}, FINAL, final=True), phases)

    def ends(self) -> dict[str, Offset | None]:
        """How far each source goes now."""
        return self._inputs.ends()

    def still_open(self) -> str | None:
        """How much an ended run has not emitted yet, and until when; None where nothing waits."""
        if self._mode != "append" or not self._flow.evicts:
            return None
        groups = sum(size["rows"] for name, size in self._home.metrics().items() if name.endswith("/groups"))
        return left_open(groups, self._last.watermark if self._last is not None else None)

    def describe_pending(self) -> str:
        """Where the run stands, with what the batch reads, for error messages."""
        if self._running is None:
            return f"between batches, before batch {self._next_batch}"
        text = str(dict(self._running))
        offsets = text if len(text) <= 500 else f"{text[:500]}..."
        return f"in batch {self._next_batch} (offsets {offsets}), of which nothing was committed"

    def _plan(self, limited: bool, ends: Mapping[str, Offset | None] | None) -> Intent | None:
        positions = self._last.positions if self._last is not None else {}
        offsets = self._inputs.latest(positions, ends, limited=limited)
        if offsets and self._last is not None and self._last.intent.final:
            raise FinishedError(
                f"the input of {self._checkpoint.url} was declared ended by available_now(final=True), and new rows "
                f"came from {', '.join(map(repr, offsets))}. Start with a new checkpoint and a new output path"
            )
        moved = self._watermark() != (self._last.watermark if self._last is not None else None)
        if not offsets and not (moved and self._flow.evicts and self._mode != "complete"):
            return None
        return self._intent(offsets, self._watermark(), final=False)

    def _intent(self, offsets: Mapping[str, Offset], watermark: int | None, *, final: bool) -> Intent:
        late = self._last.watermark if self._last is not None else None
        now = self._wall_clock().isoformat(timespec="milliseconds")
        # The clock may have been set back; a batch's time never goes back.
        before = self._last.intent.time if self._last is not None else now
        return Intent(self._next_batch, offsets, late, watermark, max(now, before), final)

    def _watermark(self) -> int | None:
        if self._last is None:
            return None
        return combined(self._last.watermarks, self._flow.delays, self._policy, self._last.watermark)

    def _run(self, intent: Intent, phases: Phases) -> Progress:
        """Take an intent all the way to its commit."""
        self._running = intent.offsets
        planned = self._pending is intent
        receipt = self._sink.written(intent.batch) if planned else None
        if receipt is not None:
            return self._adopt(intent, receipt, phases)

        if not (planned or self._sink_tells):
            self._beside.begin(lambda: self._checkpoint.intend(intent))
        with phases.phase("addBatch"):
            outcome = self._execute(intent)
            if self._stage is not None:
                stage = partial(self._stage, intent.batch, outcome.rows, removed=outcome.removed)
                self._beside.begin(stage)
            attempt = secrets.token_hex(8)
            commit = self._commit_of(intent, attempt, outcome, self._remember(intent, attempt))
        with phases.phase("walCommit"):
            self._beside.settle()  # the intent, what is staged, and the commit before
        with phases.phase("addBatch"):
            self._sink.write(intent.batch, outcome.rows, commit.record(), removed=outcome.removed)
        self._commit(commit, phases)
        return self._progress(intent, phases, outcome)

    def _execute(self, intent: Intent) -> Outcome:
        """Read exactly the intended range, and let the rows flow."""
        positions = self._last.positions if self._last is not None else {}
        rows = self._inputs.read(positions, intent.offsets)
        batch = Batch(intent.batch, datetime.fromisoformat(intent.time), intent.late, intent.watermark)
        try:
            outcome = self._flow.run(batch, rows, self._tables)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._blamed(intent, error) from error
        self._inputs.verify(positions, intent.offsets)
        return outcome

    def _blamed(self, intent: Intent, error: Exception) -> Exception:
        """An error that names the file that cannot be read, if it is one that did not fit its columns."""
        found = self._inputs.unreadable(intent.offsets)
        if found is None:
            return error
        name, unit = found
        again = f"let the batch be planned anew: ub.reset({self._checkpoint.url!r}, pending_only=True)"
        return ConnectorError(
            f"source {name!r} cannot be read as its columns: {unit}. Batch {intent.batch} was not committed. "
            'Mend the file, or take it away, or scan text with on_bad_record="dead_letter" to set that aside; '
            f"then {'start again' if self._sink_tells else again}"
        )

    def _remember(self, intent: Intent, attempt: str) -> StateRef | None:
        if not self._flow.tables() and not self._inputs.remember:
            return None
        self._inputs.note(intent.offsets)
        return self._home.commit(intent.batch, attempt)

    def _commit_of(self, intent: Intent, attempt: str, outcome: Outcome, state: StateRef | None) -> Commit:
        before = self._last
        return Commit(
            intent,
            attempt,
            positions=self._inputs.positions(before.positions if before is not None else {}, intent.offsets),
            watermarks=advanced(before.watermarks if before is not None else {}, outcome.seen, self._flow.delays),
            state=state,
        )

    def _adopt(self, intent: Intent, receipt: Mapping[str, Any], phases: Phases) -> Progress:
        """The sink holds the batch, only its commit is missing: take that attempt's state, never compute again."""
        commit = Commit.of(receipt)
        if commit.intent != intent:
            raise CheckpointError(
                f"{self._sink.description} holds batch {intent.batch} of other rows than {self._checkpoint.url} "
                "intends: one of the two was restored from a backup. Restore the other, or start with new ones"
            )
        refuse_another(self._checkpoint.url, commit.state, self._home, moved=self._last is not None)
        if commit.state is not None and not self._home.verify(commit.state):
            raise CheckpointError(
                f"{self._checkpoint.url} has lost {commit.state['name']}, the state of batch {intent.batch}, which "
                f"{self._sink.description} already holds. Restore it from a backup, or start with new ones"
            )
        with phases.phase("addBatch"):
            self._restore(commit.state)
        self._commit(commit, phases)
        return self._progress(intent, phases, None)

    def _commit(self, commit: Commit, phases: Phases) -> None:
        """The batch happened. Tell the sources, and leave the tidying to the background."""
        with phases.phase("commitOffsets"):
            self._beside.begin(lambda: self._checkpoint.commit(commit))
            if not self._sink_tells:
                self._beside.settle()
        self._last, self._pending, self._running = commit, None, None
        self._inputs.pass_over(commit.intent.offsets)
        self._inputs.acknowledge(commit.intent.offsets)
        self._background(lambda: self._tidy(commit.batch))

    def _tidy(self, committed: int) -> None:
        self._home.tidy(committed)
        self._checkpoint.tidy(committed)
        for connector in (self._sink, *self._inputs.tidying):
            if isinstance(connector, Tidies):
                connector.tidy(committed)

    def close(self) -> None:
        """End the run; the checkpoint can be opened again at once."""
        with ExitStack() as ending:  # all of it, whatever one raises; the last first
            ending.callback(self._checkpoint.close, forget=self._forget_at_end)
            ending.callback(self._sink.close)
            ending.callback(self._home.close)
            ending.callback(self._beside.close)

    def _progress(self, intent: Intent, phases: Phases, outcome: Outcome | None) -> Progress:
        """Report a committed batch; without an outcome it was adopted."""
        now = self._clock()
        interval = now - self._reported if self._reported is not None else 0.0
        self._reported = now
        return report(
            Identity(self.id, self.run_id, self._name),
            intent,
            outcome,
            next_watermark=self._watermark(),
            spent_ms=phases.spent,
            interval=interval,
            inputs=self._inputs,
            sink=self._sink,
            home=self._home,
        )
