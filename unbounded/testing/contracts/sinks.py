"""What must every sink do? Subclass `SinkContract`, say how to make one, and these sentences are tested of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from unbounded.connectors import Identity, Mode, Receipt, Sink, Tidies
from unbounded.errors import SinkOwnedError

__all__ = ["KEY", "SCHEMA", "Batch", "Reopen", "SinkContract", "batches", "open_sink", "play", "table"]

SCHEMA = pl.Schema({"key": pl.String, "value": pl.Int64})
KEY = ("key",)
QUERY = Identity("query-1", "run-1", "delays")

Reopen = Callable[[], Sink]
"""Makes a sink for the same place as before: what a restarted process would hold."""


@dataclass(frozen=True)
class Batch:
    rows: tuple[tuple[str | None, int | None], ...] = ()
    removed: tuple[str | None, ...] = ()

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(list(self.rows), SCHEMA, orient="row")

    def removed_frame(self) -> pl.DataFrame:
        return pl.DataFrame({"key": list(self.removed)}, {"key": SCHEMA["key"]})


def table(mode: Mode, written: Sequence[Batch]) -> pl.DataFrame:
    """What a sink must hold after these batches, in plain Python."""
    match mode:
        case "append":
            rows = [row for batch in written for row in batch.rows]
        case "complete":
            rows = list(written[-1].rows) if written else []
        case "update":
            newest: dict[str | None, int | None] = {}
            for batch in written:
                for key in [*batch.removed, *(key for key, _ in batch.rows)]:
                    newest.pop(key, None)
                newest.update(batch.rows)
            rows = list(newest.items())
    return pl.DataFrame(rows, SCHEMA, orient="row")


def receipt(number: int) -> Receipt:
    return {"batch": number, "sources": {"in": {"until": [number, None, 1.5]}}, "final": False}


def open_sink(reopen: Reopen, mode: Mode, query: Identity = QUERY) -> Sink:
    sink = reopen()
    if mode not in sink.modes:
        pytest.skip(f"{sink.description} does not offer {mode} mode")
    sink.open(query, SCHEMA, KEY if mode == "update" else (), mode)
    return sink


def play(sink: Sink, mode: Mode, script: Sequence[Batch], *, since: int = 0) -> None:
    """What the engine does: ask, write what is not there, go on."""
    for number, batch in enumerate(script[since:], since):
        if sink.written(number) is None:
            removed = batch.removed_frame() if mode == "update" else batch.removed_frame().clear()
            sink.write(number, batch.frame(), receipt(number), removed=removed)


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    """Scripts with few keys, so that they meet; with nulls, empty batches, and keys removed and written at once."""
    keys = st.sampled_from(["a", "b", "", "ü/../%", None])
    values = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
    distinct: Any = {"unique_by": lambda row: row[0], "max_size": 4}
    rows = st.lists(st.tuples(keys, values), **distinct).map(tuple)
    removed = st.lists(keys, unique=True, max_size=2).map(tuple)
    return draw(st.lists(st.builds(Batch, rows, removed), max_size=8))


FEW = [
    Batch((("b", 1), ("a", 2))),
    Batch(),
    Batch((("c", 3), ("b", 4)), removed=("a",)),
    Batch((("a", 5),), removed=("b",)),
]


@dataclass
class _Place:
    """A place and the sink that has it open."""

    reopen: Reopen
    mode: Mode
    sink: Sink = field(init=False)

    def __post_init__(self) -> None:
        self.sink = open_sink(self.reopen, self.mode)

    def restart(self) -> None:
        """As after a kill: the old object is left as it is."""
        self.sink = open_sink(self.reopen, self.mode)


@pytest.mark.parametrize("mode", get_args(Mode))
class SinkContract:
    """Give a fixture `new_place`: a function that makes, each time it is called, a `Reopen` for a new and empty place.

    A sink that cannot be read back overrides `rows`, one that mixes the rows of a batch sets `keeps_order = False`.
    """

    keeps_order: ClassVar[bool] = True
    examples: ClassVar[int] = 25  # scripts that hypothesis draws

    @pytest.fixture
    def new_place(self) -> Callable[[], Reopen]:
        raise NotImplementedError("a contract suite needs the fixture new_place")

    def rows(self, sink: Sink) -> pl.DataFrame:
        return sink.read().collect()

    def check(self, sink: Sink, expected: pl.DataFrame) -> None:
        assert_frame_equal(self.rows(sink), expected, check_row_order=self.keeps_order)

    def test_an_opened_sink_holds_no_rows_and_knows_no_batch(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        sink = open_sink(new_place(), mode)
        self.check(sink, SCHEMA.to_frame())
        assert sink.written(0) is None

    def test_it_holds_the_table_of_all_batches(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        sink = open_sink(new_place(), mode)
        for number in range(len(FEW)):
            play(sink, mode, FEW[: number + 1], since=number)
            self.check(sink, table(mode, FEW[: number + 1]))

    def test_rows_keep_their_order(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        if not self.keeps_order:
            pytest.skip("does not promise it")
        sink = open_sink(new_place(), mode)
        script = [Batch(tuple((f"{n * 7 % 10}{part}", n) for n in range(10))) for part in "yx"]
        play(sink, mode, script)
        self.check(sink, table(mode, script))

    def test_zero_rows_are_a_batch_too(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        sink = open_sink(new_place(), mode)
        script = [Batch(), FEW[0], Batch()]
        play(sink, mode, script)
        self.check(sink, table(mode, script))
        if sink.guarantee == "exactly-once":
            assert sink.written(0) == receipt(0)

    def test_what_was_read_stays_as_it_was(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        sink = open_sink(new_place(), mode)
        play(sink, mode, FEW[:1])
        before = sink.read()
        play(sink, mode, FEW, since=1)
        assert_frame_equal(before.collect(), table(mode, FEW[:1]), check_row_order=self.keeps_order)

    def test_written_returns_exactly_the_receipt_or_none(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        place = _Place(new_place(), mode)
        if place.sink.guarantee != "exactly-once":
            pytest.skip("knows no receipts")
        play(place.sink, mode, FEW)
        for _ in range(2):
            assert [place.sink.written(n) for n in range(5)] == [*map(receipt, range(4)), None]
            place.restart()

    def test_a_batch_written_again_after_a_failure_shows_once(
        self, new_place: Callable[[], Reopen], mode: Mode
    ) -> None:
        place = _Place(new_place(), mode)
        if place.sink.guarantee != "exactly-once":
            pytest.skip("does not promise it")
        for number in range(len(FEW)):
            play(place.sink, mode, FEW[: number + 1], since=number)
            place.restart()  # before the engine commits, so it comes again with the same batch
            play(place.sink, mode, FEW[: number + 1], since=number)
        self.check(place.sink, table(mode, FEW))

    def test_another_query_is_refused_and_both_are_named(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        place = _Place(new_place(), mode)
        play(place.sink, mode, FEW[:1])
        with pytest.raises(SinkOwnedError, match=r"query-1(.|\n)*query-2"):
            open_sink(place.reopen, mode, Identity("query-2", "run-2", None))

    def test_restarts_and_tidying_change_nothing(self, new_place: Callable[[], Reopen], mode: Mode) -> None:
        @settings(max_examples=self.examples, deadline=None)
        @given(batches(), st.data())
        def law(script: list[Batch], data: st.DataObject) -> None:
            place = _Place(new_place(), mode)
            for number in range(len(script)):
                play(place.sink, mode, script[: number + 1], since=number)
                if isinstance(place.sink, Tidies) and data.draw(st.booleans(), label="tidy"):
                    place.sink.tidy(number)
                if place.sink.guarantee == "exactly-once" and data.draw(st.booleans(), label="restart"):
                    place.restart()
            self.check(place.sink, table(mode, script))

        law()
