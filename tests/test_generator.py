"""Does a Python function become a stream whose rows all arrive once, or an error that says what it did otherwise?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unbounded as ub
from unbounded.errors import ConnectorError, SchemaMismatchError, SourceDataLostError
from unbounded.sources.generator import GeneratorSource

SCHEMA = {"n": pl.Int64}


class Log:
    """Numbers 0, 1, ... behind one another, given in pieces of any length."""

    def __init__(self, length: int = 0, piece: int = 2) -> None:
        self.length, self.piece = length, piece
        self.calls: list[tuple[Any, Any]] = []

    def read(self, since: Any, until: Any) -> Iterator[tuple[dict[str, list[int]], int]]:
        self.calls.append((since, until))
        first, last = since or 0, until or self.length
        while first < last:
            ends = min(first + self.piece, last)
            yield {"n": list(range(first, ends))}, ends
            first = ends


def numbers(source: GeneratorSource, since: Any, until: Any) -> list[int]:
    return source.read(since, until).collect()["n"].to_list()


def test_a_batch_ends_with_the_piece_that_reaches_the_limit() -> None:
    source = GeneratorSource(Log(10, piece=2).read, SCHEMA, max_rows_per_trigger=3)
    first = source.latest(None, None, limited=True)
    assert numbers(source, None, first) == [0, 1, 2, 3]
    second = source.latest(first, None, limited=False)
    assert numbers(source, first, second) == [4, 5, 6, 7, 8, 9]
    assert source.latest(second, None, limited=True) is None


def test_rows_that_were_pulled_for_planning_are_not_pulled_again_for_reading() -> None:
    log = Log(4)
    source = GeneratorSource(log.read, SCHEMA)
    numbers(source, None, source.latest(None, None, limited=True))
    assert log.calls == [(None, None)]


@given(piece=st.integers(1, 5), grown=st.integers(0, 5))
def test_after_a_crash_rows_come_again_however_they_are_cut_and_whatever_came_since(piece: int, grown: int) -> None:
    until = GeneratorSource(Log(4, piece=3).read, SCHEMA).latest(None, None, limited=True)
    again = GeneratorSource(Log(4 + grown, piece).read, SCHEMA)
    assert numbers(again, None, until) == [0, 1, 2, 3]


def test_a_function_that_gives_other_rows_the_second_time_is_found_out() -> None:
    until = GeneratorSource(Log(4).read, SCHEMA).latest(None, None, limited=True)
    others: dict[str, Any] = {
        "gives 3 rows up to there": lambda since, until: [({"n": [0, 1, 2]}, 4)],
        "or others": lambda since, until: [({"n": [0, 1, 2, 9]}, 4)],
        "ends without a piece of that offset": lambda since, until: [({"n": [0, 1]}, 2)],
    }
    for says, function in others.items():
        with pytest.raises(SourceDataLostError, match=rf"promised the rows of .*\(None, 4\).*{says}.*pending_only"):
            GeneratorSource(function, SCHEMA).read(None, until)


PIECES: dict[str, tuple[Any, type[Exception], str]] = {
    "no pair": ([{"n": [1]}], ConnectorError, r"not a pair of rows and an offset. Write `yield rows, offset`"),
    "no offset": ([({"n": [1]}, None)], ConnectorError, r"the offset None, which means the start"),
    "an offset that is no JSON": ([({"n": [1]}, object())], ConnectorError, r"which is no JSON value"),
    "an offset twice": ([({"n": [1]}, 1), ({"n": [2]}, 1)], ConnectorError, r"the offset 1 twice in a row"),
    "another type": ([({"n": ["a"]}, 1)], SchemaMismatchError, r"at offset 1 of .*do not fit"),
    "nothing at all": (None, ConnectorError, r"gave None, and not pieces of rows.*`yield rows, offset`"),
    "a lazy frame": ([(pl.LazyFrame({"n": [1]}), 1)], SchemaMismatchError, r"LazyFrame is no table. Give a pl.DataFr"),
    "no rows but a number": ([(5, 1)], SchemaMismatchError, r"at offset 1 of .*int is no table"),
    "tuples": ([([(1,), (2,)], 1)], SchemaMismatchError, r"a list of dicts"),
    "another column": ([({"m": [1]}, 1)], SchemaMismatchError, r"column 'n' is missing"),
}


@pytest.mark.parametrize("case", PIECES)
def test_a_piece_that_makes_no_sense_fails_before_anything_was_promised(case: str) -> None:
    pieces, error, says = PIECES[case]
    with pytest.raises(error, match=says):
        GeneratorSource(lambda since, until: pieces, SCHEMA).latest(None, None, limited=True)


def test_an_endless_function_is_read_a_batch_at_a_time() -> None:
    source = GeneratorSource(Log(10**12, piece=1000).read, SCHEMA, max_rows_per_trigger=5000)
    until = source.latest(None, None, limited=True)
    assert numbers(source, None, until) == list(range(5000))


def test_without_an_end_an_available_now_run_reads_until_nothing_is_given(tmp_path: Path) -> None:
    log = Log(5)

    def start() -> list[int]:
        frame = ub.scan_generator(log.read, schema=SCHEMA, max_rows_per_trigger=2)
        options: Any = {"checkpoint": tmp_path / "ckpt", "trigger": ub.available_now()}
        return sorted(frame.sink_parquet(tmp_path / "out", **options).read().collect()["n"])

    assert start() == [0, 1, 2, 3, 4]
    log.length = 7
    assert start() == [0, 1, 2, 3, 4, 5, 6]


def test_a_query_that_died_reads_the_same_rows_again(tmp_path: Path) -> None:
    written: list[list[int]] = []

    def start(log: Log, *, fail: bool) -> None:
        def write(rows: pl.DataFrame, batch: int) -> None:
            written.append(rows["n"].to_list())
            if fail:
                raise RuntimeError("crash")

        frame = ub.scan_generator(log.read, schema=SCHEMA, end=lambda: log.length)
        frame.foreach_batch(write, checkpoint=tmp_path / "ckpt", trigger=ub.available_now())

    with pytest.raises(RuntimeError, match="crash"):
        start(Log(3), fail=True)
    start(Log(5, piece=4), fail=False)
    assert written == [[0, 1, 2], [0, 1, 2], [3, 4]]


def test_an_error_of_the_function_is_the_error_of_the_query(tmp_path: Path) -> None:
    def broken(since: Any, until: Any) -> Iterator[Any]:
        yield {"n": [1]}, 1
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        ub.scan_generator(broken, schema=SCHEMA).sink_memory(trigger=ub.available_now())


def test_a_source_is_named_after_its_function() -> None:
    def readings(since: Any, until: Any) -> list[Any]:
        return []

    assert GeneratorSource(readings, SCHEMA).default_name == "readings"
    assert GeneratorSource(lambda since, until: [], SCHEMA).default_name == "generator"


def test_an_async_function_is_refused() -> None:
    async def rows(since: Any, until: Any) -> Any:
        yield {"n": [1]}, 1

    with pytest.raises(ub.PlanError, match=r"async function.*ordinary function"):
        ub.scan_generator(rows, schema=SCHEMA)
