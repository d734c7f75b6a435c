"""How does state lie in tables of a database?

relational.py  the cold place that it is    relations.py   one table of it
encoding.py    what its types can hold
sqlite.py      in a file                    postgresql.py  on a server
"""

from __future__ import annotations

__all__: list[str] = []
