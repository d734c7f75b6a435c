"""Where do the records of a told query lie, and behind which of them does its process die?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from unbounded.storage import Lock, Record

__all__ = ["Death", "Died", "Shelf"]

Death: TypeAlias = Literal["intended", "remembered", "written", "committed"]
"""The act of a batch behind which the process dies.

    intended     it is fixed what the batch reads, nothing else happened
    remembered   the state of the batch is durable, its rows are not in the sink
    written      the rows are in the sink, and the checkpoint does not know it
    committed    the checkpoint knows it, and nobody was told
"""

_BEHIND: Final[dict[Death, str]] = {"intended": "offsets", "remembered": "state", "committed": "commits"}
_BEFORE: Final[dict[Death, str]] = {"written": "commits"}


class Died(BaseException):
    """The process is dead: nothing that catches an Exception goes on."""


class Shelf:
    """A storage in a dict, as durable as the test that holds it."""

    url = "memory://story/checkpoint"

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}
        self.dies: Death | None = None

    def put(self, name: str, data: bytes) -> None:
        folder = name.partition("/")[0]
        if self.dies is not None and _BEFORE.get(self.dies) == folder:
            raise Died
        if name in self._records:
            raise FileExistsError(name)
        self._records[name] = data
        if self.dies is not None and _BEHIND.get(self.dies) == folder:
            raise Died

    def read(self, name: str) -> bytes:
        if name not in self._records:
            raise FileNotFoundError(name)
        return self._records[name]

    def names(self, folder: str) -> list[str]:
        inside = f"{folder}/" if folder else ""
        below = (name.removeprefix(inside) for name in self._records if name.startswith(inside))
        return sorted(name for name in below if "/" not in name)

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._records.pop(name, None)

    def settle(self, folder: str) -> None:
        """Nothing to do: a record is there when `put` returns."""

    def lock(self, owner: Record) -> Lock:
        return _NoLock()


class _NoLock:
    """A story has one process at a time, and one that died holds nothing."""

    def release(self) -> None:
        return
