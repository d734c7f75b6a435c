"""Where else may state live, for tests? In a second folder of the checkpoint, and in a place that is named by a URL."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from unbounded.state import homes
from unbounded.state.homes import StateOptions
from unbounded.state.memory import MemoryHome
from unbounded.storage import Lock, Record, Storage, open_storage

__all__ = ["ElsewhereHome", "RemoteHome", "two_more_homes"]


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


class ElsewhereHome(MemoryHome):
    """`state="elsewhere"`: a folder of its own in the checkpoint."""

    kind = "elsewhere"

    def __init__(self, storage: Storage) -> None:
        super().__init__(_Below(storage, "elsewhere"))


class RemoteHome(MemoryHome):
    """`state="postgresql://..."`: a place that the checkpoint does not know."""

    kind = "postgresql"

    def __init__(self, url: str, schema: str | None, memory_limit: int) -> None:
        super().__init__(open_storage(f"memory://{url.rpartition('@')[2]}"))


def two_more_homes(patch: pytest.MonkeyPatch) -> None:
    """Let `state=` know both."""
    patch.setitem(homes._HOMES, "elsewhere", ("tests.elsewhere", "ElsewhereHome", StateOptions("elsewhere")))
    patch.setitem(homes._HOMES, "postgresql", ("tests.elsewhere", "RemoteHome", None))
