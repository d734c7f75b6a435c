"""What must every home of state do? Subclass `HomeContract`, say how to open a home, and pytest runs the contract.

A history is a list of operations. Each is done to a home and to plain lists of rows folded by `pl.concat` and
`group_by`, and both must agree, also after a crash, and after going back to an older version.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbounded.errors import CheckpointError
from unbounded.state import Home, StateRef, Table
from unbounded.testing.contracts.tables import KEYS, Keys, Model, content, in_order, rows_of, set_of, spec_of

__all__ = ["RETAIN", "Operation", "Past", "HomeContract", "History", "operations"]

RETAIN = 5


# ------------------------------------------------------------------------------------------ story
Operation = tuple[Any, ...]


def operations(length: int = 14) -> st.SearchStrategy[list[Operation]]:
    """Histories: what is done to a home, one thing after another."""
    draw = st.tuples(st.integers(0, 7), st.integers(-9, 9), st.none() | st.integers(0, 30))
    draws = st.lists(draw, max_size=8)
    return st.lists(
        st.one_of(
            st.tuples(st.just("merge"), draws),
            st.tuples(st.just("insert"), draws),
            st.tuples(st.just("expire"), st.integers(0, 30)),
            st.tuples(st.just("remove"), st.lists(st.integers(0, 7), max_size=3)),
            st.tuples(st.just("lookup"), st.lists(st.integers(0, 7), max_size=5)),
            st.tuples(st.just("append"), draws),
            st.tuples(st.just("commit")),
            st.tuples(st.just("commit")),
            st.tuples(st.just("tidy")),
            st.tuples(st.just("abandon")),
            st.tuples(st.just("crash")),
            st.tuples(st.just("go back"), st.integers(1, RETAIN)),
        ),
        min_size=length // 2,
        max_size=length,
    )


@dataclass(eq=False)
class Past:
    """One commit and what must be there after restoring it; the first has no ref."""

    version: int
    ref: StateRef | None
    table: Model
    members: Model
    log: list[str]


@dataclass
class History:
    """A home and its model through a history. `opened` gives a new home over the same place."""

    contract: HomeContract
    place: Path
    keys: Keys
    past: list[Past] = field(default_factory=list)
    attempts: int = 0
    tidied: int = -1  # the highest version that tidy was told of

    def __post_init__(self) -> None:
        self.past = [Past(-1, None, Model.of(spec_of(self.keys)), Model.of(set_of(self.keys)), [])]
        self.open()

    def open(self) -> None:
        """A new process: declare and restore the last commit."""
        self.home = self.contract.open(self.place)
        self.table = self.home.table("table", spec_of(self.keys))
        self.members = self.home.table("members", set_of(self.keys))
        self.log = self.home.log("log", pl.Schema({"row": pl.String}))
        self.restore()

    def restore(self) -> None:
        last = self.past[-1]
        self.home.restore(last.ref)
        self.model, self.set, self.added = last.table.copy(), last.members.copy(), list(last.log)
        assert [row for frame in self.log.restored() for row in frame["row"]] == last.log
        assert list(self.log.restored()) == []
        self.check()

    def check(self) -> None:
        for table, model in ((self.table, self.model), (self.members, self.set)):
            assert content(table.scan()) == content(model.rows)
            assert table.scan().schema == model.rows.schema
            assert len(table) == model.rows.height

    def run(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            self.do(*operation)
        self.check()
        self.do("crash")

    def do(self, verb: str, *arguments: Any) -> None:
        match verb, *arguments:
            case "merge" | "insert", draws:
                rows = rows_of(self.keys, draws)
                members = rows.select(self.set.rows.columns)
                assert content(getattr(self.table, verb)(rows)) == content(getattr(self.model, verb)(rows))
                assert content(getattr(self.members, verb)(members)) == content(getattr(self.set, verb)(members))
            case "expire", watermark:
                assert content(self.table.expire(watermark)) == content(self.model.expire(watermark))
                assert self.members.expire(watermark).height == 0
            case "remove", places:
                keys = self.keys_at(places)
                for table, model in ((self.table, self.model), (self.members, self.set)):
                    table.remove(keys)
                    model.remove(keys)
            case "lookup", places:
                keys = self.keys_at(places)
                for table, model in ((self.table, self.model), (self.members, self.set)):
                    assert in_order(table.lookup(keys)) == in_order(model.lookup(keys))
            case "append", draws:
                frame = pl.DataFrame({"row": [repr(draw) for draw in draws]}, schema={"row": pl.String})
                self.log.append(frame)
                self.added += frame["row"].to_list()
            case ("commit",):
                self.commit()
            case ("tidy",):
                self.tidied = max(self.tidied, self.past[-1].version)
                self.home.tidy(self.past[-1].version)
            case ("abandon",):
                self.restore()
            case ("crash",):
                self.open()
            case "go back", steps:
                retained = [past for past in self.past[1:] if past.version > self.tidied - RETAIN]
                if retained:
                    self.past = self.past[: self.past.index(retained[max(0, len(retained) - 1 - steps)]) + 1]
                self.open()
            case _:
                raise AssertionError(verb)

    def keys_at(self, places: Sequence[int]) -> pl.DataFrame:
        rows = rows_of(self.keys, [(place, 0, None) for place in places])
        return rows.select(self.keys.schema.names()) if self.keys.schema else pl.DataFrame(height=rows.height)

    def commit(self) -> None:
        version, self.attempts = self.past[-1].version + 1, self.attempts + 1
        ref = self.home.commit(version, f"attempt{self.attempts}")
        assert self.home.verify(ref)
        self.past.append(Past(version, ref, self.model.copy(), self.set.copy(), list(self.added)))


# --------------------------------------------------------------------------------------- contract
def _table(home: Home, keys: Keys = KEYS["int64"]) -> Table:
    table = home.table("table", spec_of(keys))
    home.restore(None)
    return table


class HomeContract:
    """Subclass and say how a home is opened over a folder; it must retain RETAIN versions."""

    @abstractmethod
    def open(self, place: Path) -> Home:
        """A home with nothing declared; a second one on the same place finds what the first has committed."""

    @pytest.mark.parametrize("kind", KEYS)
    def test_any_history_is_as_folding_everything_anew(self, kind: str) -> None:
        @settings(max_examples=self.examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(operations())
        def any_history(history: list[Operation]) -> None:
            with TemporaryDirectory() as place:
                History(self, Path(place), KEYS[kind]).run(history)

        any_history()

    examples = 8

    def test_every_retained_version_can_be_restored(self, tmp_path: Path) -> None:
        story = History(self, tmp_path, KEYS["integer and string"])
        for number in range(41):
            story.do("merge", [(number + place, number, 3 * number % 31) for place in range(4)])
            story.do("remove", [number % 7])
            story.do("append", [(0, number, None)])
            story.do("expire", number // 2)
            story.do("commit")
            story.do("tidy")
        while story.past[-1].version > 40 - RETAIN + 1:
            story.do("go back", 1)

    def test_a_batch_in_pieces_gives_the_same_table(self, tmp_path: Path) -> None:
        draws = [(place % 5, place, place) for place in range(40)]
        whole, pieces = (_table(self.open(tmp_path / name)) for name in ("whole", "pieces"))
        whole.merge(rows_of(KEYS["int64"], draws))
        for start in range(0, 40, 7):
            pieces.merge(rows_of(KEYS["int64"], draws[start : start + 7]))
        assert content(whole.scan()) == content(pieces.scan())

    def test_merge_gives_each_touched_key_once_in_order_of_first_appearance(self, tmp_path: Path) -> None:
        table = _table(self.open(tmp_path))
        table.merge(rows_of(KEYS["int64"], [(5, 1, None), (2, 1, None)]))
        touched = table.merge(rows_of(KEYS["int64"], [(0, 1, None), (2, 1, None), (1, 1, None), (0, 1, None)]))
        assert touched["k"].to_list() == [0, -1, 1]
        assert touched["n"].to_list() == [2, 2, 1]

    def test_insert_gives_the_first_of_equal_new_keys_in_order(self, tmp_path: Path) -> None:
        table = _table(self.open(tmp_path))
        table.insert(rows_of(KEYS["int64"], [(1, 9, None)]))
        inserted = table.insert(rows_of(KEYS["int64"], [(2, 1, None), (1, 2, None), (0, 3, None), (2, 4, None)]))
        assert inserted.select("k", "n").rows() == [(-1, 1), (0, 3)]

    def test_lookup_finds_the_rows_that_are_there_and_hands_on_what_came_with_the_keys(self, tmp_path: Path) -> None:
        table = _table(self.open(tmp_path))
        table.insert(rows_of(KEYS["int64"], [(1, 9, None), (0, 4, None)]))
        asked = pl.DataFrame({"k": [7, 0, 1, 0], "from": ["a", "b", "c", "d"]})
        found = table.lookup(asked)
        assert found.columns == ["k", "from", *table.spec.values]
        assert found.select("k", "from", "n").rows() == [(0, "b", 4), (1, "c", 9), (0, "d", 4)]
        assert len(table) == 2

    def test_a_watermark_that_falls_means_the_highest_so_far(self, tmp_path: Path) -> None:
        table = _table(self.open(tmp_path))
        table.expire(10)
        table.merge(rows_of(KEYS["int64"], [(0, 1, 9), (1, 1, 11)]))
        assert table.expire(3)["until"].to_list() == [9]

    def test_a_row_that_arrives_overdue_stays_until_the_next_expire_also_over_a_restart(self, tmp_path: Path) -> None:
        story = History(self, tmp_path, KEYS["int64"])
        story.run([("expire", 10), ("merge", [(0, 1, 5)]), ("commit",), ("crash",), ("tidy",)])
        assert len(story.table) == 1
        story.do("expire", 10)
        assert len(story.table) == 0
        story.do("commit")
        story.do("crash")

    def test_rows_that_expired_stay_gone_over_later_commits(self, tmp_path: Path) -> None:
        story = History(self, tmp_path, KEYS["int64"])
        story.run([("merge", [(0, 1, 5), (1, 1, 20)]), ("commit",), ("expire", 10), ("commit",), ("crash",)])
        story.run([("merge", [(2, 1, 20)]), ("commit",), ("crash",), ("merge", [(3, 1, 4)]), ("commit",), ("crash",)])
        assert len(story.table) == 3

    def test_a_commit_without_changes_is_tiny(self, tmp_path: Path) -> None:
        story = History(self, tmp_path, KEYS["integer and string"])
        story.do("merge", [(place, 1, None) for place in range(8)])
        story.do("commit")
        before = _bytes(tmp_path)
        story.do("commit")
        assert _bytes(tmp_path) - before < 2500

    def test_restoring_other_names_or_columns_is_refused_naming_both(self, tmp_path: Path) -> None:
        home = self.open(tmp_path)
        _table(home).merge(rows_of(KEYS["int64"], [(0, 1, None)]))
        ref = home.commit(0, "a")
        renamed = self.open(tmp_path)
        renamed.table("other", spec_of(KEYS["int64"]))
        with pytest.raises(CheckpointError, match=r"(?s)'other'.*'table'"):
            renamed.restore(ref)
        retyped = self.open(tmp_path)
        retyped.table("table", spec_of(KEYS["int8"]))
        with pytest.raises(CheckpointError, match=r"Int64.*Int8"):
            retyped.restore(ref)

    def test_a_commit_that_is_not_there_is_not_verified_and_not_restored(self, tmp_path: Path) -> None:
        home = self.open(tmp_path)
        _table(home)
        ref = home.commit(0, "a")
        assert home.verify(ref)
        for wrong in ({**ref, "name": "state/0.b"}, {**ref, "digest": "0" * 32}):
            assert not home.verify(wrong)
            with pytest.raises(CheckpointError, match=str(wrong["name"])):
                home.restore(wrong)

    def test_metrics_count_rows_and_bytes(self, tmp_path: Path) -> None:
        home = self.open(tmp_path)
        _table(home).merge(rows_of(KEYS["int64"], [(0, 1, None), (1, 1, None), (0, 1, None)]))
        metrics = home.metrics()["table"]
        assert metrics["rows"] == 2
        assert metrics["bytes"] > 0


def _bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
