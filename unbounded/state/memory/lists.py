"""Which slots belong to an owner, in which order? Chains of blocks, each about twice as long as all before it."""

from __future__ import annotations

import numpy as np

from unbounded.state.memory.arrays import Elastic
from unbounded.state.memory.numbers import Numbers, Spare
from unbounded.state.memory.slots import Slots, distinct

__all__ = ["Lists"]

_LEAST, _MOST = (
    1,
    16,
)  # blocks have room for 2 to 65,536 slots, so few are opened in turn, also for an owner of millions


class Lists:
    """For each owner, a number from 0 on, a list of slots; a slot is in one list at most.

    A list only grows at its end, and nothing in it is moved then: a block that is full stays where it is, and the next
    has room for twice what the list holds. So appending costs what is appended, reading what is read, for an owner of
    one slot and of millions, in as many rounds of array operations as the longest chain has blocks.

    Slots that are removed leave gaps. A block of nothing but gaps is given back, and a list with more gaps than slots
    is written anew; until then its removed slots are not given back, for a gap is known by its slot.
    """

    def __init__(self) -> None:
        self._by_owner, self._by_block = _columns(3), _columns(6)
        self._by_slot, self._by_entry = _columns(1), _columns(1)
        # By owner: its last block, where 0 is none; how many slots; how many gaps.
        self._last, self._held, self._gaps = (each.items for each in self._by_owner)
        (self._block,) = (each.items for each in self._by_slot)  # by slot: its block; 0 is in no list
        self._owner, self._before, self._start, self._room, self._used, self._live = (
            each.reach(1) for each in self._by_block
        )
        (self._entries,) = (each.items for each in self._by_entry)  # slots, block by block
        self._blocks, self._end = Numbers(), 0
        self._blocks.reach(1)
        self._free = [Spare() for _ in range(_MOST + 1)]  # where blocks may begin, by the logarithm of their room

    @property
    def nbytes(self) -> int:
        """The bytes in memory."""
        by_owner = self._last.nbytes + self._held.nbytes + self._gaps.nbytes
        return by_owner + self._block.nbytes + 6 * self._owner.nbytes + self._entries.nbytes

    def make_room(self, owners: int, slots: int) -> None:
        """Room for owners up to this number, and for just so many slots."""
        self._last, self._held, self._gaps = (each.reach(owners) for each in self._by_owner)
        (self._block,) = (each.resize(slots) for each in self._by_slot)

    def owners(self, slots: Slots) -> Slots:
        """The owner of each slot; anything for a slot that is in no list."""
        return self._owner.take(self._block.take(slots))

    def of(self, owners: Slots) -> tuple[Slots, Slots]:
        """The slots of each of these owners, in their order: which of `owners`, ascending, and the slot."""
        asked, blocks = self._chains(owners)
        used = self._used.take(blocks)
        asked, slots = np.repeat(asked, used), self._entries.take(_ranges(self._start.take(blocks), used))
        if (self._live.take(blocks) < used).any():
            there = np.flatnonzero(self._block.take(slots))
            asked, slots = asked[there], slots[there]
        return asked, slots

    def _chains(self, owners: Slots) -> tuple[Slots, Slots]:
        """The blocks of each of these owners, in their order: which of `owners`, ascending, and the block."""
        blocks = self._last.take(owners)
        asked = np.flatnonzero(blocks)
        blocks = blocks[asked]
        rounds = [(asked, blocks)]
        while len(asked):
            blocks = self._before.take(blocks)
            going = np.flatnonzero(blocks)
            asked, blocks = asked[going], blocks[going]
            rounds.append((asked, blocks))
        if len(rounds) <= 2:
            return rounds[0]
        oldest_first = rounds[::-1]
        asked, order = _in_order(np.concatenate([each for each, _ in oldest_first]))
        return asked, np.concatenate([each for _, each in oldest_first])[order]

    def append(self, owners: Slots, slots: Slots) -> None:
        """Put each slot, which is in no list, behind those of its owner; slots of one owner in their order."""
        owners, order = _in_order(owners)
        slots = slots[order]
        owners, rest = _counted(owners)
        begins = np.cumsum(rest) - rest
        while len(owners):
            blocks = self._last.take(owners)
            used = self._used.take(blocks)
            count = np.minimum(rest, self._room.take(blocks) - used)
            chosen = slots[_ranges(begins, count)]
            self._entries[_ranges(self._start.take(blocks) + used, count)] = chosen
            self._block[chosen] = np.repeat(blocks, count)
            self._used[blocks] = used + count
            self._live[blocks] += count
            self._held[owners] += count
            going = np.flatnonzero(rest > count)
            owners, begins, rest = owners[going], (begins + count)[going], (rest - count)[going]
            if len(owners):
                self._open(owners, np.maximum(rest, 2 * self._held.take(owners)))

    def _open(self, owners: Slots, wanted: Slots) -> None:
        """Give each owner a last block, with room for what is wanted if that is not too long for one."""
        size = np.ceil(np.log2(wanted)).astype(np.int64).clip(_LEAST, _MOST)
        blocks = self._blocks.take(len(owners))
        self._owner, self._before, self._start, self._room, self._used, self._live = (
            each.reach(self._blocks.size) for each in self._by_block
        )
        for each in distinct(size):
            mine = np.flatnonzero(size == each)
            starts = self._free[each].take(len(mine))
            fresh = self._end + (np.arange(len(mine) - len(starts)) << each)
            self._start[blocks[mine]] = np.concatenate([starts, fresh])
            self._end += len(fresh) << int(each)
        (self._entries,) = (each.reach(self._end) for each in self._by_entry)
        self._owner[blocks], self._before[blocks], self._room[blocks] = owners, self._last[owners], 1 << size
        self._used[blocks] = self._live[blocks] = 0
        self._last[owners] = blocks

    def remove(self, slots: Slots) -> tuple[Slots, Slots]:
        """Take slots out of their lists: the slots that can be used again from now on, and the owners without any."""
        blocks, counts = _counted(self._block.take(slots))
        self._block[slots] = 0
        self._live[blocks] -= counts
        np.subtract.at(self._held, self._owner.take(blocks), counts)
        np.add.at(self._gaps, self._owner.take(blocks), counts)
        owners = distinct(self._owner.take(blocks))
        freed = self._drop(blocks[self._live.take(blocks) == 0])
        sparse = owners[self._gaps.take(owners) > self._held.take(owners)]
        return np.concatenate([freed, self._write_anew(sparse)]), owners[self._held.take(owners) == 0]

    def _drop(self, blocks: Slots) -> Slots:
        """Give back blocks without slots; their gaps."""
        if not len(blocks):
            return blocks
        gaps = self._entries.take(_ranges(self._start.take(blocks), self._used.take(blocks)))
        np.subtract.at(self._gaps, self._owner.take(blocks), self._used.take(blocks))
        # Their chains, from the end: what is kept is linked to what was kept before it; block 0 ends each chain.
        owners = distinct(self._owner.take(blocks))
        at, after = self._last.take(owners), np.zeros(len(owners), np.int64)
        while len(owners):
            keep = (at == 0) | (self._live.take(at) > 0)
            ends, links = keep & (after == 0), keep & (after != 0)
            self._last[owners[ends]] = at[ends]
            self._before[after[links]] = at[links]
            after = np.where(keep, at, after)
            going = np.flatnonzero(at)
            owners, at, after = owners[going], self._before.take(at[going]), after[going]
        self._give_back(blocks)
        return gaps

    def _write_anew(self, owners: Slots) -> Slots:
        """Make lists without gaps; the gaps."""
        if not len(owners):
            return owners
        _, blocks = self._chains(owners)
        slots = self._entries.take(_ranges(self._start.take(blocks), self._used.take(blocks)))
        there = self._block.take(slots) > 0
        kept = slots[there]
        behind = self.owners(kept)
        self._give_back(blocks)
        self._last[owners] = self._held[owners] = self._gaps[owners] = 0
        self.append(behind, kept)
        return slots[~there]

    def _give_back(self, blocks: Slots) -> None:
        room, starts = self._room.take(blocks), self._start.take(blocks)
        for each in distinct(room):
            self._free[int(each).bit_length() - 1].give_back(starts[room == each])
        self._blocks.give_back(blocks)


def _columns(count: int) -> list[Elastic[np.int64]]:
    return [Elastic(np.int64, np.int64(0)) for _ in range(count)]


def _ranges(starts: Slots, counts: Slots) -> Slots:
    """The numbers from each start on, so many, one range behind the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


def _in_order(numbers: Slots) -> tuple[Slots, Slots]:
    """Numbers below 2**32 ascending, equal ones as they came, and where each was.

    Sorting them with their places in the lower bits takes a third of what `argsort` takes.
    """
    bits = len(numbers).bit_length()
    both = np.sort((numbers << bits) | np.arange(len(numbers)))
    return both >> bits, both & ((1 << bits) - 1)


def _counted(numbers: Slots) -> tuple[Slots, Slots]:
    """Each number once, ascending, and how often it is there."""
    ordered = np.sort(numbers)
    begins = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else ordered
    return ordered[begins], np.diff(np.append(begins, len(ordered)))
