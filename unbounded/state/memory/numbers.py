"""Which slots can be used for something new? Those that were given back, then those that follow."""

from __future__ import annotations

import numpy as np

from unbounded.state.memory.arrays import Elastic
from unbounded.state.memory.slots import Mask, Slots

__all__ = ["Numbers", "Spare"]

_LOOKED_AT, _ALWAYS = 8, 4096  # numbers looked at per number wanted, and by every search
_CUT = 1 << 15  # the most numbers that are cut off at once


class Numbers:
    """The numbers from 0 on: each is in use by one at a time. Costs what is taken, whatever lies about.

    What is not in use is found by going round: a search goes on where the last one ended, as far as what it wants pays
    for. So no more than about an eighth lies idle for long while numbers are taken.
    """

    def __init__(self) -> None:
        self._flags: Elastic[np.bool_] = Elastic(np.bool_, np.False_)
        self._size = self._count = self._next = 0

    @property
    def size(self) -> int:
        """All numbers in use are below."""
        return self._size

    @property
    def in_use(self) -> Mask:
        """By number, of at least `size` numbers."""
        return self._flags.items

    @property
    def nbytes(self) -> int:
        return self._flags.nbytes

    def take(self, count: int) -> Slots:
        """So many numbers that are not in use."""
        again = self._idle(count, self._size)
        fresh = np.arange(self._size, self._size + count - len(again))
        self._size += len(fresh)
        taken = np.concatenate([again, fresh])
        self._flags.reach(self._size)[taken] = True
        self._count += count
        return taken

    def _idle(self, count: int, below: int) -> Slots:
        """At most so many numbers below one that are not in use."""
        if self._count == self._size or not count:
            return np.zeros(0, np.int64)
        begin, width = min(self._next, below), _LOOKED_AT * count + _ALWAYS
        found: list[Slots] = []
        for low, high in ((begin, min(begin + width, below)), (0, min(begin, begin + width - below))):
            if count and low < high:
                found.append((low + np.flatnonzero(~self._flags.items[low:high]))[:count])
                count -= len(found[-1])
                self._next = high if count else int(found[-1][-1]) + 1
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def give_back(self, numbers: Slots) -> None:
        """These are no longer in use."""
        self._flags.items[numbers] = False
        self._count -= len(numbers)

    def reach(self, size: int) -> None:
        """All numbers below this are in use, but for those given back later."""
        if size > self._size:
            self._flags.reach(size)[self._size : size] = True
            self._count += size - self._size
            self._size = size

    def shrink(self, movable: int) -> tuple[Slots, Slots]:
        """If few are in use, cut off some of the last: numbers that were in use, and others that are in their place.

        No more than `movable` give way to others.
        """
        nothing = np.zeros(0, np.int64)
        if 4 * self._count + _ALWAYS > self._size:
            return nothing, nothing
        low = max(self._size - _CUT, 0)
        last = low + np.flatnonzero(self._flags.items[low : self._size])
        if len(last) > movable:
            low = int(last[len(last) - movable - 1]) + 1
            last = last[len(last) - movable :]
        others = self._idle(len(last), low)
        if len(others) < len(last):
            low = int(last[len(last) - len(others) - 1]) + 1
            last = last[len(last) - len(others) :]
        self._flags.items[last], self._flags.items[others] = False, True
        self._size = low
        self._flags.fit(low)
        return last, others


class Spare:
    """Numbers that were given back, to be used again."""

    def __init__(self) -> None:
        self._free: list[Slots] = []

    def take(self, count: int) -> Slots:
        """At most so many of them, those given back last first."""
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
