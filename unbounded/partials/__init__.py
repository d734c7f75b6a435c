"""How is one aggregate kept in columns of state: its partial answer, the merge of partial answers, its value?

`found` reads which aggregate a node of an expression is; the other files keep them, one family each.
"""

from __future__ import annotations

__all__: list[str] = []
