"""How do those who come from Spark read, write and watch? In its spelling, over the same scans, sinks and queries.

    reading.py    ub.read_stream            writing.py     frame.write_stream
    options.py    what its options mean     ddl.py         schemas as text
    listener.py   listeners of queries      names.py       the line to write for any other name

The files stand at several heights of the house: a frame offers writing, and reading gives frames.
"""

from __future__ import annotations

__all__: list[str] = []
