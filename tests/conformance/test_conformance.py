"""Does this engine do what real Spark did, case by case, but for what stands in the table of deviations?

The cases are Spark 4.3's own recorded behaviour: `cases` as they came, `own_cases` designed here. Those of another
folder run with UNBOUNDED_CONFORMANCE_CASES=<folder>.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance.adapter import DeviationError, NotBuiltError, answers, run
from tests.conformance.deviations import DEVIATIONS, NOT_BUILT, Deviates
from tests.language import same_rows

HERE: Final = Path(__file__).parent
ELSEWHERE: Final = os.environ.get("UNBOUNDED_CONFORMANCE_CASES")
FOLDERS: Final = [Path(ELSEWHERE)] if ELSEWHERE else [HERE / "cases", HERE / "own_cases"]
CASES: Final = {path: json.loads(path.read_text()) for one in FOLDERS for path in sorted(one.glob("**/*.json"))}


def reason_of(case: Any) -> Deviates | None:
    """Why a case is to end otherwise than in Spark; None if it is not."""
    return next((one for one in DEVIATIONS if one.cases(case)), None)


def marked() -> Iterator[Any]:
    """The cases; one that must end otherwise is expected to, for its one reason and no other."""
    for path, case in CASES.items():
        missing = [name for name, needs in NOT_BUILT.items() if needs(case)]
        marks = []
        if missing:
            marks = [pytest.mark.xfail(raises=NotBuiltError, strict=True, reason=f"not built yet: {missing[0]}")]
        elif (known := reason_of(case)) is not None:
            reason = f"deviation, {known.kind}: {known.reason}"
            marks = [pytest.mark.xfail(raises=DeviationError, strict=True, reason=reason)]
        yield pytest.param(case, id=f"{case['category']}/{path.stem}", marks=marks)


@pytest.mark.parametrize("case", list(marked()))
@pytest.mark.filterwarnings("ignore::UserWarning")  # of state that grows; the cases want it
def test_a_case_ends_as_in_spark(case: Any, tmp_path: Path) -> None:
    known = reason_of(case)
    try:
        run(case, tmp_path)
    except DeviationError as found:
        if known is not None and not known.explains(found.differences):
            pytest.fail(f"not because {known.reason}:\n{found}")
        raise


def answered() -> list[Any]:
    """The cases that Spark refuses and this engine answers."""
    known = [case for case in CASES.values() if "expect_error" in case["steps"][-1]]
    found = [case for case in known if reason_of(case) is not None]
    return [pytest.param(case, id=case["name"]) for case in found if not any(one(case) for one in NOT_BUILT.values())]


@pytest.mark.parametrize("case", answered())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_spark_refuses_is_answered_as_by_bounded_polars(case: Any, tmp_path: Path) -> None:
    kept, expected = answers(case, tmp_path)
    assert kept.height
    same_rows(kept, expected)


@pytest.mark.skipif(ELSEWHERE is not None, reason="another folder need not have a case for every deviation")
@pytest.mark.parametrize("row", DEVIATIONS, ids=lambda row: row.reason[:60])
def test_every_deviation_shows_in_a_case(row: Deviates) -> None:
    assert any(row.cases(case) for case in CASES.values())


@pytest.mark.skipif(ELSEWHERE is not None, reason="another folder need not have a case for every operator")
@pytest.mark.parametrize("name", NOT_BUILT)
def test_every_operator_that_is_not_built_is_asked_for_by_a_case(name: str) -> None:
    assert any(NOT_BUILT[name](case) for case in CASES.values())
