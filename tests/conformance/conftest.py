"""How does a run of the cases end? In one line that counts what passed, what deviates and what is not built."""

from __future__ import annotations

import re
from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed, deviating, missing = 0, Counter[str](), Counter[str]()
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            found = re.search(r"test_a_case_ends_as_in_spark\[([^/]+)/", getattr(report, "nodeid", ""))
            if found is None or (outcome == "passed" and report.when != "call"):
                continue
            why = getattr(report, "wasxfail", "")
            if outcome == "passed":
                passed += 1
            elif outcome == "xfailed" and why.startswith("deviation, "):
                deviating[why.removeprefix("deviation, ").split(":")[0]] += 1
            elif outcome == "xfailed":
                missing[found[1]] += 1
    if passed or deviating or missing:
        terminalreporter.write_line(
            f"conformance: {passed} passed, {deviating.total()} deviations{_listed(deviating)}, "
            f"{missing.total()} not built{_listed(missing)}"
        )


def _listed(counts: Counter[str]) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in counts.most_common())})" if counts else ""
