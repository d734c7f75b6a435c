"""The inputs that come with unbounded: files, hand-fed memory, and rows made at a rate."""

from __future__ import annotations

from unbounded.sources.bounded import BoundedSource
from unbounded.sources.columns import infer_schema
from unbounded.sources.files import FileSource
from unbounded.sources.generator import GeneratorSource
from unbounded.sources.memory import MemorySource
from unbounded.sources.rate import RateSource

__all__ = ["BoundedSource", "FileSource", "GeneratorSource", "MemorySource", "RateSource", "infer_schema"]
