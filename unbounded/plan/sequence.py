"""Which sources wait for others to end?"""

from __future__ import annotations

from dataclasses import dataclass

from unbounded.plan import Concat, Node, Scan, walk

__all__ = ["Sequential", "deadlocked", "waits"]


@dataclass(frozen=True, eq=False)
class Sequential(Concat):
    """Two parts behind one another also in time: the sources of the second wait for those of the first to end."""


def waits(node: Node) -> dict[str, frozenset[str]]:
    """The sources that wait for others to end, by name, and for which."""
    found: dict[str, frozenset[str]] = {}
    for one in walk(node):
        if isinstance(one, Sequential):
            first, then = (frozenset(scan.name for scan in walk(part) if isinstance(scan, Scan)) for part in one.parts)
            found |= {name: found.get(name, frozenset()) | first for name in then}
    return found


def deadlocked(node: Node) -> str | None:
    """A source that would wait for itself to end; None if there is none."""
    waiting = waits(node)
    for name, first in waiting.items():
        reached = set(first)
        while more := {other for one in reached for other in waiting.get(one, ())} - reached:
            reached |= more
        if name in reached:
            return name
    return None
