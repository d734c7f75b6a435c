"""How does a place that is larger than memory hold state? What is used is hot, the rest lies in a cold place.

cold.py        what such a place must do
home.py        the home over it             hot.py         the rows that a table has in memory
buffered.py    multimaps over it
"""

from __future__ import annotations

__all__: list[str] = []
