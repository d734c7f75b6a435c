"""How does the state of a query move into another home, so that the query goes on there as if nothing had happened?

The state of the last batch is copied, made durable in the new home, and only then a record in the checkpoint says where
it lies now. So a process that dies before that record has changed nothing for the query, and one that dies after it
has moved.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import ExitStack, closing
from typing import Any

from unbounded.checkpoint import Checkpoint
from unbounded.errors import CheckpointError
from unbounded.offline.remembered import Remembered
from unbounded.state import Home, StateRef
from unbounded.state.folders import below, files_of, folder_of
from unbounded.state.homes import StateOptions, checked_state, folder_for, home_of, open_home, options_for, written
from unbounded.storage import Storage, open_storage

__all__ = ["move_state"]

_ROWS = 1 << 17  # at once; a home may need memory beside the rows


def move_state(
    checkpoint: str | os.PathLike[str],
    state: str | StateOptions,
    *,
    from_: str | StateOptions | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Move what a query remembers into another home; start it with the same `state=` then, and it goes on exactly.

    state: where to, as for a sink: "memory", "files", the URL of a database, `ub.files_state(...)`, ...
    from_: where it is now, as the query had it; needed where that is a database, for the checkpoint has no URL.

    The query must not run, and its last batch must be complete. If this is interrupted, at any moment, either the query
    goes on where it was, or it has moved. The state passes through memory, whatever its limit is. The old home keeps
    the batches that are retained, for `ub.read_state`; then its files in the checkpoint are deleted, but tables of a
    database outside stay until `ub.reset`.

    Raises ConcurrentQueryError while a query runs on the checkpoint, CheckpointError if there is no state, if it is
    in that home already, or if a batch was begun and not completed, PlanError for a `state` that is no home.
    """
    target = checked_state(state)
    storage = open_storage(checkpoint, storage_options)
    Remembered.of(storage, None)  # a folder that is no checkpoint is not made one by the lock
    records = Checkpoint(storage)
    with ExitStack() as homes:
        homes.callback(records.close)
        records.hold("move_state")
        found = Remembered.of(storage, None)
        here, origin = folder_of(found.ref), options_for(found.ref, from_, storage.url, "from_")
        source = homes.enter_context(closing(open_home(origin, storage, here, limited=False)))
        if source.kind == target.kind and open_home(target, storage, here).description == source.description:
            raise CheckpointError(
                f"the state of {storage.url} is in {source.description} already. Start the query with "
                f"state={written(target.kind)}, or name another home"
            )
        ref = _still_there(records, found, target)
        if ref is None:
            _refuse_half_done(storage, found)
            folder = folder_for(target, None) if target.is_outside else records.free_folder
            if not target.is_outside:
                storage.remove(files_of(storage, folder))  # of a move that did not come to its end
            there = homes.enter_context(closing(open_home(target, storage, folder, limited=False)))
            ref = _copied(found, source, there)
        records.move(found.commit, ref, left=None if origin.is_outside else here)


def _still_there(records: Checkpoint, found: Remembered, target: StateOptions) -> StateRef | None:
    """The commit where it was made first, if that is the target; a batch that was begun behind it is there, too."""
    began = records.began(found.commit.batch)
    if began is None or home_of(began) != target.kind:
        return None
    try:
        with closing(open_home(target, found.storage, folder_of(began))) as home:
            return began if home.verify(began) else None
    except CheckpointError:  # a place of the same kind, in which something else is
        return None


def _refuse_half_done(storage: Storage, found: Remembered) -> None:
    """The sink may hold a batch whose state lies in the old home and whose commit is missing."""
    versions = (name.partition(".")[0] for name in below(storage, folder_of(found.ref)).names("state"))
    if any(version.isdecimal() and int(version) > found.commit.batch for version in versions):
        kind = home_of(found.ref)
        raise CheckpointError(
            f"batch {found.commit.batch + 1} of {storage.url} was begun and not completed, and its state lies in "
            f"{kind!r}. Start the query once more with state={kind!r}, until that batch is done, e.g. with "
            "trigger=ub.once(); then move the state"
        )


def _copied(found: Remembered, source: Home, target: Home) -> StateRef:
    """Everything of one commit, as one commit of another home."""
    (before, logs), (after, new_logs) = found.declared_at(source), found.declared_at(target)
    source.look(found.ref)
    target.restore(None)
    for name, table in before.items():
        for rows in table.scan().iter_slices(_ROWS):
            after[name].merge(rows)
    for name, multimap in before.multimaps.items():
        keys = multimap.scan().select(multimap.spec.key.names()).unique()
        for some in keys.iter_slices(_ROWS):  # asked for by key, rows of one key come in their order
            after.multimaps[name].append(multimap.probe(some))
    for name, log in logs.items():
        for rows in log.restored():
            new_logs[name].append(rows)
    return target.commit(found.commit.batch, secrets.token_hex(8))
