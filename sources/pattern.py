"""Which names of a folder are meant, and which of them are not for readers?"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

__all__ = ["MANIFEST", "Pattern", "why_ignored"]

MANIFEST = "._unbounded"
"""Behind the name of a sink's folder: its own records and files in the making."""

_TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".inprogress", ".crdownload", ".swp")


@dataclass(frozen=True)
class Pattern:
    """Which names of a folder are meant, part by part; `**` stands for any number of folders.

    `exact` means the one file of that name, which the user spelt out: nothing about its name is judged.
    """

    parts: tuple[str, ...]
    exact: bool = False

    @property
    def depth(self) -> int | None:
        """How many parts a name can have; None for any number."""
        return None if "**" in self.parts else len(self.parts)

    def matches(self, name: tuple[str, ...]) -> bool:
        return _matches(self.parts, name)

    def enters(self, folder: tuple[str, ...]) -> bool:
        """Whether names under a folder can match."""
        return _enters(self.parts, folder)

    def covers(self, root: str, location: str) -> bool:
        """Whether names under `root` can match that lie in another place, or below it."""
        root, location = root.rstrip("/"), location.rstrip("/")
        if location == root:
            return True
        below = tuple(location.removeprefix(f"{root}/").split("/"))
        return location.startswith(f"{root}/") and not any(map(why_ignored, below)) and self.enters(below)


def _matches(parts: tuple[str, ...], name: tuple[str, ...]) -> bool:
    if not parts or not name:
        return not parts and not name
    if parts[0] == "**":
        return any(_matches(parts[1:], name[skipped:]) for skipped in range(len(name)))
    return fnmatch.fnmatchcase(name[0], parts[0]) and _matches(parts[1:], name[1:])


def _enters(parts: tuple[str, ...], folder: tuple[str, ...]) -> bool:
    if not folder or parts[0] == "**":
        return True
    return len(parts) > 1 and fnmatch.fnmatchcase(folder[0], parts[0]) and _enters(parts[1:], folder[1:])


def why_ignored(part: str) -> str | None:
    """Why a file or folder of this name is passed over; None if it is not."""
    if part.endswith(MANIFEST):
        return "manifest"
    if part.startswith(("_", ".")):
        return "hidden"
    if part.endswith(_TEMPORARY):
        return "temporary"
    try:
        part.encode()
    except UnicodeEncodeError:  # a name on disk that is not UTF-8, which Polars cannot be told
        return "undecodable"
    return None
