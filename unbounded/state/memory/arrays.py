"""How does an array grow and shrink at its end, without a moment that costs all of it?"""

from __future__ import annotations

import contextlib
import mmap
import sys
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Elastic"]

_Item = TypeVar("_Item", bound=np.generic)

_PLAIN = 1 << 20  # bytes up to which an array is simply copied
_RESERVED = 1 << 36  # bytes of address space; a process has 2^47 of them
_PAGE = 1 << 21  # memory goes back in huge pages
_FEWEST = 1024
_STEP = 1 << 14  # items to spare, at most
_NORESERVE = 0x4000  # the same on x86 and ARM; Python names it from 3.13 on


class Elastic(Generic[_Item]):
    """An array whose items stay where they are while it grows and shrinks.

    It lies in address space that is reserved far beyond it: a page that nobody touched costs no memory. Huge pages
    make reading 1,000 scattered words of 320 MB twice as fast. Below 1 MB, and where such space is not to be had (not
    on Linux, under a limit or with strict accounting), the array is copied to one half as large again, or to a smaller
    one: O(1) per item on average.
    """

    def __init__(self, dtype: npt.DTypeLike, fill: _Item | None = None) -> None:
        self._fill = fill
        self._room: npt.NDArray[_Item] = np.zeros(0, dtype)
        self._memory: mmap.mmap | None = None
        self.items = self._room

    @property
    def nbytes(self) -> int:
        return self.items.nbytes

    def resize(self, length: int) -> npt.NDArray[_Item]:
        """The array with this many items. New ones are `fill`; without it anything, in a new array zero."""
        before = len(self.items)
        if length > len(self._room) or (length < before and length * self.items.itemsize < self._least()):
            self._move(length)
        elif length < before:
            self._give_back(length, before, before + _PAGE)
        self.items = self._room[:length]
        if self._fill is not None:
            self.items[before:] = self._fill
        return self.items

    def reach(self, length: int) -> npt.NDArray[_Item]:
        """The array with at least this many items."""
        before = len(self.items)
        if length <= before:
            return self.items
        return self.resize(max(length, min(before * 3 // 2, before + _STEP), _FEWEST))

    def fit(self, length: int) -> npt.NDArray[_Item]:
        """The array without most items from this one on, if they are many."""
        return self.resize(length + _STEP) if len(self.items) > length + 2 * _STEP else self.items

    def clear(self, low: int, high: int, end: int) -> None:
        """Set items to zero. Those from `high` to before `end` have to be zero, too; then memory goes back."""
        self.items[low:high] = np.zeros(1, self.items.dtype)
        self._give_back(low, high, end)

    def _least(self) -> int:
        """The size in bytes below which a smaller place is worth a copy."""
        return _PLAIN // 4 if self._memory is not None else min(self._room.nbytes // 4, self._room.nbytes - _PLAIN)

    def _move(self, length: int) -> None:
        size = length * self.items.itemsize
        self._memory = _reserved(max(_RESERVED, 8 * size)) if size > _PLAIN else None
        if self._memory is None:
            room: npt.NDArray[_Item] = np.zeros(length * 3 // 2, self.items.dtype)
        else:
            room = np.frombuffer(self._memory, self.items.dtype, len(self._memory) // self.items.itemsize)
        kept = min(length, len(self.items))
        room[:kept] = self.items[:kept]
        self._room = room

    def _give_back(self, low: int, high: int, end: int) -> None:
        """Return the whole pages in these items, and that in which they end; their items are zero from now on."""
        start, stop = (-(-place * self.items.itemsize // _PAGE) * _PAGE for place in (low, high))
        stop = min(stop, end * self.items.itemsize // _PAGE * _PAGE)
        if sys.platform == "linux" and self._memory is not None and start < stop:
            self._memory.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _reserved(size: int) -> mmap.mmap | None:
    """Private memory of which only touched pages count, or None."""
    if sys.platform != "linux" or _accounts_strictly():
        return None
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except (OSError, OverflowError, ValueError):
        return None
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _accounts_strictly() -> bool:
    """Whether this system counts address space as if it were memory."""
    try:
        with open("/proc/sys/vm/overcommit_memory") as setting:
            return setting.read().strip() == "2"
    except OSError:
        return True
