"""What can be done with a checkpoint without its query?

remembered.py  see what it remembers        moving.py      move that into another home
resetting.py   begin anew
"""

from __future__ import annotations

__all__: list[str] = []
