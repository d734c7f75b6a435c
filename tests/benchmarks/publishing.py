"""How do the results of a run come into the README and into the notebook?"""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.benchmarks.results import Results
from tests.benchmarks.tables import as_markdown

__all__ = ["publish"]

_ROOT = Path(__file__).parent.parent.parent
_MARKERS = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)


def publish(results: Results) -> None:
    """Rewrite the tables between the markers of the README, and run the notebook, which reads the saved results."""
    _write_readme(results, _ROOT / "README.md")
    _run_notebook(_ROOT / "notebooks" / "benchmarks.ipynb")


def _write_readme(results: Results, readme: Path) -> None:
    text, times = _MARKERS.subn(lambda _: f"\n{as_markdown(results)}\n\n", readme.read_text())
    if times != 1:
        raise ValueError(f"{readme} needs <!-- benchmarks --> and <!-- /benchmarks --> once, each in a line of its own")
    readme.write_text(text)


def _run_notebook(path: Path) -> None:
    os.environ["PYTHONPATH"] = str(_ROOT)
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat is partly typed
    NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False).execute()
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]  # nbformat is partly typed
