"""Which homes of state are there, how does `state=` name them, and how is one opened?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from unbounded.errors import CheckpointError, PlanError, nearest
from unbounded.sizes import size
from unbounded.state import Home, StateRef
from unbounded.state.folders import below, folder_of
from unbounded.storage import Storage

__all__ = [
    "StateOptions",
    "checked_state",
    "files_state",
    "folder_for",
    "home_of",
    "open_home",
    "options_for",
    "postgresql_state",
    "refuse_another",
    "sqlite_state",
    "written",
]

_SCHEMES = ("postgresql", "postgres")
_ALL_MEMORY = 1 << 62
_NAME = 64  # bytes from which on PostgreSQL cuts a name
_URL = '"postgresql://user:password@host/database"'


@dataclass(frozen=True, repr=False)
class StateOptions:
    """A home of state with its options, for `state=`; made by `ub.files_state(...)` and its like.

    Two of the same home with the same options are equal. Its text has no credentials.
    """

    kind: str
    """The word of the home: "memory", "files", ..."""
    options: tuple[tuple[str, Any], ...] = ()
    """Names and values, as the home takes them."""

    @property
    def is_outside(self) -> bool:
        """Whether the state lies outside of the checkpoint."""
        return any(name in ("url", "path") and value is not None for name, value in self.options)

    def __repr__(self) -> str:
        shown = {name: _without_credentials(value) if name == "url" else value for name, value in self.options}
        given = ", ".join(f"{name}={value!r}" for name, value in shown.items() if value is not None)
        return f"{self.kind}_state({given})" if given else f"StateOptions({self.kind!r})"


def files_state(memory_limit: str | int = "1GB") -> StateOptions:
    """State in memory up to about `memory_limit`, the rest in files of the checkpoint that are mapped into memory.

    For more state than fits into memory. `memory_limit` is a size such as "512MB", or a number of bytes. What a batch
    gives out does not count: rows of groups that close are in memory together, however many close at once.

    >>> files_state("512MB")
    files_state(memory_limit=512000000)
    """
    return StateOptions("files", (("memory_limit", size(memory_limit, "memory_limit")),))


def sqlite_state(memory_limit: str | int = "1GB", path: str | os.PathLike[str] | None = None) -> StateOptions:
    """State in a file of SQLite, which other tools can read while the query runs: in the checkpoint, or at `path`.

    The view `aggregate_1` has a row for each key of the step aggregate-1, as `postgresql_state` says; times in it are
    text, in UTC, and a float that is NaN is null, for SQLite has neither. Rows that a batch touches are also kept in
    memory, up to about `memory_limit`.

    SQLite has no checksums of its pages, so a bit that flips in the file on its disk may change a row unnoticed; what
    the other homes keep in files has digests. For a disk that is not trusted take "files", or a file system with
    checksums.

    >>> sqlite_state(path="state.db")
    sqlite_state(memory_limit=1000000000, path='state.db')
    """
    place = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if place is not None and (not isinstance(place, str) or place in ("", ":memory:") or "://" in place):
        raise PlanError(
            f'path is {place!r}, and state in SQLite is a file on a local disk. Write path="state.db", or leave it '
            "out for a file in the checkpoint"
        )
    return StateOptions("sqlite", (("memory_limit", size(memory_limit, "memory_limit")), ("path", place)))


def postgresql_state(url: str, schema: str | None = None, memory_limit: str | int = "1GB") -> StateOptions:
    """State in tables of a PostgreSQL database, which others can query while the query runs.

    `url` is "postgresql://user:password@host/database"; it stands in no checkpoint, progress or log. `schema` is the
    schema of the database with the tables, one of its own for each query; without it, the query's `explain()` names it.

    Each step that `explain()` names has a view: `aggregate_1` has a row for each key that aggregate-1 remembers,
    with your keys and counts, sums, means, variances, extremes and ends under your names. Of what SQL cannot say simply
    (a median, std, a sum divided by another) it has the parts, such as "sum of v"; a value that PostgreSQL cannot hold
    (a year above 9999, a NUL in a text) is null. Views change with the tables, in one transaction per batch; the table
    below is `aggregate_1_groups`. GRANT SELECT on a view lasts until the query names its columns otherwise.

    Rows that a batch touches are also kept in memory, up to about `memory_limit`.

    >>> postgresql_state("postgresql://ada:secret@db.example/sales", memory_limit="1MB")
    postgresql_state(url='postgresql://db.example/sales', memory_limit=1000000)
    """
    if not _is_postgresql(url):
        raise PlanError(
            f"postgresql_state(url) takes a URL, and this {type(url).__name__} is none of PostgreSQL. Write "
            f"ub.postgresql_state({_URL})"
        )
    if isinstance(schema, str) and schema.lower().startswith("pg_"):
        raise PlanError(
            f"schema is {schema!r}, and names that begin with pg_ are PostgreSQL's own. Write another one, such as "
            f"schema={schema[3:] or 'sales_by_hour'!r}, or leave it out for one named by the checkpoint"
        )
    if schema is not None and not (isinstance(schema, str) and 0 < len(schema.encode()) < _NAME):
        raise PlanError(
            f"schema is {schema!r}, which is no name of PostgreSQL: a text of 1 to {_NAME - 1} bytes. Write one, "
            'such as schema="sales_by_hour", or leave it out for one named by the checkpoint'
        )
    options = {"url": url, "schema": schema, "memory_limit": size(memory_limit, "memory_limit")}
    return StateOptions("postgresql", tuple(options.items()))


# By word: the module and the function that open it, and what the word alone means; None where a URL is needed. By name,
# because a program loads the home it uses, and no driver of another.
_HOMES: dict[str, tuple[str, str, StateOptions | None]] = {
    "memory": ("unbounded.state.memory.home", "MemoryHome", StateOptions("memory")),
    "files": ("unbounded.state.files.home", "files_home", files_state()),
    "sqlite": ("unbounded.state.databases.sqlite", "sqlite_home", sqlite_state()),
    "postgresql": ("unbounded.state.databases.postgresql", "postgresql_home", None),
}
_FUNCTIONS: Mapping[Callable[..., StateOptions], str] = {
    files_state: "ub.files_state()",
    sqlite_state: "ub.sqlite_state()",
    postgresql_state: f"ub.postgresql_state({_URL})",
}


def checked_state(state: object, what: str = "state") -> StateOptions:
    """What `state=` means; None is the home in memory. PlanError for anything that is no home; `what` names it."""
    if state is None:
        state = "memory"
    if isinstance(state, StateOptions):
        return state
    if isinstance(state, str) and _is_postgresql(state):
        return postgresql_state(state)
    words = {word: default for word, (_, _, default) in _HOMES.items() if default is not None}
    if isinstance(state, str) and state in words:
        return words[state]
    for function, call in _FUNCTIONS.items():
        if state is function:
            raise PlanError(f"{what} is the function {function.__name__}. Write it called: {call}")
    valid = f"{', '.join(map(repr, words))} or {_URL}, or one of these with options: {', '.join(_FUNCTIONS.values())}"
    if not isinstance(state, str):
        raise PlanError(f"{what} is of type {type(state).__name__}, which is no home of state. Write {valid}")
    scheme, is_url, _ = state.partition("://")
    shown = f"{scheme}://..." if is_url else state  # what follows may hold a password
    hint = nearest(scheme.lower(), [*words, "postgresql://..."])
    raise PlanError(f"{what} is {shown!r}, and there is no such home of state{hint or '.'} Write {valid}")


def folder_for(state: StateOptions, last: StateRef | None) -> str:
    """The folder of a checkpoint for a home, if the last commit is this one; None before the first."""
    if last is not None and home_of(last) == state.kind:
        return folder_of(last)
    return "" if state.kind == "memory" else f"homes/{state.kind}"


def open_home(state: StateOptions, storage: Storage, folder: str, *, limited: bool = True) -> Home:
    """The home, for the query whose checkpoint is in `storage`, in its folder; errors are those of the home.

    Without its limit of memory it is for one pass over everything, and not for batches.
    """
    module, function, _ = _HOMES[state.kind]
    options = dict(state.options)
    if not limited and "memory_limit" in options:
        options["memory_limit"] = _ALL_MEMORY
    home = getattr(import_module(module), function)(below(storage, folder), **options)
    return cast("Home", _InFolder(home, folder) if folder else home)


class _InFolder:
    """A home whose commits name their folder."""

    def __init__(self, home: Home, folder: str) -> None:
        self._home, self._folder = home, folder

    def commit(self, version: int, attempt: str) -> StateRef:
        return {**self._home.commit(version, attempt), "folder": self._folder}

    def seal(self, version: int, attempt: str) -> Callable[[], StateRef]:
        write = self._home.seal(version, attempt)
        return lambda: {**write(), "folder": self._folder}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._home, name)


def home_of(ref: StateRef) -> str:
    """The kind of home that holds a commit; before there were several, none was written down."""
    return str(ref.get("home", "memory"))


def options_for(ref: StateRef, state: str | StateOptions | None, where: str, what: str = "state") -> StateOptions:
    """How to open the home that holds a commit of the checkpoint `where`, if `state` is what the user said of it.

    Without a word of the user it is the home as it is by default; PlanError where that needs a URL, or is another one.
    """
    kind = home_of(ref)
    if state is None and kind in _HOMES:
        default = _HOMES[kind][2]
        if default is not None:
            return default
        raise PlanError(
            f"the state of {where} lies in the home {kind!r}, and its URL does not stand in the checkpoint. Write "
            f"{what}={written(kind)}, as for the query"
        )
    given = checked_state(state, what)
    if given.kind != kind:
        raise PlanError(
            f"the state of {where} lies in the home {kind!r} and not in {given.kind!r}. Write {what}={written(kind)}"
        )
    return given


def refuse_another(where: str, ref: StateRef | None, home: Home, *, moved: bool = False) -> None:
    """Raise CheckpointError if a commit of the checkpoint `where` lies in a home of another kind than this one.

    `moved` says that the commit before it does not: the state was moved while a batch was half done.
    """
    if ref is None or home_of(ref) == home.kind:
        return
    before, now = written(home_of(ref)), written(home.kind)
    if moved:
        raise CheckpointError(
            f"the last batch of {where} was begun in the home {home_of(ref)!r} and not completed before the state was "
            f"moved to {home.kind!r}. Move it back with ub.move_state({where!r}, {before}), start the query once with "
            f"state={before}, and move it again"
        )
    default = ", the default," if home.kind == "memory" else ""
    origin = f", from_={before}" if home_of(ref) == "postgresql" else ""
    raise CheckpointError(
        f"the state of {where} lies in the home {home_of(ref)!r}, and state={now}{default} asks for another. Nothing "
        f"was changed. Write state={before}; or move it first, with ub.move_state({where!r}, {now}{origin})"
    )


def written(kind: str) -> str:
    """How `state=` is written for a kind of home."""
    return _URL if kind == "postgresql" else f'"{kind}"'


def _is_postgresql(url: object) -> bool:
    return isinstance(url, str) and url.partition("://")[0] in _SCHEMES and "://" in url


def _without_credentials(url: str) -> str:
    """Without user, password, and what stands behind "?", which may hold them too; in doubt, no more than its kind."""
    place, _, options = url.partition("?")
    scheme, _, rest = place.partition("://")
    return f"{scheme}://{'...' if '@' in options else rest.rpartition('@')[2]}"
