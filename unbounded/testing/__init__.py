"""How does one test a query, a source, a sink or a home of state? Also reachable as `ub.testing`."""

from unbounded.testing.law import assert_unified
from unbounded.testing.rows import same_rows
from unbounded.testing.story import Story, given

__all__ = ["Story", "assert_unified", "given", "same_rows"]
