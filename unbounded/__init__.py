"""A query described once over tables that keep growing, and its answer kept up to date."""

import importlib
import types
import typing

from unbounded.connectors import (
    Blames,
    Bounded,
    Counts,
    Covers,
    Identity,
    Located,
    Mode,
    PutsAside,
    Remembers,
    Sink,
    Source,
    Tidies,
    Verifies,
)
from unbounded.errors import (
    CheckpointError,
    ConnectorError,
    PlanError,
    UnboundedError,
    UnboundedStateWarning,
    UnsupportedOperationError,
)
from unbounded.expressions.now import current_timestamp, watermark
from unbounded.frame import StreamFrame
from unbounded.manager import StreamingQueryManager, streams
from unbounded.offline.moving import move_state
from unbounded.offline.remembered import read_state, read_state_metadata
from unbounded.offline.resetting import reset
from unbounded.partials.user_defined import aggregate
from unbounded.plan.windows import window_time
from unbounded.progress import Listener, Progress, QueryStatus
from unbounded.running.handle import StreamingQuery
from unbounded.scan import (
    infer_schema,
    scan,
    scan_avro,
    scan_csv,
    scan_generator,
    scan_ipc,
    scan_lines,
    scan_memory,
    scan_ndjson,
    scan_parquet,
    scan_rate,
)
from unbounded.sinks.reading import read_sink, verify
from unbounded.sources.bounded import BoundedSource
from unbounded.sources.memory import MemorySource
from unbounded.spark.reading import DataStreamReader, read_stream
from unbounded.spark.writing import DataStreamWriter
from unbounded.state.homes import StateOptions, files_state, postgresql_state, sqlite_state
from unbounded.trigger import Trigger, available_now, once, processing_time
from unbounded.verbs.grouping import StreamGroupBy
from unbounded.verbs.unified import (
    FrameT,
    concat,
    concat_sequential,
    group_by_session,
    unique_within_watermark,
    with_watermark,
)

readStream = read_stream

__all__ = [
    "Blames",
    "Bounded",
    "BoundedSource",
    "CheckpointError",
    "ConnectorError",
    "Counts",
    "Covers",
    "DataStreamReader",
    "DataStreamWriter",
    "FrameT",
    "Identity",
    "Listener",
    "Located",
    "MemorySource",
    "Mode",
    "PlanError",
    "Progress",
    "QueryStatus",
    "PutsAside",
    "Remembers",
    "Sink",
    "Source",
    "StateOptions",
    "StreamFrame",
    "StreamGroupBy",
    "StreamingQuery",
    "StreamingQueryManager",
    "Tidies",
    "Trigger",
    "UnboundedError",
    "UnboundedStateWarning",
    "UnsupportedOperationError",
    "Verifies",
    "aggregate",
    "available_now",
    "concat",
    "concat_sequential",
    "current_timestamp",
    "files_state",
    "group_by_session",
    "infer_schema",
    "move_state",
    "once",
    "postgresql_state",
    "processing_time",
    "readStream",
    "read_sink",
    "read_state",
    "read_state_metadata",
    "read_stream",
    "reset",
    "scan",
    "scan_avro",
    "scan_csv",
    "scan_generator",
    "scan_ipc",
    "scan_lines",
    "scan_memory",
    "scan_ndjson",
    "scan_parquet",
    "scan_rate",
    "sqlite_state",
    "streams",
    "unique_within_watermark",
    "verify",
    "watermark",
    "window_time",
    "with_watermark",
]

if typing.TYPE_CHECKING:
    from unbounded import testing as testing
else:

    def __getattr__(name: str) -> types.ModuleType:
        """`ub.testing`, which a program that tests nothing need not load."""
        if name == "testing":
            return importlib.import_module("unbounded.testing")
        raise AttributeError(f"module 'unbounded' has no attribute {name!r}")
