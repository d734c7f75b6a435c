"""What stands around the loop of `unbounded.query`?

inputs.py      what sources offer next      late.py        where late rows go
beside.py      what waits for the disk      handle.py      the thread that takes batch after batch
iteration.py   batches in a loop            report.py      what those who watch are told
history.py     whether checkpoint, sink and state tell of the same batches
"""

from __future__ import annotations

__all__: list[str] = []
