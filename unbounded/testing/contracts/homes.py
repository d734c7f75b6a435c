"""What must every home of state do? Subclass `HomeContract`, say how to open a home, and pytest runs the contract."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from unbounded.errors import CheckpointError
from unbounded.state import Home, Multimap, MultimapSpec, StateRef, Table
from unbounded.storage import TEMPORARY
from unbounded.testing.contracts.histories import RETAIN, History, Operation, operations
from unbounded.testing.contracts.tables import KEYS, NAN, Keys, content, recent_of, rows_of, spec_of

__all__ = ["RETAIN", "History", "HomeContract", "Operation"]

_BIDS = MultimapSpec(
    pl.Schema({"item": pl.String(), "lot": pl.Float64()}),
    pl.Schema({"price": pl.Int64(), "by": pl.String(), "until": pl.Int64()}),
    "until",
)


# --------------------------------------------------------------------------------------- contract
def _table(home: Home, keys: Keys = KEYS["int64"]) -> Table:
    table = home.table("table", spec_of(keys))
    home.restore(None)
    return table


def _bids(home: Home, order: tuple[str, ...] = ()) -> Multimap:
    bids = home.multimap("bids", replace(_BIDS, order=order))
    home.restore(None)
    return bids


def _bid(*rows: tuple[str | None, float | None, int | None]) -> pl.DataFrame:
    """Bids on (item, lot) at a price; `by` numbers them, and they last until their price."""
    frame = pl.DataFrame(list(rows), schema={**_BIDS.key, "price": pl.Int64}, orient="row")
    number = pl.int_range(pl.len()).cast(pl.String)
    return frame.select(*_BIDS.key, "price", by="bid " + number, until=pl.col("price"))


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

    examples = 6

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

    def test_a_set_that_expires_gives_the_new_ones_and_those_that_were_forgotten(self, tmp_path: Path) -> None:
        home = self.open(tmp_path)
        seen = home.table("seen", recent_of(KEYS["string"]))
        home.restore(None)
        assert seen.insert(_seen(("a", 10), ("b", 20), ("a", 30))).rows() == [("a", 10), ("b", 20)]
        assert seen.insert(_seen(("b", 90), ("c", 20))).rows() == [("c", 20)]
        assert content(seen.expire(20)) == content(_seen(("a", 10), ("b", 20), ("c", 20)))
        assert seen.insert(_seen(("b", 40), ("b", 50))).rows() == [("b", 40)]

    # ------------------------------------------------------------------------------- multimaps
    def test_a_probe_gives_the_rows_of_each_key_as_they_arrived_also_over_a_restart(self, tmp_path: Path) -> None:
        home = self.open(tmp_path)
        bids = _bids(home)
        bids.append(_bid(("a", 1.0, 5), ("b", 1.0, 7), ("a", 1.0, 5)))
        bids.append(_bid(("a", 2.0, 1), ("a", 1.0, 3)))
        bids.expire(3)  # what arrives now may lie where those lay that went
        bids.append(_bid(("a", 1.0, 9), ("a", 1.0, 4)))
        ref = home.commit(0, "a")
        home.tidy(0)
        again = self.open(tmp_path)
        restored = again.multimap("bids", _BIDS)
        again.restore(ref)
        asked = pl.DataFrame({"item": ["b", "x", "a", "b"], "lot": 1.0})
        for each in (bids, restored):
            assert each.probe(asked).select("item", "price", "by").rows() == [
                ("b", 7, "bid 1"),
                ("a", 5, "bid 0"),
                ("a", 5, "bid 2"),
                ("a", 9, "bid 0"),
                ("a", 4, "bid 1"),
                ("b", 7, "bid 1"),
            ]

    def test_a_probe_follows_the_order_of_the_spec_nulls_first_then_arrival(self, tmp_path: Path) -> None:
        bids = _bids(self.open(tmp_path), order=("price",))
        bids.append(_bid(("a", 1.0, 5), ("a", 1.0, 2), ("a", 1.0, None)))
        bids.append(_bid(("a", 1.0, 9), ("a", 1.0, 2), ("a", 1.0, -1)))
        asked = pl.DataFrame({"item": ["a", "a"], "lot": 1.0})
        ordered = [(None, "bid 2"), (-1, "bid 2"), (2, "bid 1"), (2, "bid 1"), (5, "bid 0"), (9, "bid 0")]
        assert bids.probe(asked).select("price", "by").rows() == 2 * ordered

    def test_a_probe_finds_null_and_nan_and_hands_on_what_came_with_the_keys(self, tmp_path: Path) -> None:
        bids = _bids(self.open(tmp_path))
        bids.append(_bid((None, NAN, 1), (None, None, 2), ("a", -0.0, 3), ("a", NAN, 4)))
        asked = pl.DataFrame({"lot": [0.0, None, -NAN, 1.0], "from": [1, 2, 3, 4], "item": ["a", None, None, "a"]})
        found = bids.probe(asked)
        assert found.columns == ["lot", "from", "item", "price", "by", "until"]
        assert found.select("from", "price").rows() == [(1, 3), (2, 2), (3, 1)]
        assert len(bids) == 4

    def test_removing_keys_forgets_all_their_rows_and_no_other(self, tmp_path: Path) -> None:
        bids = _bids(self.open(tmp_path))
        bids.append(_bid(("a", 1.0, 1), ("b", 1.0, 2), ("a", 1.0, 3), ("a", None, 4)))
        bids.remove(pl.DataFrame({"item": ["a", "x", "a"], "lot": 1.0}))
        assert content(bids.scan().select("item", "price")) == [repr(("a", 4)), repr(("b", 2))]
        assert bids.probe(pl.DataFrame({"item": ["a"], "lot": 1.0})).height == 0

    def test_a_key_with_many_rows_and_the_others_beside_it_stay_exact(self, tmp_path: Path) -> None:
        """Half of all rows are under one key; rows go in the order of arrival, and then all but a few."""
        home = self.open(tmp_path)
        bids, model = _bids(home), pl.DataFrame(schema={**_BIDS.key, **_BIDS.values})
        asked = pl.DataFrame({"item": ["hot", "cold 7", "cold 8"], "lot": 0.0})
        for batch in range(30):
            items = [f"cold {place % 40}" if place % 2 else "hot" for place in range(batch, batch + 400)]
            rows = _bid(*((item, 0.0, 10 * batch + place % 10) for place, item in enumerate(items)))
            bids.append(rows)
            gone = pl.col("price") <= (10 * batch - 100 if batch < 20 else 10 * batch + 7)
            model = pl.concat([model, rows]).filter(~gone)
            bids.expire(10 * batch - 100 if batch < 20 else 10 * batch + 7)
            expected = asked.join(model, on=["item", "lot"], maintain_order="left_right")
            assert bids.probe(asked).equals(expected)
            assert len(bids) == model.height
            home.commit(batch, "a")
            home.tidy(batch)

    # --------------------------------------------------------------------------------- expiry
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

    def test_the_end_of_time_forgets_every_row_once_but_those_that_never_expire(self, tmp_path: Path) -> None:
        story = History(self, tmp_path, KEYS["int64"])
        rows = [(0, 1, 5), (1, 1, None), (2, 1, 20)]
        story.run([("merge", rows), ("append", rows), ("commit",), ("expire", 10), ("remove", [2]), ("commit",)])
        story.run([("expire", 2**63 - 1), ("commit",), ("crash",), ("expire", 2**63 - 1)])
        assert story.table.scan()["until"].to_list() == [None]

    def test_a_commit_without_changes_is_tiny(self, tmp_path: Path) -> None:
        story = History(self, tmp_path, KEYS["integer and string"])
        story.do("merge", [(place, 1, None) for place in range(8)])
        story.do("commit")
        before = _bytes(tmp_path)
        story.do("commit")
        assert _bytes(tmp_path) - before < self.tiny

    tiny = 2500  # bytes; a home that writes pages needs a few of them

    def test_a_look_shows_its_version_while_others_follow_and_disturbs_none(self, tmp_path: Path) -> None:
        keys, logged = KEYS["int64"], pl.Schema({"row": pl.Int64()})
        home = self.open(tmp_path)
        table, log = home.table("table", spec_of(keys)), home.log("log", logged)
        home.restore(None)
        past: list[tuple[StateRef, pl.DataFrame]] = []

        def commit(version: int) -> None:
            table.merge(rows_of(keys, [(version, 1, None), (7, 1, None)]))
            log.append(pl.DataFrame({"row": [version]}))
            past.append((home.commit(version, "a"), table.scan()))

        for version in range(3):
            commit(version)
        for version in range(3):
            ref, rows = past[version]
            reader = self.open(tmp_path)
            shown, entries = reader.table("table", spec_of(keys)), reader.log("log", logged)
            reader.look(ref)
            commit(version + 3)
            home.tidy(version + 3)
            assert content(shown.scan()) == content(rows)
            assert content(shown.lookup(rows.select(keys.schema.names()))) == content(rows)
            assert [row for frame in entries.restored() for row in frame["row"]] == list(range(version + 1))
        assert content(table.scan()) == content(past[-1][1])

    def test_a_look_leaves_alone_what_the_query_is_writing_just_now(self, tmp_path: Path) -> None:
        table = _table(home := self.open(tmp_path))
        table.merge(rows_of(KEYS["int64"], [(0, 1, None)]))
        ref = home.commit(0, "a")
        begun = [place / f"{TEMPORARY}0" for place in (tmp_path, *tmp_path.rglob("*")) if place.is_dir()]
        for file in begun:
            file.touch()
        reader = self.open(tmp_path)
        reader.table("table", spec_of(KEYS["int64"]))
        reader.look(ref)
        assert [file for file in begun if not file.exists()] == []

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

    def test_a_closed_home_leaves_what_it_committed_and_no_more_to_those_behind_it(self, tmp_path: Path) -> None:
        keys = KEYS["int64"]
        home = self.open(tmp_path)
        table = _table(home, keys)
        table.merge(rows_of(keys, [(0, 1, None)]))
        ref, expected = home.commit(0, "a"), content(table.scan())
        table.merge(rows_of(keys, [(1, 1, None)]))
        home.close()
        home.close()
        again = self.open(tmp_path)
        found = again.table("table", spec_of(keys))
        for restored, one in ((found, again), (table, home)):
            one.restore(ref)
            assert content(restored.scan()) == expected
            one.close()

    def test_metrics_count_rows_and_bytes(self, tmp_path: Path) -> None:
        home = self.open(tmp_path)
        _table(home).merge(rows_of(KEYS["int64"], [(0, 1, None), (1, 1, None), (0, 1, None)]))
        metrics = home.metrics()["table"]
        assert metrics["rows"] == 2
        assert metrics["bytes"] > 0


def _seen(*rows: tuple[str, int]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema={"k": pl.String, "until": pl.Int64}, orient="row")


def _bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
