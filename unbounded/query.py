"""The loop: one micro-batch after another, each happening exactly once.

`MicroBatches.run_once` reads as the protocol is written: intend, ask the sink, compute, remember, write, commit, let
go. Nothing here runs in a thread of its own; `manager` gives it one, and one beside it that waits for the disk.

A batch of which nobody saw a row may be planned anew. So its intent becomes durable while its rows flow, and only
before the sink sees them; a sink that says exactly what it holds needs none, and is written to beside. While a batch
becomes durable there the next one is planned and computed, if asked for, and waits in memory. Nothing of it reaches
the disk before the batch in front of it is committed, so a crash finds what it would find without all that.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import polars as pl

from unbounded.checkpoint import Checkpoint, Commit, Intent
from unbounded.connectors import Identity, Mode, Offset, Sink, Stages, Tidies, WatermarkPolicy
from unbounded.operators import FINAL, Batch, Tables
from unbounded.operators.flow import Flow, Outcome
from unbounded.operators.modes import check, sink_mode
from unbounded.plan import Node
from unbounded.plan.sequence import waits
from unbounded.progress import Progress
from unbounded.running.beside import Beside
from unbounded.running.history import refuse_another_attempt, refuse_another_history, refuse_more
from unbounded.running.inputs import Inputs
from unbounded.running.late import LateRows
from unbounded.running.report import Phases, left_open, report, running
from unbounded.state import Home, StateRef
from unbounded.watermarks import Patience, advanced, settled

__all__ = ["MicroBatches"]

_Background = Callable[[Callable[[], None]], None]
"""Runs a task some time later, one at a time."""

_Remember = Callable[[], StateRef | None]
"""Makes the state of a batch durable, and says where it lies."""


@dataclass(frozen=True)
class _Computed:
    """A batch whose rows have flowed. The tables hold what it adds, and nothing of it is durable yet."""

    intent: Intent
    outcome: Outcome
    phases: Phases


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
        late: str | os.PathLike[str] | None = None,
        background: _Background = lambda task: task(),
        beside: Beside | None = None,
        forget_at_end: bool = False,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._late = LateRows(late)
        check(plan, mode, sink, checkpoint.url, self._late.location)
        self._flow = Flow(plan, mode, reread_bounded, keeps_table=sink.keeps_table, keeps_late=late is not None)
        self._late.check(self._flow.operators, mode)
        self._sink, self._mode, self._name = sink, mode, name
        self._stage = sink.stage if isinstance(sink, Stages) else None
        self._asked_policy = watermark_policy
        self._policy: WatermarkPolicy = watermark_policy or "min"
        self._checkpoint, self._home = checkpoint, home
        self._background, self._beside = background, beside or Beside()
        self._wall_clock, self._clock = wall_clock, clock
        self.run_id = secrets.token_hex(16)
        self._tables = Tables.declared(home, self._flow.tables())
        self._patience = Patience(self._flow.marks, self._flow.scans)
        self._inputs = Inputs(self._flow.scans, home, waits(plan))
        self._reported: float | None = None
        self._last: Commit | None = None
        self._pending: Intent | None = None
        self._running: Intent | None = None
        self._ahead: _Computed | None = None
        self._failed_ahead: tuple[BaseException, Intent | None] | None = None
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
        sink = f"sink: {self._sink.description}, {self._mode} mode, guarantee: {self._sink.guarantee}"
        beside = [*self._patience.explain(self._policy), *self._late.explain()]
        return "\n\n".join([self._flow.explain(), *beside, f"state: {self._home.description}\n{sink}"])

    def growths(self) -> list[str]:
        """What will be remembered without a bound, and what would bound it."""
        return self._flow.growths()

    # Start --------------------------------------------------------------------------------------
    def open(self, make_room: Callable[[], None] = lambda: None) -> None:
        """Take the checkpoint, roll the sink forward, and bring state and sources back to the last batch."""
        moving = [f"sources.{name}.place" for name, scan in self._flow.scans.items() if scan.may_move]
        pinned = self._pinned()
        self._checkpoint.open(self.run_id, self._name, pinned, make_room, may_differ=[*moving, "watermark_policy"])
        began = self._checkpoint.pinned.get("watermark_policy", "min")
        self._policy = settled(self._asked_policy, began, where=self._checkpoint.url, several=len(self._flow.marks) > 1)
        identity = Identity(self._checkpoint.id, self.run_id, self._name)
        plan, key = self._flow.plan, self._flow.key
        self._sink.open(identity, plan.schema, key, sink_mode(plan, self._mode, self._sink))
        self._last, self._pending = self._checkpoint.last, self._checkpoint.pending
        if self._sink_tells and (receipt := self._sink.written(self._next_batch)) is not None:
            self._pending = Commit.of(receipt).intent
        following = self._next_batch + (self._pending is not None)
        refuse_another_history(self._checkpoint, self._sink, self._home, self._mode, following)
        self._restore(self._last)
        self._checkpoint.describe(self._flow.described(self._inputs.logged))
        self._flow.open(self._wall_clock)
        if self._last is not None:  # a crash may have come before that, or in the midst of it
            self._inputs.acknowledge(self._last.intent.offsets)
        self._late.open(self.id, self._last)

    def _pinned(self) -> dict[str, Any]:
        own = {"sources": self._inputs.pinned(), "sink": self._sink.description}
        return {**self._flow.pinned(), "watermark_policy": self._policy, **own}

    def _restore(self, commit: Commit | None) -> None:
        self._home.restore(commit.state if commit is not None else None)
        self._inputs.restore(commit.ended if commit is not None else ())

    # One micro-batch ----------------------------------------------------------------------------
    def run_once(
        self,
        *,
        limited: bool = True,
        ends: Mapping[str, Offset | None] | None = None,
        ahead: Callable[[], bool] = lambda: False,
    ) -> Progress | None:
        """Run the next batch to its commit, or None if nothing is new and the watermark has not moved.

        `ends` keeps an available-now run from passing what was there when it began; `limited` asks to
        honour the limits per trigger. `ahead` is asked once this batch only has to become durable: whether the one
        behind it may be computed meanwhile, as far as the sink allows. It is the next call's then, and so is its error.
        """
        # A sink that is at-least-once sees rows before their state is durable: what it tells cannot be adopted.
        told = self._pending if self._sink.guarantee != "at-least-once" else None
        if told is not None and (receipt := self._sink.written(told.batch)) is not None:
            return self._adopt(told, receipt)
        batch = self._next(limited, ends)
        if batch is None:
            return None
        return self._complete(batch, ahead, partial(self._compute_ahead, limited, ends))

    @property
    def is_ahead(self) -> bool:
        """Whether a batch was begun that the next call completes."""
        return self._ahead is not None or self._failed_ahead is not None

    def finish(self) -> Progress | None:
        """Declare the input ended: one last batch with an infinite watermark closes every group."""
        assert not self.is_ahead, "what was begun is completed before the input is declared ended"
        if self._last is not None and self._last.intent.final:
            return None
        self._inputs.refuse_waiting()
        return self._complete(self._execute(self._intent({}, FINAL, final=True), Phases(self._clock)))

    @property
    def is_catching_up(self) -> bool:
        """Whether the last batch read what comes before something else, so that the next one should not wait."""
        return self._last is not None and self._inputs.reads_history(self._last.intent.offsets)

    def ends(self) -> dict[str, Offset | None]:
        """How far each source goes now."""
        return self._inputs.ends()

    def still_open(self) -> str | None:
        """How much an ended run has not emitted yet, and until when; None where nothing waits."""
        if self._mode != "append" or not self._flow.evicts:
            return None
        now = self._last.watermark if self._last is not None else None
        return left_open(self._home.metrics(), now, self._flow.lonely)

    def describe_pending(self) -> str:
        """Where the run stands, with what the batch reads, for error messages."""
        return running(self._running, self._next_batch)

    def _next(self, limited: bool, ends: Mapping[str, Offset | None] | None) -> _Computed | None:
        """The batch that was computed ahead, or else the next one."""
        if self._failed_ahead is not None:
            error, self._running = self._failed_ahead
            raise error
        batch, self._ahead = self._ahead, None
        return batch or self._compute(limited, ends)

    def _compute(self, limited: bool, ends: Mapping[str, Offset | None] | None) -> _Computed | None:
        """Plan the next batch and let its rows flow; None if nothing is due."""
        phases = Phases(self._clock)
        with phases.phase("latestOffset"):
            intent = self._pending or self._plan(limited, ends)
        return self._execute(intent, phases) if intent is not None else None

    def _compute_ahead(self, limited: bool, ends: Mapping[str, Offset | None] | None) -> None:
        self._running = None
        try:
            self._ahead = self._compute(limited, ends)
        except BaseException as error:  # of the batch behind; the one in front is on its way, and shall arrive
            self._failed_ahead = error, self._running

    def _plan(self, limited: bool, ends: Mapping[str, Offset | None] | None) -> Intent | None:
        positions = self._last.positions if self._last is not None else {}
        offsets = self._inputs.latest(positions, ends, self._wall_clock(), limited=limited)
        refuse_more(self._checkpoint, self._last, offsets)
        self._patience.hear(offsets, self._wall_clock())
        watermark = self._watermark()
        moved = watermark != (self._last.watermark if self._last is not None else None)
        if not offsets and not (moved and self._flow.evicts and self._mode != "complete"):
            return None
        return self._intent(offsets, watermark, final=False)

    def _intent(self, offsets: Mapping[str, Offset], watermark: int | None, *, final: bool) -> Intent:
        late = self._last.watermark if self._last is not None else None
        now = self._wall_clock().isoformat(timespec="milliseconds")
        # The clock may have been set back; a batch's time never goes back.
        before = self._last.intent.time if self._last is not None else now
        return Intent(self._next_batch, offsets, late, watermark, max(now, before), final)

    def _watermark(self) -> int | None:
        if self._last is None:
            return None
        last, resting = self._last, self._inputs.resting
        return self._patience.least(last.watermarks, self._policy, last.watermark, self._wall_clock(), resting)

    def _execute(self, intent: Intent, phases: Phases) -> _Computed:
        """Read exactly the intended range, and let the rows flow."""
        self._running = intent
        if not (self._pending is intent or self._sink_tells):
            self._beside.begin(partial(self._checkpoint.intend, intent))
        positions = self._last.positions if self._last is not None else {}
        batch = Batch(intent.batch, datetime.fromisoformat(intent.time), intent.late, intent.watermark)
        with phases.phase("addBatch"):
            rows = self._inputs.read(positions, intent.offsets)
            try:
                outcome = self._flow.run(batch, rows, self._tables)
            except (pl.exceptions.PolarsError, OSError) as error:
                anew = f"let the batch be planned anew: ub.reset({self._checkpoint.url!r}, pending_only=True)"
                then = "start again" if self._sink_tells or self._forget_at_end else anew
                raise self._inputs.blamed(intent.offsets, error, f"Batch {intent.batch}", then) from error
            self._inputs.verify(positions, intent.offsets)
        return _Computed(intent, outcome, phases)

    def _complete(
        self, batch: _Computed, ahead: Callable[[], bool] = lambda: False, meanwhile: Callable[[], None] = lambda: None
    ) -> Progress:
        """Take a batch all the way to its commit; `meanwhile` computes the next one, if it may begin `ahead`."""
        intent, outcome, phases = batch.intent, batch.outcome, batch.phases
        self._running = intent
        with phases.phase("addBatch"):
            if self._stage is not None:
                self._beside.begin(partial(self._stage, intent.batch, outcome.rows, removed=outcome.removed))
            attempt = secrets.token_hex(8)
            remember = cache(self._sealed(intent, attempt))
            commit = self._commit_of(intent, attempt, outcome)
        if self._sink_tells:
            if not (goes_on := ahead()):
                remember()  # while rows are staged
            self._beside.begin(partial(self._write, commit, remember, outcome, phases, self._clock()))
        else:
            with phases.phase("walCommit"):
                self._beside.settle()  # the intent, before the sink sees a row
            if self._sink.guarantee != "at-least-once":
                commit = replace(commit, state=remember())  # it may be asked for this receipt
            with phases.phase("addBatch"):
                self._sink.write(intent.batch, outcome.rows, commit.record(), removed=outcome.removed)
            goes_on = ahead()  # a function that saw the rows may have stopped the query
            self._beside.begin(partial(self._commit, commit, remember, phases))
        self._last, self._pending = commit, None
        self._inputs.pass_over(intent.offsets)
        sizes = self._home.metrics()
        if goes_on:
            meanwhile()
        self._running = intent
        self._beside.settle()
        return self._conclude(intent, phases, outcome, sizes)

    def _write(self, commit: Commit, remember: _Remember, outcome: Outcome, phases: Phases, waits: float) -> None:
        """Let the batch happen: in the sink, then in the checkpoint. It `waits` since then for rows and state."""
        commit = replace(commit, state=remember())
        phases.add("walCommit", waits)
        with phases.phase("addBatch"):
            self._sink.write(commit.batch, outcome.rows, commit.record(), removed=outcome.removed)
        self._commit(commit, remember, phases)

    def _commit(self, commit: Commit, remember: _Remember, phases: Phases) -> None:
        with phases.phase("commitOffsets"):
            self._checkpoint.commit(replace(commit, state=remember()))

    def _sealed(self, intent: Intent, attempt: str) -> _Remember:
        """Fix what the batch leaves behind; it is durable when the answer is called, though the tables change on."""
        if not self._flow.tables() and not self._inputs.remember:
            return lambda: None
        self._inputs.note(intent.offsets)
        return self._home.seal(intent.batch, attempt)

    def _commit_of(self, intent: Intent, attempt: str, outcome: Outcome) -> Commit:
        """All that the next batch builds on; where the state lies is known when it is durable."""
        before = self._last
        return Commit(
            intent,
            attempt,
            positions=self._inputs.positions(before.positions if before is not None else {}, intent.offsets),
            watermarks=advanced(before.watermarks if before is not None else {}, outcome.seen, self._patience.delays),
            state=None,
            late=self._late.stage(intent, attempt, outcome.late),
            ended=sorted(self._inputs.ended_by(intent.offsets)),
        )

    def _adopt(self, intent: Intent, receipt: Mapping[str, Any]) -> Progress:
        """The sink holds the batch, only its commit is missing: take that attempt's state, never compute again."""
        self._running = intent
        commit = Commit.of(receipt)
        refuse_another_attempt(self._checkpoint, self._sink, self._home, intent, commit)
        phases = Phases(self._clock)
        with phases.phase("addBatch"):
            self._restore(commit)
        with phases.phase("commitOffsets"):
            self._checkpoint.commit(commit)
        self._last, self._pending = commit, None
        self._inputs.pass_over(intent.offsets)
        return self._conclude(intent, phases, None, self._home.metrics())

    def _conclude(
        self, intent: Intent, phases: Phases, outcome: Outcome | None, sizes: Mapping[str, Mapping[str, int]]
    ) -> Progress:
        """The batch happened, or was adopted and has no outcome: tell the sources, have it tidied, report."""
        self._running = None
        self._inputs.acknowledge(intent.offsets)
        self._late.publish(self._last)
        self._background(partial(self._tidy, intent.batch))
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
            sizes=sizes,
            state=self._home.description,
        )

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
