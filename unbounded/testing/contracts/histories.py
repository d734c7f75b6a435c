"""What can happen to a home of state? Histories: operations done to a home and to plain lists of rows alike.

A history is a list of operations. Each is done to a home and to plain lists of rows folded by `pl.concat` and
`group_by`, and both must agree, also after a crash, and after going back to an older version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from hypothesis import strategies as st

from unbounded.state import Home, Multimap, StateRef, Table
from unbounded.testing.contracts.tables import (
    KEYS,
    Draw,
    Keys,
    Many,
    Model,
    content,
    in_order,
    keys_at,
    recent_of,
    rows_of,
    set_of,
    spec_of,
)

__all__ = ["RETAIN", "History", "Operation", "Opens", "Past", "operations"]

RETAIN = 5

Operation = tuple[Any, ...]


def operations(length: int = 14) -> st.SearchStrategy[list[Operation]]:
    """Histories: what is done to a home, one thing after another."""
    draw = st.tuples(st.integers(0, 7), st.integers(-9, 9), st.none() | st.integers(0, 30))
    draws = st.lists(draw, max_size=8)
    some = st.lists(st.integers(0, 7), max_size=5)
    return st.lists(
        st.one_of(
            st.tuples(st.just("merge"), draws),
            st.tuples(st.just("insert"), draws),
            st.tuples(st.just("append"), draws),
            st.tuples(st.just("append"), draws),
            st.tuples(st.just("expire"), st.integers(0, 30)),
            st.tuples(st.just("remove"), some),
            st.tuples(st.just("lookup"), some),
            st.tuples(st.just("probe"), some),
            st.tuples(st.just("under"), some),
            st.tuples(st.just("commit")),
            st.tuples(st.just("seal")),
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
    tables: dict[str, Model]
    multimaps: dict[str, Many]
    log: list[str]


def _nothing() -> None:
    """What there is to write where no commit was begun."""


class Opens(Protocol):
    """What opens a home, a `HomeContract` for one."""

    def open(self, place: Path) -> Home: ...


@dataclass
class History:
    """A home and its model through a history; `contract` gives a new home over the same place.

    It has all shapes: a table whose merges depend on the order of rows, a set, a set that expires, lists per key,
    ordered values per key, and a log.
    """

    contract: Opens
    place: Path
    keys: Keys
    past: list[Past] = field(default_factory=list)
    attempts: int = 0
    tidied: int = -1  # the highest version that tidy was told of
    unwritten: Callable[[], None] = _nothing

    def __post_init__(self) -> None:
        tables = {"table": spec_of(self.keys), "members": set_of(self.keys), "recent": recent_of(self.keys)}
        some = self.keys if self.keys.schema else KEYS["int64"]  # a multimap has a key
        multimaps = {"listed": Many.of(some, order=()), "ordered": Many.of(some, order=("flag", "x"))}
        self.past = [Past(-1, None, {name: Model.of(spec) for name, spec in tables.items()}, multimaps, [])]
        self.open()

    def open(self) -> None:
        """A new process: declare and restore the last commit."""
        last, self.unwritten = self.past[-1], _nothing
        self.home = self.contract.open(self.place)
        self.tables = {name: self.home.table(name, model.spec) for name, model in last.tables.items()}
        self.multimaps = {name: self.home.multimap(name, model.spec) for name, model in last.multimaps.items()}
        self.log = self.home.log("log", pl.Schema({"row": pl.String}))
        self.restore()

    @property
    def table(self) -> Table:
        return self.tables["table"]

    def restore(self) -> None:
        last = self.past[-1]
        self.home.restore(last.ref)
        self.folded = {name: model.copy() for name, model in last.tables.items()}
        self.listed = {name: model.copy() for name, model in last.multimaps.items()}
        self.added = list(last.log)
        assert [row for frame in self.log.restored() for row in frame["row"]] == last.log
        assert list(self.log.restored()) == []
        self.check()

    def check(self) -> None:
        shapes: dict[str, Table | Multimap] = {**self.tables, **self.multimaps}
        models: dict[str, Model | Many] = {**self.folded, **self.listed}
        for name, model in models.items():
            rows = shapes[name].scan()
            assert content(rows) == content(model.rows)
            assert rows.schema == model.rows.schema
            assert len(shapes[name]) == model.rows.height

    def run(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            self.do(*operation)
        self.check()
        self.do("crash")

    def do(self, verb: str, *arguments: Any) -> None:
        match verb, *arguments:
            case "merge" | "insert", draws:
                for name, model in self.folded.items():
                    rows = rows_of(self.keys, draws).select(model.rows.columns)
                    assert content(getattr(self.tables[name], verb)(rows)) == content(getattr(model, verb)(rows))
            case "append", draws:
                self.append(draws)
            case "expire", watermark:
                for name, model in self.folded.items():
                    assert content(self.tables[name].expire(watermark)) == content(model.expire(watermark))
                for name, many in self.listed.items():
                    assert content(self.multimaps[name].expire(watermark)) == content(many.expire(watermark))
            case "remove", chosen:
                for name, model in self.folded.items():
                    self.tables[name].remove(keys_at(self.keys, chosen))
                    model.remove(keys_at(self.keys, chosen))
                for name, many in self.listed.items():
                    self.multimaps[name].remove(keys_at(many.keys, chosen))
                    many.remove(keys_at(many.keys, chosen))
            case "lookup", chosen:
                keys = keys_at(self.keys, chosen)
                for name, model in self.folded.items():
                    assert in_order(self.tables[name].lookup(keys)) == in_order(model.lookup(keys))
            case "probe", chosen:
                for name, many in self.listed.items():
                    keys = keys_at(many.keys, chosen).with_row_index("asked")
                    assert in_order(self.multimaps[name].probe(keys)) == in_order(many.probe(keys))
            case "under", chosen:
                for name, many in self.listed.items():
                    found = self.multimaps[name].under(keys_at(many.keys, [*chosen, *chosen]))
                    assert not Counter(content(many.under(keys_at(many.keys, chosen)))) - Counter(content(found))
                    assert not Counter(content(found)) - Counter(content(many.rows))
            case ("commit",):
                self.seal()
                self.write()
            case ("seal",):
                self.seal()
            case ("tidy",):
                self.write()
                self.tidied = max(self.tidied, self.past[-1].version)
                self.home.tidy(self.past[-1].version)
            case ("abandon",):
                self.write()
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

    def append(self, draws: Sequence[Draw]) -> None:
        frame = pl.DataFrame({"row": [repr(draw) for draw in draws]}, schema={"row": pl.String})
        self.log.append(frame)
        self.added += frame["row"].to_list()
        for name, many in self.listed.items():
            rows = rows_of(many.keys, draws)
            self.multimaps[name].append(rows)
            many.append(rows)

    def seal(self) -> None:
        """Begin a commit, which what follows must not change; it is lost if a crash comes before `write`."""
        self.write()
        version, self.attempts = self.past[-1].version + 1, self.attempts + 1
        commit = self.home.seal(version, f"attempt{self.attempts}")
        tables = {name: model.copy() for name, model in self.folded.items()}
        multimaps = {name: many.copy() for name, many in self.listed.items()}
        log = list(self.added)

        def write() -> None:
            ref = commit()
            assert self.home.verify(ref)
            assert ref["home"] == self.home.kind
            self.past.append(Past(version, ref, tables, multimaps, log))

        self.unwritten = write

    def write(self) -> None:
        """Make the commit durable that was begun, if there is one."""
        self.unwritten, write = _nothing, self.unwritten
        write()
