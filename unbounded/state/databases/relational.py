"""How is state kept in a SQL database, a version per transaction, and how does it go back to an older one?

    __place       whose state it is, and how its keys are written
    __versions    one row per commit that can be restored, with its attempt and note
    __tables      what the tables of state are called here; see `unbounded.state.databases.relations`
    __log         rows of logs, a piece per commit
    __views       the views that people look at, and how they were made; see `unbounded.state.databases.views`

A commit is one transaction. An older version is looked at through what the later ones have changed; only the next
commit takes these back for good, because a restart may look at an older version before it adopts a newer one.

Nothing is locked between commits. A commit is refused if the newest version is not the one that was seen last, so of
two processes only one goes on.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, partial
from typing import Any

import polars as pl

from unbounded.errors import CheckpointError, ConcurrentQueryError, CorruptRecordError, PlanError
from unbounded.state import StateRef
from unbounded.state.changelog import stream_of
from unbounded.state.databases.encoding import key_text, quoted
from unbounded.state.databases.relations import Database, Relation, Statement, destruction
from unbounded.state.layered.cold import Changes, Layout
from unbounded.storage import Storage, decode, digest, encode

__all__ = ["Relational"]

_TABLES = {
    "__place": "id text, writing text",
    "__versions": "version bigint PRIMARY KEY, digest text, attempt text, note text",
    "__tables": "name text PRIMARY KEY, relation text",
    "__log": "name {text}, version bigint, level smallint, digest text, rows {blob}, PRIMARY KEY (name, version)",
    "__views": "name text PRIMARY KEY, definition text",
}
_STRIDE = 16  # commits after which old versions are forgotten
_SLICE = 4096  # rows that are deleted at once, while the query waits
_PIECES = 64  # of a log: read at once, or joined to one
_LEVELS = 2  # how often a piece may have been joined


class Relational:
    """State in a database, of the query whose checkpoint is in `storage`; both hold an id that tells it."""

    def __init__(self, database: Database, storage: Storage, *, retain: int = 100) -> None:
        self.database, self._storage, self._retain = database, storage, retain
        self.kind = database.kind
        self._relations: dict[str, Relation] = {}
        self._logs: set[str] = set()
        self._id = ""
        self._version: int | None = None  # what is looked at; None before the first commit
        self._newest: tuple[int, str] | None = None  # what was seen there last: version and digest
        self._forgotten = 0
        self._viewed = False  # whether the views are as the declarations say

    @property
    def description(self) -> str:
        return self.database.description

    # ------------------------------------------------------------------------------- declarations
    def rows(self, name: str, layout: Layout) -> Relation:
        relation = Relation(self.database, layout, self._refuse_change)
        if relation.width > self.database.widest:
            raise PlanError(
                f"state {name!r} needs {relation.width} columns, and a table of {self.kind} has at most "
                f"{self.database.widest}. Cut the step into several with fewer aggregates each, or keep its state in "
                'memory or files: state="files"'
            )
        self._relations[name] = relation
        return relation

    def log(self, name: str, schema: pl.Schema) -> None:
        self._logs.add(name)

    # ------------------------------------------------------------------------------------- opening
    def _open(self, *, create: bool) -> bool:
        """As `_found`, and refuse keys that are written otherwise."""
        if not self._found(create=create):
            return False
        if self.database.fetch("SELECT writing FROM __place") != [(_writing(),)]:
            raise CheckpointError(
                f"{self.description} was written with another version of polars or unbounded, which write keys as "
                "other text, so rows would not be found. Nothing was changed. Go back to these versions and move the "
                "state to another home with ub.move_state, or start with a new checkpoint"
            )
        return True

    def _found(self, *, create: bool) -> bool:
        """Connect; whether there is a place of this checkpoint. CheckpointError if it is another one's."""
        self._id = self._identity(create=create)
        if not self._id or not self.database.open(self._id, create=create):
            return False
        if create:
            with self.database.transaction():
                self.database.run(self._creation())
                if not self.database.fetch("SELECT 1 FROM __place"):
                    self.database.run([Statement("INSERT INTO __place VALUES ($1, $2)", (self._id, _writing()))])
        if not self.database.has("__place"):
            return False
        if self.database.fetch("SELECT id FROM __place") != [(self._id,)]:
            raise CheckpointError(
                f"{self.description} holds the state of another checkpoint than {self._storage.url}. Nothing was "
                "changed. Give each query a place of its own, or delete what is there if it is no longer needed; if "
                "one of the two was restored from a backup, restore the other one, too"
            )
        return True

    def _identity(self, *, create: bool) -> str:
        """The id that the checkpoint holds; empty if it has none."""
        name = f"state/{self.kind}"
        try:
            record, _ = decode(self._storage.read(name), "place", 0, f"{self._storage.url}/{name}")
            return str(record["id"])
        except FileNotFoundError:
            if not create:
                return ""
        identity = secrets.token_hex(16)
        self._storage.put(name, encode("place", 0, {"id": identity}))
        return identity

    def _creation(self) -> list[Statement]:
        types = {"text": self.database.text, "blob": self.database.blob}
        tables = {name: columns.format(**types) for name, columns in _TABLES.items()}
        return [Statement(f"CREATE TABLE IF NOT EXISTS {name} ({columns})") for name, columns in tables.items()]

    # -------------------------------------------------------------------------- commit and restore
    def restore(self, ref: StateRef | None) -> Mapping[str, Any]:
        with self.database.turn:
            self.database.present()
            self._viewed = False
            there = self._open(create=ref is None)
            if ref is not None:
                return self._show(ref, there=there)
            self._newest, self._version = self._seen(), None
            for relation in self._relations.values():
                relation.begin(None)
            return {}

    def look(self, ref: StateRef) -> Mapping[str, Any]:
        with self.database.turn:
            self.database.present()
            there = self._open(create=False)
            if there:
                self.database.snapshot()
            return self._show(ref, there=there)

    def _show(self, ref: StateRef, *, there: bool) -> Mapping[str, Any]:
        """Begin with what a commit left, and give its note."""
        self._newest = self._seen() if there else None
        version, note = self._committed(ref) if there else (-1, None)
        if note is None or self._newest is None:
            raise CheckpointError(self._lost(ref))
        self._version = version
        tables = dict(self.database.fetch("SELECT name, relation FROM __tables"))
        for name, relation in self._relations.items():
            relation.begin(tables.get(name), version if version < self._newest[0] else None)
        found: Mapping[str, Any] = json.loads(note)
        return found

    def _seen(self) -> tuple[int, str] | None:
        found = self.database.fetch("SELECT version, digest FROM __versions ORDER BY version DESC LIMIT 1")
        return (found[0][0], found[0][1]) if found else None

    def _committed(self, ref: StateRef) -> tuple[int, str | None]:
        """The version of a commit and its note; None if it is not there as it was."""
        number, _, attempt = str(ref["name"]).rpartition("/")[2].partition(".")
        version = int(number) if number.isdecimal() else -1
        sql = "SELECT note FROM __versions WHERE version = $1 AND attempt = $2 AND digest = $3"
        found = self.database.fetch(sql, version, attempt, str(ref["digest"]))
        whole = found and self._digest(version, attempt, found[0][0]) == ref["digest"]
        return version, found[0][0] if whole else None

    def _lost(self, ref: StateRef) -> str:
        newest = "no commit" if self._newest is None else f"versions up to {self._newest[0]}"
        told = f"the state {ref['name']} is not in {self.description}, which has {newest} of the last {self._retain}"
        before = str(ref.get("place", self.description))
        if not before.startswith(self.description):  # which has no schema as long as none was looked for
            return (
                f"{told}: it was committed to {before}, and state= names another place. Nothing was changed. Write "
                "state= as it was; to take it there, move it with ub.move_state; if the place itself was moved, all "
                "of it has to come along"
            )
        return (
            f"{told}. Nothing was changed. If the place was restored from a backup, restore the one that belongs to "
            "the checkpoint; or start with a new checkpoint and a new output path"
        )

    def _digest(self, version: int, attempt: str, note: str) -> str:
        return digest(f"{self._id} {version}.{attempt} {note}".encode())

    def commit(
        self,
        version: int,
        attempt: str,
        changes: Mapping[str, Changes],
        added: Mapping[str, pl.DataFrame],
        note: Mapping[str, Any],
    ) -> StateRef:
        text = json.dumps(note, sort_keys=True, allow_nan=False)
        newest = version, self._digest(version, attempt, text)
        with self.database.turn, self.database.transaction():
            self._refuse_change()
            self._go_back()
            statements = [] if self._viewed else self._views()
            for name, change in changes.items():
                relation = self._relations[name]
                relation.prepare()
                relation.fill(change)
                statements += relation.change(version)
            for name, rows in added.items():
                statements.append(_piece(name, version, 0, rows))
            sql = "INSERT INTO __versions (version, digest, attempt, note) VALUES ($1, $2, $3, $4)"
            self.database.run([*statements, Statement(sql, (*newest, attempt, text))])
        self._version, self._newest, self._viewed = version, newest, True
        for relation in self._relations.values():
            relation.look_ahead()
        return {"name": f"state/{version}.{attempt}", "digest": newest[1], "place": self.description}

    def _refuse_change(self) -> None:
        with self.database.turn:
            seen = self._seen()
        if seen != self._newest:
            raise ConcurrentQueryError(
                f"another process has written to {self.description} meanwhile: its newest version is "
                f"{'gone' if seen is None else seen[0]}. Nothing of this batch was committed. Let only one process run "
                "a query, and start it again; state that was only read can be read again"
            )

    def _go_back(self) -> None:
        """What is looked at becomes what is there; before the first commit that is nothing."""
        if self._version is not None:
            statements = [each for relation in self._relations.values() for each in relation.go_back()]
            if self._newest is not None and self._newest[0] > self._version:
                for table in ("__versions", "__log"):
                    statements.append(Statement(f"DELETE FROM {table} WHERE version > $1", (self._version,)))
            self.database.run(statements)
            return
        statements = self._destruction()
        statements += [Statement(f"DELETE FROM {table}") for table in _TABLES if table != "__place"]
        taken: set[str] = set()
        for name, relation in self._relations.items():
            table = _table_name(name, taken)
            taken.add(table)
            relation.begin(table)
            statements += [Statement("INSERT INTO __tables VALUES ($1, $2)", (name, table)), *relation.creation()]
        self.database.run(statements)

    def _destruction(self) -> list[Statement]:
        """No view and no table of state."""
        views = self.database.fetch("SELECT name FROM __views")
        statements = [Statement(f"DROP VIEW IF EXISTS {quoted(view)}") for (view,) in views]
        for (table,) in self.database.fetch("SELECT relation FROM __tables"):
            statements += destruction(table)
        return statements

    def _views(self) -> list[Statement]:
        """What makes the views as the declarations say; one that is so already keeps who may read it."""
        taken = {table for _, table in self.database.fetch("SELECT name, relation FROM __tables")}
        wanted = {}
        for name, relation in self._relations.items():
            if definition := relation.view():
                view = _table_name(name.partition("/")[0], taken)
                taken.add(view)
                wanted[view] = definition
        there: dict[str, str] = dict(self.database.fetch("SELECT name, definition FROM __views"))
        statements = []
        for view in sorted(wanted.keys() | there.keys()):
            if wanted.get(view) == there.get(view):
                continue
            statements.append(Statement(f"DROP VIEW IF EXISTS {quoted(view)}"))
            statements.append(Statement("DELETE FROM __views WHERE name = $1", (view,)))
            if view in wanted:
                statements.append(Statement(f"CREATE VIEW {quoted(view)} AS {wanted[view]}"))
                statements.append(Statement("INSERT INTO __views VALUES ($1, $2)", (view, wanted[view])))
        return statements

    def verify(self, ref: StateRef) -> bool:
        with self.database.turn:
            return self._open(create=False) and self._committed(ref)[1] is not None

    def destroy(self) -> bool:
        """As `Cold.destroy`."""
        with self.database.turn:
            self.database.present()
            if not self._found(create=False):
                return False
            with self.database.transaction():
                own = [Statement(f"DROP TABLE {table}") for table in _TABLES]
                self.database.run([*self._destruction(), *own])
            self.database.vanish()
            return True

    def close(self) -> None:
        """As `Cold.close`."""
        with self.database.turn:
            for relation in self._relations.values():
                relation.begin(None)
            self.database.close()

    # ---------------------------------------------------------------------------------------- logs
    def logged(self, name: str) -> Iterator[pl.DataFrame]:
        last, until = -1, -1 if self._version is None else self._version
        sql = (
            "SELECT version, digest, rows FROM __log WHERE name = $1 AND version > $2 AND version <= $3 "
            f"ORDER BY version LIMIT {_PIECES}"
        )
        while last < until:
            with self.database.turn:
                pieces = self.database.fetch(sql, name, last, until)
            if not pieces:
                break
            for last, written, rows in pieces:
                yield self._rows_of(name, last, written, bytes(rows))

    def _rows_of(self, name: str, version: int, written: str, rows: bytes) -> pl.DataFrame:
        if digest(rows) != written:
            raise CorruptRecordError(
                f"the log {name!r} in {self.description} has digest {digest(rows)} at version {version} where "
                f"{written} was written; it was damaged. Restore the place and the checkpoint from a backup, or start "
                "with a new checkpoint"
            )
        return pl.read_ipc_stream(rows)

    # ---------------------------------------------------------------------------------------- tidy
    def tidy(self, committed: int) -> None:
        """As `Home.tidy`. In steps, between which the query may have the connection."""
        if committed // _STRIDE == self._forgotten // _STRIDE:
            return
        self._forgotten, oldest = committed, committed - self._retain + 1
        self._step(lambda: [Statement("DELETE FROM __versions WHERE version < $1", (oldest,))])
        for relation in list(self._relations.values()):
            self._repeat(partial(relation.forget, oldest, _SLICE))
        for name in list(self._logs):
            for level in range(_LEVELS):
                self._repeat(partial(self._joined, name, level, oldest))
        self.database.tidy()

    def _repeat(self, statements: Callable[[], list[Statement]]) -> None:
        while self._step(statements):
            continue

    def _step(self, statements: Callable[[], list[Statement]]) -> bool:
        """Do something in a transaction of its own; whether there was something to do."""
        with self.database.turn, self.database.transaction():
            found = statements()
            self.database.run(found)
            return bool(found)

    def _joined(self, name: str, level: int, until: int) -> list[Statement]:
        """The oldest pieces of a log, as one; nothing if they are too few."""
        sql = (
            "SELECT version, digest, rows FROM __log WHERE name = $1 AND level = $2 AND version <= $3 "
            f"ORDER BY version LIMIT {_PIECES}"
        )
        pieces = self.database.fetch(sql, name, level, until)
        if len(pieces) < _PIECES:
            return []
        frames = [self._rows_of(name, version, written, bytes(rows)) for version, written, rows in pieces]
        last = pieces[-1][0]
        whole = pl.concat([frame.select(frames[0].columns) for frame in frames])  # a restart may reorder columns
        old = "DELETE FROM __log WHERE name = $1 AND level = $2 AND version <= $3"
        return [Statement(old, (name, level, last)), _piece(name, last, level + 1, whole)]


def _piece(name: str, version: int, level: int, rows: pl.DataFrame) -> Statement:
    content = bytes(stream_of(rows))
    sql = "INSERT INTO __log (name, version, level, digest, rows) VALUES ($1, $2, $3, $4, $5)"
    return Statement(sql, (name, version, level, digest(content), content))


def _table_name(name: str, taken: Collection[str]) -> str:
    """What a table is called in the database, where people read it: `aggregate_1_groups`."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40] or "state"
    return plain if plain not in taken else f"{plain}_{digest(name.encode())[:8]}"


@cache
def _writing() -> str:
    """How keys are written here; another text for one of these would be another key."""
    sample = {
        "s": ["", 'a "b" \\ /', "\0\n\t\x7f", "é\u2028😀", None],
        "f": [0.1, 1e300, 5e-324, float("nan"), float("-inf")],
        "n": [1, -1, None, 0, 2**62],
        "l": [[1.5, None], [], None, [float("nan")], [1e21]],
        "t": [{"b": b"\0a", "d": 1}, {"b": None, "d": None}, None, {"b": b"", "d": 0}, {"b": b"x", "d": -1}],
    }
    rows = pl.DataFrame(sample)
    return digest(*(text.encode() for text in rows.select(key_text(rows.schema)).to_series()))
