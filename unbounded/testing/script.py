"""How do rows arrive, and what happens to the process meanwhile? Scripts are drawn by chance and made small."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Literal, TypeAlias, get_args

import polars as pl

from unbounded.testing.shelf import Death
from unbounded.testing.story import Story

__all__ = ["Act", "Script", "Then", "Times", "drawn", "play", "smallest", "told"]

Then: TypeAlias = Literal["wait", "batch", "settle", "restart"] | Death
"""What follows an arrival: nothing, one batch, all batches that are due, a batch and a restart, or a death in a batch
and a restart."""

_THEN: Final[tuple[Then, ...]] = ("batch", "batch", "batch", "settle", "settle", "wait", "restart", *get_args(Death))
_ARRIVALS = 6  # of one feed, at most
_LATE = 0.2  # the share of rows that are held back where some are
_SHOWN = 12  # rows of an arrival that are written out


@dataclass(frozen=True)
class Act:
    """Some rows of a feed's table arrive, by their positions; perhaps none."""

    rows: tuple[int, ...]
    then: Then
    feed: int = 0


Script: TypeAlias = tuple[Act, ...]


@dataclass(frozen=True)
class Times:
    """The event time of each row of a feed, in epoch ms, and how far rows may come behind the newest."""

    values: Sequence[int | None]
    delay: int


# ------------------------------------------------------------------------------------------ drawn
def drawn(chance: random.Random, heights: Sequence[int], times: Sequence[Times | None]) -> Script:
    """A script in which every row of every feed arrives once."""
    acts: list[list[Act]] = []
    for feed, (height, clock) in enumerate(zip(heights, times, strict=True)):
        order = _order(chance, height, clock)
        cuts = sorted(chance.randint(0, height) for _ in range(chance.randint(0, _ARRIVALS - 1)))
        acts.append([Act(tuple(order[a:b]), chance.choice(_THEN), feed) for a, b in pairwise((0, *cuts, height))])
    turns = [feed for feed, mine in enumerate(acts) for _ in mine]
    chance.shuffle(turns)
    return tuple(acts[feed].pop(0) for feed in turns)


def _order(chance: random.Random, height: int, times: Times | None) -> list[int]:
    """In which order rows come: as they lie there, in any, or as a watermark expects them, with some held back."""
    rows = list(range(height))
    known = [time for time in times.values if time is not None] if times is not None else []
    kind = chance.choice(("as it is", "any", *(("in time", "late") * 2 if known else ())))
    if kind == "any":
        chance.shuffle(rows)
    if times is None or kind in ("as it is", "any"):
        return rows
    first, last = min(known), max(known)
    arrival = {}
    for row, time in enumerate(times.values):
        # Whoever comes before has a time less than `delay` after mine: so the row is in time.
        arrival[row] = (chance.uniform(first, last) if time is None else time) + chance.random() * times.delay
        if kind == "late" and chance.random() < _LATE:
            arrival[row] += chance.uniform(times.delay, 2 * times.delay + last - first)
    return sorted(rows, key=arrival.__getitem__)


# ----------------------------------------------------------------------------------------- played
def play(script: Script, story: Story, tables: Sequence[pl.DataFrame]) -> None:
    """Let the script happen, up to the last batch that is due."""
    for act in script:
        story.add(tables[act.feed][list(act.rows)], act.feed)
        match act.then:
            case "wait":
                continue
            case "batch":
                story.batch()
            case "settle":
                story.run()
            case "restart":
                story.batch().restart()
            case death:
                story.crash(death).restart()
    story.run()


_VERBS: Final[dict[Then, str]] = {"wait": "", "batch": ".batch()", "settle": ".run()", "restart": ".batch().restart()"}


def told(script: Script, tables: Sequence[pl.DataFrame]) -> list[str]:
    """The script as the lines of a `Story`."""
    lines = []
    for act in script:
        rows = tables[act.feed][list(act.rows)]
        text = repr(rows.to_dicts()) if rows.height <= _SHOWN else f"<{rows.height:,} rows>"
        feed = f", feed={act.feed}" if len(tables) > 1 else ""
        lines.append(f".add({text}{feed}){_VERBS.get(act.then, f'.crash({act.then!r}).restart()')}")
    return lines


# ------------------------------------------------------------------------------------- made small
def smallest(script: Script, fails: Callable[[Script], bool], *, tries: int) -> Script:
    """A script that fails too, from which nothing can be left out; or the smallest found within so many tries."""
    while tries > 0:
        for simpler in _simpler(script):
            tries -= 1
            if fails(simpler):
                script = simpler
                break
            if tries == 0:
                break
        else:
            break
    return script


def _simpler(script: Script) -> Iterator[Script]:
    """Scripts with less in them, the boldest cuts first."""
    for start, stop in _parts(len(script)):
        if stop - start < len(script):
            yield script[:start] + script[stop:]
    for start, stop in _parts(sum(len(act.rows) for act in script)):
        yield _without_rows(script, start, stop)
    for i, (one, other) in enumerate(pairwise(script)):
        if one.feed == other.feed:
            yield (*script[:i], replace(other, rows=one.rows + other.rows), *script[i + 2 :])
    for i, act in enumerate(script):
        if act.then != "batch":
            yield (*script[:i], replace(act, then="batch"), *script[i + 1 :])
    for i, act in enumerate(script):
        if list(act.rows) != sorted(act.rows):
            yield (*script[:i], replace(act, rows=tuple(sorted(act.rows))), *script[i + 1 :])


def _parts(length: int) -> Iterator[tuple[int, int]]:
    size = -(-length // 2)
    while size > 0:
        yield from ((start, min(start + size, length)) for start in range(0, length, size))
        size = size // 2


def _without_rows(script: Script, start: int, stop: int) -> Script:
    acts, before = [], 0
    for act in script:
        kept = [row for i, row in enumerate(act.rows, before) if not start <= i < stop]
        before += len(act.rows)
        acts.append(replace(act, rows=tuple(kept)))
    return tuple(acts)
