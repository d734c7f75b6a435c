"""How far has event time come, where several inputs tell? Instants are epoch milliseconds."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from unbounded.connectors import WatermarkPolicy

__all__ = ["advanced", "combined", "settled"]

_log = logging.getLogger("unbounded")


def advanced(marks: Mapping[str, int], seen: Mapping[str, int], delays: Mapping[str, int]) -> dict[str, int]:
    """The watermark of each input after a batch that saw these newest times; none goes back."""
    reached = {name: newest - delays[name] for name, newest in seen.items()}
    return {**marks, **{name: max(mark, marks.get(name, mark)) for name, mark in reached.items()}}


def combined(
    marks: Mapping[str, int], names: Collection[str], policy: WatermarkPolicy, before: int | None
) -> int | None:
    """The one watermark of a query, which never goes back: the least of all once each has one, or the greatest."""
    known = [marks[name] for name in names if name in marks]
    if not known or (policy == "min" and len(known) < len(names)):
        return before
    found = min(known) if policy == "min" else max(known)
    return found if before is None else max(found, before)


def settled(asked: WatermarkPolicy | None, began: WatermarkPolicy, *, where: str, several: bool) -> WatermarkPolicy:
    """The policy that a checkpoint began with: rows were dropped, and groups closed, by it. Says so if it matters."""
    if several and asked not in (None, began):
        _log.warning(
            "watermark_policy=%r is not used: %s began with %r, and keeps it. To change it, start with a new "
            "checkpoint and a new output path",
            asked,
            where,
            began,
        )
    return began
