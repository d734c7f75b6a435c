"""Where else may state live, for tests? In another home within the checkpoint, and in a place that has a URL."""

from __future__ import annotations

import pytest

from unbounded.state import homes
from unbounded.state.homes import StateOptions
from unbounded.state.memory.home import MemoryHome
from unbounded.storage import Storage, open_storage

__all__ = ["ElsewhereHome", "RemoteHome", "two_more_homes"]


class ElsewhereHome(MemoryHome):
    """`state="elsewhere"`: in the checkpoint, and not as the one in memory."""

    kind = "elsewhere"

    @property
    def description(self) -> str:
        return f"elsewhere in {super().description}"


class RemoteHome(MemoryHome):
    """`state="postgresql://..."`: a place that the checkpoint does not know."""

    kind = "postgresql"

    def __init__(self, storage: Storage, url: str, schema: str | None, memory_limit: int) -> None:
        super().__init__(open_storage(f"memory://{url.rpartition('@')[2].partition('?')[0]}"))


def two_more_homes(patch: pytest.MonkeyPatch) -> None:
    """Let `state=` know both."""
    patch.setitem(homes._HOMES, "elsewhere", ("tests.elsewhere", "ElsewhereHome", StateOptions("elsewhere")))
    patch.setitem(homes._HOMES, "postgresql", ("tests.elsewhere", "RemoteHome", None))
