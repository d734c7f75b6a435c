"""Do the notebooks run from top to bottom, and were they kept as they run?

A cell tagged "spark" is the Spark side of a comparison. The cells without the tag must run without them.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = {path.name: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
COMPARING = [name for name, path in NOTEBOOKS.items() if '"spark"' in path.read_text()]
HAS_SPARK = importlib.util.find_spec("pyspark") is not None and shutil.which("java") is not None


def read(name: str) -> nbformat.NotebookNode:
    found: nbformat.NotebookNode = nbformat.read(NOTEBOOKS[name], as_version=4)  # type: ignore[no-untyped-call]  # nbformat is partly typed
    return found


def run(notebook: nbformat.NotebookNode, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all cells in a new kernel, whose folder is `place`; the error of a cell is the error of the test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    resources = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()


def is_spark(cell: nbformat.NotebookNode) -> bool:
    return "spark" in cell.metadata.get("tags", ())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read(name)
    notebook.cells = [cell for cell in notebook.cells if not is_spark(cell)]
    run(notebook, tmp_path, monkeypatch)


@pytest.mark.skipif(not HAS_SPARK, reason="the Spark side needs Java and PySpark: pip install unbounded[spark]")
@pytest.mark.parametrize("name", COMPARING)
def test_spark_gives_the_same_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read(name)
    assert any(map(is_spark, notebook.cells))
    run(notebook, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_as_it_ran(name: str) -> None:
    cells = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [out for cell in cells for out in cell.outputs if out.output_type == "error"] == []
    assert sum(len(cell.outputs) for cell in cells) > 0
