"""Which rows are due? Promises to look at a slot at a time, in sorted runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unbounded.state.memory.arrays import Elastic
from unbounded.state.memory.slots import Mask, Slots, distinct

__all__ = ["LAST", "NEVER", "Calendar", "Times"]

Times = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The expiry of a row that never expires; stands for null."""

LAST = NEVER - 1
"""The latest instant at which a row is due; a watermark beyond it, that of an ended input, means it."""

_MANY = 1 << 10  # promises from which sorting them in words is worth its calls
_JOINED = 1 << 18  # longer runs are not joined: that pause would cost more than one more binary search per expire


class Calendar:
    """For every slot with an expiry one promise to look at it, not later than it is due.

    Runs of (time, slot), each sorted by time, so looking costs what is due, for any spread of times. A row whose
    expiry moves later keeps its promise and gets a new one when it was looked at; one that moves sooner gets one at
    once.
    """

    def __init__(self) -> None:
        self._memory: Elastic[np.int64] = Elastic(np.int64, np.int64(NEVER))
        self._promised: Times = self._memory.items  # the time of the promise that counts; NEVER is none
        self._runs: list[tuple[Times, Slots]] = []  # the first is the one that `collect` looks through
        self._entries = 0

    @property
    def nbytes(self) -> int:
        return self._promised.nbytes + 16 * self._entries

    @property
    def entries(self) -> int:
        """Promises kept, those that no longer count included."""
        return self._entries

    def resize(self, slots: int) -> None:
        """Keep slots below this one."""
        self._promised = self._memory.resize(slots)

    def schedule(self, slots: Slots, times: Times) -> None:
        """These slots are due at these times from now on."""
        sooner = np.flatnonzero(times < self._promised.take(slots))
        if not len(sooner):
            return
        slots, times = slots[sooner], times[sooner]
        self._promised[slots] = times
        self._add(*_sorted(times, slots))

    def _add(self, times: Times, slots: Slots) -> None:
        """A run more. It is joined to others, but not to the first: `collect` has to come to its end."""
        self._entries += len(slots)
        self._runs.append((times, slots))
        while len(self._runs) > 2 and 2 * len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            if len(self._runs[-2][0]) > _JOINED:
                break
            (later_times, later_slots), (times, slots) = self._runs.pop(), self._runs.pop()
            self._runs.append(_sorted(np.concatenate([times, later_times]), np.concatenate([slots, later_slots])))

    def forget(self, slots: Slots) -> None:
        """These slots are free; their promises do not count any more."""
        self._promised[slots] = NEVER

    def collect(self, limit: int, count: int) -> None:
        """Look through the next `count` promises for those that no longer count, if more than `limit` are kept."""
        while self._entries > limit and count > 0:
            times, slots = self._runs[0]
            cut = max(len(times) - count, 0)
            counts = np.flatnonzero(self._count(times[cut:], slots[cut:]))
            count -= len(times) - cut
            self._entries -= len(times) - cut
            self._runs[:1] = [(times[:cut], slots[:cut])] if cut else []
            if len(counts):
                self._add(times[cut:][counts], slots[cut:][counts])

    def pop(self, watermark: int) -> Slots:
        """The slots to look at now, each once; what is not due yet has to be scheduled again."""
        found = []
        for place, (times, slots) in enumerate(self._runs):
            count = int(np.searchsorted(times, watermark, side="right"))
            if count:
                found.append(slots[:count][self._count(times[:count], slots[:count])])
                self._runs[place] = (times[count:], slots[count:])
                self._entries -= count
        self._runs = [run for run in self._runs if len(run[0])]
        looked: Slots = distinct(np.concatenate(found)) if found else np.zeros(0, np.int64)
        self._promised[looked] = NEVER
        return looked

    def _count(self, times: Times, slots: Slots) -> Mask:
        """Which promises count; one for a slot that was cut off since does not."""
        counts: Mask = self._promised.take(slots, mode="clip") == times
        return counts & (slots < len(self._promised))


def _sorted(times: Times, slots: Slots) -> tuple[Times, Slots]:
    """By time, those of one time as they came."""
    bits = len(times).bit_length()
    if len(times) < _MANY or int(times.max()) - int(times.min()) >= 1 << (63 - bits):
        order = np.argsort(times, kind="stable")
        return times[order], slots[order]
    # Time and position in one word: sorting these takes a sixth of the time of an argsort.
    least = times.min()
    words = np.sort(((times - least) << bits) | np.arange(len(times)))
    return (words >> bits) + least, slots[words & ((1 << bits) - 1)]
