"""Where can the answer of a query go?"""

from unbounded.sinks.console import ConsoleSink
from unbounded.sinks.each_batch import EachBatchSink
from unbounded.sinks.files import FileSink
from unbounded.sinks.memory import MemorySink
from unbounded.sinks.reading import read_sink, verify

__all__ = ["ConsoleSink", "EachBatchSink", "FileSink", "MemorySink", "read_sink", "verify"]
