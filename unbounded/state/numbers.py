"""Which slots can be used for something new? Those that were given back, then those that follow."""

from __future__ import annotations

import numpy as np

from unbounded.state.slots import Slots

__all__ = ["Numbers"]


class Numbers:
    """The numbers from 0 on: each is in use by one at a time. Costs what is taken, whatever lies about."""

    def __init__(self) -> None:
        self._free: list[Slots] = []
        self._size = 0

    @property
    def size(self) -> int:
        """How many were ever in use."""
        return self._size

    def take(self, count: int) -> Slots:
        """So many numbers that are not in use, those given back last first."""
        again = self.again(count)
        missing = count - len(again)
        fresh = np.arange(self._size, self._size + missing)
        self._size += missing
        return np.concatenate([again, fresh])

    def again(self, count: int) -> Slots:
        """At most so many of the numbers that were given back."""
        taken: list[Slots] = []
        while count and self._free:
            block = self._free.pop()
            taken.append(block[:count])
            if len(block) > count:
                self._free.append(block[count:])
            count -= len(taken[-1])
        return np.concatenate(taken) if taken else np.zeros(0, np.int64)

    def give_back(self, numbers: Slots) -> None:
        """These are no longer in use."""
        if len(numbers):
            self._free.append(numbers)

    def reach(self, size: int) -> None:
        """All numbers below this are in use, but for those given back later."""
        self._size = max(self._size, size)
