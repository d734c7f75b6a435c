"""Do the checkpoint, the sink and the home of the state tell of the same batches?"""

from __future__ import annotations

from collections.abc import Mapping

from unbounded.checkpoint import Checkpoint, Commit, Intent
from unbounded.connectors import Mode, Offset, Sink
from unbounded.errors import CheckpointError, ConnectorError, FinishedError
from unbounded.state import Home
from unbounded.state.homes import refuse_another

__all__ = ["refuse_another_attempt", "refuse_another_history", "refuse_more"]


def refuse_another_history(checkpoint: Checkpoint, sink: Sink, home: Home, mode: Mode, following: int) -> None:
    """CheckpointError or ConnectorError if one of the three is older than another; `following` is no batch of any.

    A crash leaves the sink ahead by the one batch that was begun; anything else means a restored backup.
    """
    if sink.written(following) is not None:
        raise CheckpointError(
            f"{checkpoint.url} ends before batch {following}, which {sink.description} already holds: "
            "the checkpoint is older than its output. Restore the newer checkpoint, or start with a new "
            "checkpoint and a new output path"
        )
    last = checkpoint.last
    # A memory sink of another process began empty, and would show a part of the answer as the whole.
    remembers = sink.guarantee == "exactly-once" or (sink.keeps_table and mode != "complete")
    if last is not None and remembers and sink.written(last.batch) is None:
        raise ConnectorError(
            f"{sink.description} does not hold batch {last.batch}, which {checkpoint.url} says "
            "was written there. Restore the output, or start with a new checkpoint and a new output path"
        )
    refuse_another(checkpoint.url, last.state if last is not None else None, home)


def refuse_another_attempt(checkpoint: Checkpoint, sink: Sink, home: Home, intent: Intent, commit: Commit) -> None:
    """CheckpointError unless what the sink holds is a batch of this intent, whose state is still there."""
    if commit.intent != intent:
        raise CheckpointError(
            f"{sink.description} holds batch {intent.batch} of other rows than {checkpoint.url} "
            "intends: one of the two was restored from a backup. Restore the other, or start with new ones"
        )
    refuse_another(checkpoint.url, commit.state, home, moved=checkpoint.last is not None)
    if commit.state is not None and not home.verify(commit.state):
        raise CheckpointError(
            f"{checkpoint.url} has lost {commit.state['name']}, the state of batch {intent.batch}, which "
            f"{sink.description} already holds. Restore it from a backup, or start with new ones"
        )


def refuse_more(checkpoint: Checkpoint, last: Commit | None, offsets: Mapping[str, Offset]) -> None:
    """FinishedError if rows came after the input was declared ended."""
    if offsets and last is not None and last.intent.final:
        raise FinishedError(
            f"the input of {checkpoint.url} was declared ended by available_now(final=True), and new rows "
            f"came from {', '.join(map(repr, offsets))}. Start with a new checkpoint and a new output path"
        )
