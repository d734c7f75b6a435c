"""What must every source do? Subclass `SourceContract`, say how to make one, and these sentences are tested of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, cast, get_args

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from unbounded.connectors import Offset, Remembers, Source, Verifies

__all__ = ["NewWorld", "Run", "SourceContract", "World", "as_stored"]


class World(Protocol):
    """An input outside, empty at first."""

    def open(self) -> Source:
        """A source of this input, as a restarted process would make it."""

    def grow(self) -> pl.DataFrame:
        """Let at least one row arrive, different from all before; the rows that did."""


NewWorld = Callable[[], World]

Crash = Literal["planned", "read", "committed"]
"""After which act of a batch the process dies; what was logged before is found again."""


def as_stored(offset: Offset) -> Offset:
    """An offset as it comes back from the checkpoint."""
    return json.loads(json.dumps(offset, allow_nan=False))


@dataclass
class Run:
    """What the engine does with a source, and what of it survives a crash."""

    world: World
    source: Source = field(init=False)
    committed: Offset | None = None
    planned: Offset | None = None
    memory: list[pl.DataFrame] = field(default_factory=list)
    rows: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.source = self.world.open()
        if isinstance(self.source, Remembers):
            for rows in self.memory:
                self.source.remember(rows)
        if self.committed is not None:
            self.source.acknowledge(self.committed)  # the process may have died before it did

    @property
    def since(self) -> Offset | None:
        """The last offset, unless the source knows for itself."""
        return None if isinstance(self.source, Remembers) else self.committed

    def batch(self, *, end: Offset | None = None, limited: bool = True, crash: Crash | None = None) -> bool:
        """One micro-batch; whether there was one to do."""
        if self.planned is None:
            until = self.source.latest(self.since, end, limited=limited)
            if until is None:
                return False
            self.planned = as_stored(until)
        if crash == "planned":
            self.restart()
            return True
        rows = self.source.read(self.since, self.planned).collect()
        if isinstance(self.source, Verifies):
            self.source.verify(self.since, self.planned)
        if crash == "read":
            self.restart()
            return True
        self._commit(rows, self.planned)
        if crash == "committed":
            self.restart()
        elif isinstance(self.source, Remembers):
            self.source.remember(self.memory[-1])
        self.source.acknowledge(self.committed)
        return True

    def _commit(self, rows: pl.DataFrame, until: Offset) -> None:
        self.rows.append(rows)
        if isinstance(self.source, Remembers):
            self.memory.append(self.source.memory(until))
        self.committed, self.planned = until, None

    def drain(self, *, end: Offset | None = None, limited: bool = True) -> None:
        while self.batch(end=end, limited=limited):
            pass

    def table(self) -> pl.DataFrame:
        return pl.concat([self.source.schema.to_frame(), *self.rows])


def _same(found: pl.DataFrame, *expected: pl.DataFrame) -> None:
    assert_frame_equal(found, pl.concat([found.clear(), *expected]), check_row_order=False)


class SourceContract:
    """Give a fixture `new_world`: a function that makes, each time it is called, a new and empty `World`."""

    examples: ClassVar[int] = 25  # scripts that hypothesis draws

    def test_it_is_known_by_the_same_name_schema_and_line_after_a_restart(self, new_world: NewWorld) -> None:
        world = new_world()
        before, after = world.open(), world.open()
        assert before.default_name == after.default_name != ""
        assert before.schema == after.schema
        assert before.description == after.description
        assert "\n" not in before.description

    def test_an_input_without_rows_has_nothing_to_read(self, new_world: NewWorld) -> None:
        source = new_world().open()
        end = source.end()
        assert source.latest(None, None, limited=True) is None
        assert source.latest(None, None, limited=False) is None
        assert end is None or source.latest(None, end, limited=True) is None

    def test_rows_have_exactly_the_schema(self, new_world: NewWorld) -> None:
        world = new_world()
        source = world.open()
        world.grow()
        rows = source.read(None, source.latest(None, None, limited=True))
        assert rows.collect_schema() == rows.collect().schema == source.schema

    def test_an_offset_is_json_and_survives_it(self, new_world: NewWorld) -> None:
        world = new_world()
        source = world.open()
        grown = world.grow()
        until = source.latest(None, None, limited=False)
        assert until is not None
        assert as_stored(until) == until
        _same(source.read(None, as_stored(until)).collect(), grown)

    def test_without_limits_all_that_is_there_is_taken_at_once(self, new_world: NewWorld) -> None:
        world = new_world()
        run = Run(world)
        grown = [world.grow() for _ in range(5)]
        assert run.batch(limited=False)
        assert not run.batch(limited=False)
        _same(run.table(), *grown)

    def test_with_limits_all_that_is_there_is_taken_in_the_end(self, new_world: NewWorld) -> None:
        world = new_world()
        run = Run(world)
        grown = [world.grow() for _ in range(5)]
        run.drain()
        _same(run.table(), *grown)

    def test_planning_a_batch_twice_plans_the_same(self, new_world: NewWorld) -> None:
        world = new_world()
        source = world.open()
        for _ in range(3):
            world.grow()
        first = source.latest(None, None, limited=True)
        assert source.latest(None, None, limited=True) == first

    def test_the_same_range_has_the_same_rows_whatever_arrives_later(self, new_world: NewWorld) -> None:
        world = new_world()
        source = world.open()
        world.grow()
        until = source.latest(None, None, limited=True)
        before = source.read(None, until).collect()
        world.grow()
        assert_frame_equal(source.read(None, until).collect(), before)
        assert_frame_equal(world.open().read(None, as_stored(until)).collect(), before)

    def test_two_ranges_that_meet_are_one(self, new_world: NewWorld) -> None:
        world = new_world()
        source = world.open()
        if isinstance(source, Remembers):
            return  # its offsets are increments: a range has no inside
        world.grow()
        middle = source.latest(None, None, limited=True)
        world.grow()
        last = source.latest(middle, None, limited=True)
        parts = [source.read(None, middle).collect(), source.read(middle, last).collect()]
        assert_frame_equal(pl.concat(parts), source.read(None, last).collect())

    def test_what_arrives_after_the_end_is_left_for_the_next_run(self, new_world: NewWorld) -> None:
        world = new_world()
        run = Run(world)
        before = [world.grow() for _ in range(3)]
        end = run.source.end()
        assert end is not None
        after = world.grow()
        run.drain(end=end)
        _same(run.table(), *before)
        run.drain()
        _same(run.table(), *before, after)

    def test_a_run_that_starts_with_everything_read_ends_at_once(self, new_world: NewWorld) -> None:
        world = new_world()
        run = Run(world)
        world.grow()
        run.drain()
        run.restart()
        end = run.source.end()
        world.grow()
        assert end is not None
        assert not run.batch(end=end)

    def test_being_reminded_of_a_batch_again_changes_nothing(self, new_world: NewWorld) -> None:
        world = new_world()
        run = Run(world)
        grown = [world.grow()]
        run.drain()
        if isinstance(run.source, Remembers):
            assert pl.Schema(run.source.memory_schema) == run.memory[0].schema
            run.source.remember(run.memory[0])
        run.source.acknowledge(run.committed)
        grown.append(world.grow())
        run.drain()
        _same(run.table(), *grown)

    def test_no_row_is_lost_or_doubled_wherever_the_process_dies(self, new_world: NewWorld) -> None:
        step = st.one_of(
            st.just("grow"),
            st.tuples(st.booleans(), st.none() | st.sampled_from(get_args(Crash))),
        )

        @settings(max_examples=self.examples)
        @given(script=st.lists(step, max_size=12))
        def law(script: list[str | tuple[bool, Crash | None]]) -> None:
            world = new_world()
            run = Run(world)
            grown = []
            for act in script:
                if act == "grow":
                    grown.append(world.grow())
                else:
                    limited, crash = cast("tuple[bool, Crash | None]", act)
                    run.batch(limited=limited, crash=crash)
            run.drain()
            _same(run.table(), *grown)

        law()
