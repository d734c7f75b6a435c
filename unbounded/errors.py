"""What can go wrong, sorted by who can mend it.

    UnboundedError
    ├── PlanError                   change the query
    │   └── UnsupportedOperationError
    ├── CheckpointError             change the place, or undo a change of the query
    └── ConnectorError              look outside: at the files, the disk, the server

Every message says what was asked, why it cannot be, and what to write instead. `code` is stable
and stands in front of the message.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import ClassVar

__all__ = [
    "CheckpointError",
    "ConcurrentQueryError",
    "ConnectorError",
    "CorruptRecordError",
    "CountOverflowError",
    "FinishedError",
    "MemoryLimitError",
    "PlanError",
    "QueryChangedError",
    "SchemaMismatchError",
    "SinkOwnedError",
    "SourceDataLostError",
    "UnboundedError",
    "UnboundedStateWarning",
    "UnknownOptionError",
    "UnsupportedOperationError",
    "nearest",
]


class UnboundedError(Exception):
    """Any error that unbounded itself raises."""

    code: ClassVar[str] = "UNBOUNDED"

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class PlanError(UnboundedError):
    """The query cannot be kept up to date as it is written."""

    code = "PLAN"


class UnsupportedOperationError(PlanError):
    """A verb that cannot work on an endless table, or is not built yet."""

    code = "UNSUPPORTED_OPERATION"

    def __init__(self, operation: str, *, because: str, instead: str) -> None:
        self.operation, self.because, self.instead = operation, because, instead
        super().__init__(f"{operation} cannot be kept up to date because {because}. Instead: {instead}")


class CountOverflowError(PlanError):
    """A count is greater than what the dtype holds in which Polars counts, UInt32."""

    code = "COUNT_OVERFLOW"

    def __init__(self, counted: int) -> None:
        super().__init__(
            f"an aggregate counted {counted}, and Polars counts in UInt32, which holds 4294967295 at most. Ask for 64 "
            "bits: pl.len().cast(pl.Int64), or count(), n_unique(), null_count() and sums of booleans likewise; the "
            "state counts in 64 bits already, so the query goes on from its checkpoint"
        )


class MemoryLimitError(PlanError):
    """State needs more memory at once than it may have."""

    code = "MEMORY_LIMIT"


class UnknownOptionError(PlanError):
    """An option that the called function does not have."""

    code = "UNKNOWN_OPTION"

    def __init__(self, option: str, function: str, valid: Collection[str]) -> None:
        super().__init__(
            f"{function} has no option {option!r}{nearest(option, valid)} (valid: {', '.join(sorted(valid))})"
        )


class CheckpointError(UnboundedError):
    """The checkpoint does not fit the query, or is not what it was."""

    code = "CHECKPOINT"


class CorruptRecordError(CheckpointError):
    """A file of the engine does not hold what was written to it."""

    code = "CORRUPT_RECORD"


class QueryChangedError(CheckpointError):
    """The checkpoint was made by a query whose state this one cannot use."""

    code = "QUERY_CHANGED"

    def __init__(self, where: str, differences: Sequence[str]) -> None:
        self.differences = tuple(differences)
        lines = "\n".join(f"  {line}" for line in differences)
        super().__init__(
            f"the checkpoint {where} was made by a different query:\n{lines}\n"
            "Undo the change; or use a new checkpoint and a new output path; or begin anew here, with "
            f"ub.reset({where!r}) and the old output deleted"
        )


class ConcurrentQueryError(CheckpointError):
    """Another process runs a query on this checkpoint."""

    code = "CONCURRENT_QUERY"


class FinishedError(CheckpointError):
    """Rows arrived for a query whose input was declared ended."""

    code = "FINISHED"


class ConnectorError(UnboundedError):
    """Something outside is not as it must be: a file, a folder, a disk, a server."""

    code = "CONNECTOR"


class SourceDataLostError(ConnectorError):
    """What a batch had promised to read is no longer there as it was."""

    code = "SOURCE_DATA_LOST"


class SchemaMismatchError(ConnectorError):
    """A file does not have the columns and types that were pinned for its source."""

    code = "SCHEMA_MISMATCH"


class SinkOwnedError(ConnectorError):
    """The output place holds data that this query did not write."""

    code = "SINK_OWNED"


class UnboundedStateWarning(UserWarning):
    """A query that starts will remember more and more, without a bound."""


def nearest(name: str, choices: Collection[str]) -> str:
    """A hint "; did you mean 'x'?" for a misspelt name, or nothing."""
    found = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if not found and len(name) > 2:  # half a name: mode for output_mode, sep for separator
        found = [choice for choice in sorted(choices) if choice.startswith(name) or choice.endswith(f"_{name}")]
    return f"; did you mean {found[0]!r}?" if found else ""
