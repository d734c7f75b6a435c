"""Does state in files answer as state in memory, within its limit, and name what is damaged?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from unbounded.state import Home, StateRef
from unbounded.state.files import FilesCold
from unbounded.state.layered import LayeredHome
from unbounded.storage import LocalStorage
from unbounded.testing.contracts.homes import RETAIN, HomeContract


class Forgetful(LayeredHome):
    """Ages after every commit and forgets after every other one, so that rows come from everywhere."""

    def commit(self, version: int, attempt: str) -> StateRef:
        ref = super().commit(version, attempt)
        for part in self._parts.values():
            part.age()
            if version % 2:
                part.shrink()
        return ref


def tiny(place: Path) -> Home:
    """Two commits make a run, two runs are joined, two rows make a file."""
    cold = FilesCold(LocalStorage(str(place)), memory=1 << 20, retain=RETAIN, deltas=2, fan=2, piece=2)
    return Forgetful(cold, memory_limit=1 << 24)


# --------------------------------------------------------------------------------------- contract
class TestFilesHome(HomeContract):
    """With so few deltas and so small files, runs are written, joined and dropped all the time."""

    def open(self, place: Path) -> Home:
        return tiny(place)


class TestFilesHomeWithOneHash(HomeContract):
    """Every key has the same hash, so only the comparison of keys tells them apart."""

    examples = 4

    @pytest.fixture(autouse=True)
    def one_hash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def same(keys: list[pl.Series], height: int, seed: int) -> np.ndarray[Any, Any]:
            return np.full(height, 0xFFFF_FFFF_0000_0001, np.uint64)

        monkeypatch.setattr("unbounded.state.runs.hash_rows", same)

    def open(self, place: Path) -> Home:
        return tiny(place)
