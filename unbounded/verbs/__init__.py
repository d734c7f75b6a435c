"""What can a frame do? The verbs that `StreamFrame` is made of, and those beside it.

joins.py       join, join_where, join_asof, update
grouping.py    group_by, group_by_dynamic, rolling, pivot
around.py      rows around each row         positions.py   head, slice, with_row_index, ...
reductions.py  a stream in one row          viewing.py     a look without a query
writing.py     sinks, and so queries        refusals.py    what is refused, with what to write instead
unified.py     functions for bounded and unbounded frames
"""

from __future__ import annotations

__all__: list[str] = []
