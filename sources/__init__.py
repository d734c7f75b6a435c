"""The inputs that come with unbounded: files, hand-fed memory, and rows made at a rate."""

from __future__ import annotations

from unbounded.sources.files import FileSource, infer_schema
from unbounded.sources.memory import MemorySource
from unbounded.sources.rate import RateSource

__all__ = ["FileSource", "MemorySource", "RateSource", "infer_schema"]
