"""How does state lie in files of the checkpoint, sorted by the hash of its keys and mapped into memory?

home.py        the cold place that they are
runs.py        how rows are found in them   sorting.py     how they are sorted
levels.py      how they are joined, a slice at a time
"""

from __future__ import annotations

__all__: list[str] = []
