"""In which folder of a checkpoint does a home of state work? In the checkpoint itself, or in one of its own.

No two homes share a folder, however often the state moves to and fro: each would take files of the other for its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from unbounded.state import StateRef
from unbounded.storage import LocalStorage, Lock, Record, Storage

__all__ = ["below", "files_of", "folder_of"]

_WITHIN = ("state", "runs")  # where homes keep files


def folder_of(ref: StateRef | None) -> str:
    """The folder in which the home of a commit works; "" is the checkpoint itself."""
    return "" if ref is None else str(ref.get("folder", ""))


def files_of(storage: Storage, folder: str) -> list[str]:
    """Every file of the home that works in a folder of a checkpoint."""
    within = [f"{folder}/{each}" if folder else each for each in _WITHIN]
    return [f"{each}/{name}" for each in within for name in storage.names(each)]


def below(storage: Storage, folder: str) -> Storage:
    """The records of a folder of a checkpoint."""
    if not folder:
        return storage
    if isinstance(storage, LocalStorage):  # which some homes need, for they map files into memory
        return LocalStorage(os.path.join(storage.url, folder))
    return _Below(storage, folder)


class _Below:
    """The records of a folder within a storage."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self.url = f"{storage.url}/{folder}"

    def put(self, name: str, data: bytes) -> None:
        self._storage.put(f"{self._folder}/{name}", data)

    def read(self, name: str) -> bytes:
        return self._storage.read(f"{self._folder}/{name}")

    def names(self, folder: str) -> list[str]:
        return self._storage.names(f"{self._folder}/{folder}")

    def remove(self, names: Iterable[str]) -> None:
        self._storage.remove(f"{self._folder}/{name}" for name in names)

    def settle(self, folder: str) -> None:
        self._storage.settle(f"{self._folder}/{folder}")

    def lock(self, owner: Record) -> Lock:
        return self._storage.lock(owner)
