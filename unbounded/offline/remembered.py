"""What does a query remember? Its state as tables, for every batch that is retained, without the query."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from unbounded.checkpoint import Checkpoint, Commit
from unbounded.errors import CheckpointError, PlanError, nearest
from unbounded.operators import Batch, Tables
from unbounded.operators.answer import Answer, schema_from, spec_from
from unbounded.state import Home, Log, StateRef
from unbounded.state.folders import folder_of
from unbounded.state.homes import StateOptions, home_of, open_home, options_for
from unbounded.storage import Storage, open_storage

__all__ = ["Remembered", "read_state", "read_state_metadata"]

_TRIES = 5


def read_state(
    checkpoint: str | os.PathLike[str],
    operator: str | None = None,
    batch_id: int | None = None,
    raw: bool = False,
    *,
    storage_options: Mapping[str, Any] | None = None,
    state: str | StateOptions | None = None,
) -> pl.LazyFrame:
    """What an operator of a query remembers, as it was after a batch; read now, whether the query runs or not.

    An aggregate gives its keys and finished aggregates under the user's names, with windows, as the step itself makes
    them: a `having` behind it leaves nothing out. `unique` gives the values it has seen; `top_k`, `tail`,
    `merge_sorted` and what looks along time the rows they keep; `head`, `slice` and `with_row_index` how many came.

    operator: such as "aggregate-1", as `explain()` names it; may be left out when there is one. With the name of a
        table behind it, "aggregate-1/groups", that table as it is stored.
    batch_id: the last one by default; the last 100 are retained.
    raw: the parts that are stored in place of the answer, such as the count and the sum that make a mean, a row for
        each key. Values of their own tables (of a median, say) are read under the names of these.
    state: as for the query; needed where that is a database, for the checkpoint does not hold its URL.

    The state of all operators is read into memory for that. A query that runs is not disturbed.

    Raises PlanError for an operator that is not there, CheckpointError if there is no such batch, or no state.
    """
    storage = open_storage(checkpoint, storage_options)
    for left in reversed(range(_TRIES)):
        found = Remembered.of(storage, batch_id)
        try:
            return found.rows(operator, state, raw=raw)
        except CheckpointError:
            # A query that runs may have gone on so far that it deleted these files.
            if left == 0 or batch_id is not None or Checkpoint(storage).batches[-1:] == [found.commit.batch]:
                raise
    raise AssertionError


def read_state_metadata(
    checkpoint: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> pl.LazyFrame:
    """What `read_state` can read, a row for each operator and table.

    operator, table: the names; `read_state(checkpoint, f"{operator}/{table}")` gives the table as it is stored.
    kind: what the operator does, "aggregate", "unique", ...
    home: where the state of the last batch lies, the word for `state=`.
    key, values: lists of the columns, and what they are.
    min_batch_id, max_batch_id: the first and the last batch that can be read.

    CheckpointError if there is no state.
    """
    found = Remembered.of(open_storage(checkpoint, storage_options), None)
    rows = []
    for operator, said in found.operators.items():
        for table, record in said["tables"].items():
            spec = spec_from(record)
            parts = said["answer"]["parts"] if said["answer"]["table"] == table else []
            known = dict(zip(spec.values, parts, strict=False))
            rows.append(
                {
                    "operator": operator,
                    "kind": operator.rpartition("-")[0],
                    "table": table,
                    "home": home_of(found.ref),
                    "key": [f"{name}: {dtype}" for name, dtype in spec.key.items()],
                    "values": [f"{name}: {known.get(name, dtype)}" for name, dtype in spec.values.items()],
                    "min_batch_id": found.first,
                    "max_batch_id": found.commit.batch,
                }
            )
    text, texts, number = pl.String(), pl.List(pl.String), pl.Int64()
    names = dict.fromkeys(("operator", "kind", "table", "home"), text)
    columns = {**names, "key": texts, "values": texts, "min_batch_id": number, "max_batch_id": number}
    return pl.LazyFrame(rows, schema=columns)


@dataclass(frozen=True, eq=False)
class Remembered:
    """The state of a checkpoint after one batch, before it is read; `first` is the oldest batch that is retained."""

    storage: Storage
    commit: Commit
    ref: StateRef
    described: Mapping[str, Any]
    first: int

    @staticmethod
    def of(storage: Storage, batch: int | None) -> Remembered:
        """The state after a batch, or after the last one. CheckpointError if there is none."""
        records = Checkpoint(storage)
        batches = records.batches
        if not batches:
            raise CheckpointError(
                f"{storage.url} holds no batch, so there is no state to read. Check the path; a query writes its "
                "state with its first batch"
            )
        asked = batches[-1] if batch is None else batch
        if not isinstance(asked, int) or isinstance(asked, bool):
            raise PlanError(
                f"batch_id is {asked!r}, and batches are numbered. Write batch_id= from {batches[0]} to {batches[-1]}, "
                "or leave it out for the last one"
            )
        if asked not in batches:
            raise CheckpointError(
                f"batch {asked} is not retained in {storage.url}. Write batch_id= from {batches[0]} to {batches[-1]}, "
                "or leave it out for the last one"
            )
        commit = records.committed(asked)
        described = records.described(asked)
        if commit.state is None:
            raise CheckpointError(
                f"the query of {storage.url} remembers nothing, so there is no state to read. Its rows are in its "
                "sink: ub.read_sink(path) or query.read()"
            )
        if described is None:
            raise CheckpointError(
                f"{storage.url} does not say what the state of batch {asked} means, for it was written by an earlier "
                "version. Start the query once, and its next batches can be read"
            )
        return Remembered(storage, commit, commit.state, described, batches[0])

    @property
    def operators(self) -> Mapping[str, Any]:
        """What is known of the operators, by their names."""
        found: Mapping[str, Any] = self.described["operators"]
        return found

    def rows(self, asked: str | None, state: str | StateOptions | None, *, raw: bool) -> pl.LazyFrame:
        """The answer of an operator, or a table as it is stored; see `read_state`."""
        operator, table = self._chosen(asked)
        said = self.operators[operator]
        names = " or ".join(f'"{operator}/{one}"' for one in said["tables"])
        if not (table or said["answer"]["table"]):
            raise PlanError(f"{operator} keeps the rows of two streams, with columns of their own. Write {names}")
        if raw and not table:
            table = said["answer"]["table"]
        answer = None if table else self._answer(operator)
        options = options_for(self.ref, state, self.storage.url)
        home = open_home(options, self.storage, folder_of(self.ref), limited=False)
        with closing(home):
            return self._shown(home, operator, table, answer)

    def _shown(self, home: Home, operator: str, table: str, answer: Answer | None) -> pl.LazyFrame:
        tables, _ = self.declared_at(home)
        home.look(self.ref)
        if answer is None:
            return tables.rows(f"{operator}/{table}").lazy()
        said = self.operators[operator]
        own = {f"{operator}/{name}": name for name in said["tables"]}
        tables = Tables(
            {own[name]: table for name, table in tables.items() if name in own},
            {own[name]: multimap for name, multimap in tables.multimaps.items() if name in own},
        )
        intent = self.commit.intent
        batch = Batch(intent.batch, datetime.fromisoformat(intent.time), intent.late, intent.watermark)
        return answer.over(tables.rows(answer.table), tables, batch)

    def _chosen(self, asked: str | None) -> tuple[str, str]:
        """The operator that is asked for, and its table, or ""."""
        several = ", ".join(map(repr, self.operators))
        if asked is None and len(self.operators) == 1:
            return next(iter(self.operators)), ""
        if not self.operators:
            raise CheckpointError(f"no operator of {self.storage.url} remembers anything; only its sources do")
        if asked is None:
            raise PlanError(
                f"{len(self.operators)} operators of {self.storage.url} remember. Write operator= one of {several}"
            )
        if not isinstance(asked, str):
            raise PlanError(f"operator is {asked!r}, and operators have names. Write operator= one of {several}")
        operator, _, table = asked.partition("/")
        if operator not in self.operators:
            hint = nearest(operator, self.operators)
            raise PlanError(f"operator {asked!r} is not in {self.storage.url}{hint} (there are: {several})")
        tables = self.operators[operator]["tables"]
        if table and table not in tables:
            hint, there = nearest(table, tables), ", ".join(f"'{operator}/{one}'" for one in tables)
            raise PlanError(f"{operator} keeps no table {table!r}{hint} (there are: {there})")
        return operator, table

    def _answer(self, operator: str) -> Answer:
        said = self.operators[operator]
        record = said["answer"]
        raw = " or ".join(f'"{operator}/{one}"' for one in said["tables"])
        if record["columns"] is None:
            raise PlanError(
                f"how {operator} makes its answer could not be written into the checkpoint without code. Read the "
                f"parts that are stored: operator={raw}"
            )
        try:
            return Answer.of(record, spec_from(said["tables"][record["table"]]))
        except pl.exceptions.ComputeError as error:
            raise PlanError(
                f"{operator} was written down by another version of Polars, which this one, {pl.__version__}, cannot "
                f"read. Start the query once, or read the parts that are stored: operator={raw}"
            ) from error

    def declared_at(self, home: Home) -> tuple[Tables, Mapping[str, Log]]:
        """Everything that the query declares, declared at a home to be looked at or filled: tables, and logs."""
        specs = {
            f"{operator}/{name}": spec_from(record)
            for operator, said in self.operators.items()
            for name, record in said["tables"].items()
        }
        logs = {name: home.log(name, schema_from(text)) for name, text in self.described["logs"].items()}
        return Tables.declared(home, specs), logs
