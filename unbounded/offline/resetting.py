"""How does a query begin anew? Everything of its checkpoint is deleted, also what lies in a database."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

from unbounded.checkpoint import Checkpoint, everything, owner
from unbounded.errors import CheckpointError
from unbounded.state.folders import below
from unbounded.state.homes import StateOptions, checked_state, home_of, open_home, written
from unbounded.storage import Storage, open_storage

__all__ = ["reset"]


def reset(
    checkpoint: str | os.PathLike[str],
    *,
    pending_only: bool = False,
    state: str | StateOptions | Iterable[str | StateOptions] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Delete a checkpoint, so that a query starts anew there; returns the names that were deleted.

    The output of the query stays: give the new start another path, or delete the old output too. With
    `pending_only`, forget only what the next batch meant to read, so that it is planned anew: for a file that
    cannot be read, or is gone. An exactly-once sink needs no such help, for a batch that it does not hold is planned
    anew at each start; foreach_batch may have seen some of its rows.

    state: as for the query; needed where that is a database, or a file of SQLite outside of the checkpoint. The tables
        and views of this checkpoint are dropped there, its own schema too, and nothing else. Where the state was moved
        from one such place to another, a list of both.

    ConcurrentQueryError while a query runs on it; CheckpointError if the folder is no checkpoint, or if its state lies
    outside and `state` does not say where: then nothing was deleted.
    """
    storage = open_storage(checkpoint, storage_options)
    if len(everything(storage)) == 1 and "metadata" not in storage.names(""):
        raise CheckpointError(f"{storage.url} holds no checkpoint, so nothing was deleted. Check the path")
    several = [] if state is None else [state] if isinstance(state, str | StateOptions) else list(state)
    given = [checked_state(one) for one in several]
    lock = storage.lock(owner("reset", None))
    try:
        if pending_only:
            commits = [int(name) for name in storage.names("commits")]
            intents = (name for name in storage.names("offsets") if int(name) > max(commits, default=-1))
            names = [f"offsets/{name}" for name in intents]
        else:
            names = everything(storage)
            _destroy(storage, given)
        storage.remove(names)
    finally:
        lock.release()
    return names


def _destroy(storage: Storage, given: list[StateOptions]) -> None:
    """Delete what the checkpoint keeps outside, if all of that was named."""
    outside = _outside(storage)
    if unnamed := sorted(outside.keys() - {one.kind for one in given if one.is_outside}):
        places = " and ".join(_place(storage, kind) for kind in unnamed)
        ways = [_way(storage, kind) for kind in unnamed]
        state = ways[0] if len(ways) == 1 else f"[{', '.join(ways)}]"
        raise CheckpointError(
            f"the state of {storage.url} lies in {places}, outside of the checkpoint, so it would stay there. Nothing "
            f"was deleted. Write ub.reset({storage.url!r}, state={state}), as for the query; if that place is gone, "
            "delete the folder of the checkpoint yourself"
        )
    for one in given:
        for folder in outside.get(one.kind, []):
            with closing(open_home(one, storage, folder)) as home:
                if not home.destroy():
                    raise CheckpointError(
                        f"nothing of {storage.url} is in {home.description}, which state= names, so its state lies "
                        f"elsewhere: it was committed to {_place(storage, one.kind)}. The checkpoint was not deleted. "
                        "Name that place; if it is gone, delete the folder of the checkpoint yourself"
                    )


def _outside(storage: Storage) -> dict[str, list[str]]:
    """The folders of homes outside by the kind of home: each has left the id there by which it knows its place."""
    found: dict[str, list[str]] = {}
    for folder in ("", *(f"homes/{name}" for name in storage.names("homes"))):
        names = below(storage, folder).names("state")
        for kind in ("postgresql", "sqlite"):
            if kind in names and f"{kind}.db" not in names:
                found.setdefault(kind, []).append(folder)
    return found


def _place(storage: Storage, kind: str) -> str:
    """Where the last commit in a home of this kind says that it lies."""
    records = Checkpoint(storage)
    for batch in reversed(records.batches):
        for ref in (records.committed(batch).state, records.began(batch)):
            if ref is not None and home_of(ref) == kind and "place" in ref:
                return str(ref["place"])
    return f"the home {kind!r}"


def _way(storage: Storage, kind: str) -> str:
    """How a place outside is named."""
    if kind == "sqlite":
        return f"ub.sqlite_state(path={_place(storage, kind).removeprefix('SQLite file ')!r})"
    return written(kind)
