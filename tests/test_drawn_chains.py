"""Laws 1 and 2 for any chain: do one, two or three operators behind one another give what they give over all rows?"""

from __future__ import annotations

import contextlib
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import unbounded as ub
from tests.chains import SCHEMA, Chain, Distinct, drawn_chain, drawn_table
from unbounded.connectors import Mode
from unbounded.errors import PlanError
from unbounded.operators.modes import check
from unbounded.sinks.memory import MemorySink
from unbounded.state import Home
from unbounded.state.homes import StateOptions, open_home
from unbounded.storage import open_storage
from unbounded.testing import Story, assert_unified
from unbounded.testing.story import planned

# A seed says all: a smaller one is no simpler, and assert_unified makes the story small by itself.
seeds = st.integers(0, 2**32)
drawn_only = settings(phases=[Phase.generate])


def modes_of(chain: Chain) -> list[Mode]:
    """The modes in which a chain can be kept, and has one answer; none where a verb refuses it."""
    modes: list[Mode] = []
    chosen = any(isinstance(link, Distinct) for link in chain.links)  # of groups in no order which come first?
    for mode in get_args(Mode)[: 1 if chosen else None]:
        with contextlib.suppress(PlanError):
            check(planned(chain, [SCHEMA, SCHEMA])[1], mode, MemorySink(), "memory://checkpoint")
            modes.append(mode)
    return modes


def hold(chain: Chain, chance: Random, mode: Mode, *, runs: int = 2) -> None:
    """Laws 1 and 2 for a chain, with the chain in what is said if one is broken."""
    try:
        assert_unified(
            chain,
            drawn_table(chance),
            drawn_table(chance),
            output_mode=mode,
            watermark_policy=chance.choice(("min", "min", "max")),
            runs=runs,
            seed=chance.randrange(1000),
        )
    except BaseException as error:
        error.add_note(f"pipeline = {chain}")
        raise


@drawn_only
@given(seed=seeds)
def test_a_chain_gives_over_batches_what_it_gives_over_the_whole_table(seed: int) -> None:
    chance = Random(seed)
    chain = drawn_chain(chance)
    modes = modes_of(chain)
    assume(modes)
    hold(chain, chance, chance.choice(modes))


def test_most_chains_that_are_drawn_can_be_kept() -> None:
    able = ["append" in modes_of(drawn_chain(Random(seed))) for seed in range(30)]
    assert sum(able) > 0.9 * len(able)


@pytest.mark.parametrize("state", [ub.files_state(), ub.sqlite_state()], ids=["files", "sqlite"])
def test_a_chain_remembers_the_same_in_other_homes(
    state: StateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which start anew on the files that a process that died left open."""
    places = map(tmp_path.joinpath, map(str, count()))

    class Elsewhere(Story):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._place = next(places)
            super().__init__(*args, **options)

        def _home(self) -> Home:
            return open_home(state, open_storage(self._place), f"homes/{state.kind}")

    monkeypatch.setattr("unbounded.testing.law.Story", Elsewhere)
    for seed in range(4):
        chance = Random(seed)
        chain = drawn_chain(chance)
        assert "append" in modes_of(chain)
        hold(chain, chance, "append", runs=1)
