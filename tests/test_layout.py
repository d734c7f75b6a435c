"""Does the house stand as it was drawn? Imports point one way, links are folders, names are kept."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import unbounded as ub

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "unbounded"

# A part imports only what stands above it; a part is a file or a folder, or a file of a folder in SPREAD.
ORDER = (
    "errors",
    "durations",
    "sizes",
    "spark.ddl",
    "storage",
    "running.beside",
    "connectors",
    "sources",
    "sinks",
    "expressions.trees",
    "expressions.now",
    "expressions",
    "expressions.intervals",
    "expressions.reach",
    "expressions.looking",
    "partials",
    "aggregates",
    "plan",
    "plan.sequence",
    "plan.windows",
    "plan.sessions",
    "plan.ordered",
    "plan.lineage",
    "plan.pairs",
    "plan.pairing",
    "plan.asof",
    "state",
    "watermarks",
    "checkpoint",
    "progress",
    "spark.listener",
    "cards",
    "trigger",
    "operators",
    "offline.remembered",
    "offline.moving",
    "offline.resetting",
    "running.inputs",
    "running.late",
    "running.report",
    "running.history",
    "query",
    "running.handle",
    "running.iteration",
    "manager",
    "verbs.writing",
    "spark.options",
    "spark.writing",
    "spark.names",
    "verbs.viewing",
    "verbs.refusals",
    "verbs.reductions",
    "verbs.joins",
    "verbs.positions",
    "verbs.grouping",
    "verbs.around",
    "frame",
    "verbs.unified",
    "scan",
    "spark.reading",
    "testing",
)

# Folders whose files stand at heights of their own.
SPREAD = {"expressions", "plan", "verbs", "running", "offline", "spark"}

# Connectors are leaves: whatever they need stands here, or beside them in their own folder.
CONNECTORS = ("sources", "sinks")
BENEATH_CONNECTORS = {"errors", "durations", "storage", "connectors"}

# Files longer than 400 lines, each with its reason.
LONG_FOR_A_REASON: dict[str, str] = {}

NEVER_IMPORTED = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "sources", "sinks"}
NEVER_CALLED = {"eval", "exec", "__import__"}
NOT_A_NOUN = {"utils", "util", "common", "helpers", "helper", "base", "misc", "core"}


def _files() -> dict[str, Path]:
    """Every file of the package by its dotted name below `unbounded`: `errors`, `state`, `sources.files`, ..."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")) + [
        file for top in CONNECTORS for file in sorted((PACKAGE / top).rglob("*.py"))
    ]:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _imports(path: Path) -> Iterator[str]:
    """The full names a file imports, wherever the import stands: also in a function, also for type checkers only."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _defines_a_connector(path: Path) -> bool:
    """Whether a file holds a source or a sink, or only what several of them share."""
    classes = (node.name for node in _tree(path).body if isinstance(node, ast.ClassDef))
    return any(name.endswith(("Source", "Sink")) for name in classes)


def _part(name: str) -> str:
    """The part of the house to which a file belongs, or a name in it."""
    folder, _, rest = name.partition(".")
    file = f"{folder}.{rest.partition('.')[0]}"
    return file if folder in SPREAD and file in FILES else folder


def _may_import(importer: str, imported: str) -> bool:
    """Whether the file `importer` may import `imported`; both below `unbounded`, the second down to a name."""
    part, other = _part(importer), _part(imported)
    if part == other:
        neighbour = FILES.get(imported) or FILES.get(imported.rpartition(".")[0])
        shared = neighbour is None or not _defines_a_connector(neighbour)
        return part not in CONNECTORS or importer == part or shared
    if part in CONNECTORS:
        return other in BENEATH_CONNECTORS
    return {part, other} <= set(ORDER) and ORDER.index(other) < ORDER.index(part)


FILES = _files()


def test_every_part_of_the_house_stands() -> None:
    assert [part for part in ORDER if not any(name == part or name.startswith(f"{part}.") for name in FILES)] == []


def test_every_file_belongs_to_a_part_of_the_house() -> None:
    assert {_part(name) for name in FILES} - {""} - SPREAD <= set(ORDER)


def test_a_file_imports_only_what_stands_above_it() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in FILES.items()
        if name  # `unbounded` itself names the public things of all parts
        for imported in _imports(path)
        if imported.partition(".")[0] == "unbounded" and not _may_import(name, imported.partition(".")[2])
    ]
    assert wrong == []


@pytest.mark.parametrize("name", CONNECTORS)
def test_the_links_in_the_package_are_the_folders_at_the_top(name: str) -> None:
    module = import_module(f"unbounded.{name}")
    assert module.__file__ is not None
    assert (PACKAGE / name).is_symlink(), f"unbounded/{name} must be a link: check out with core.symlinks=true"
    assert Path(module.__file__).resolve().parent == ROOT / name


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_says_first_which_question_it_answers(name: str) -> None:
    first, _, _ = (ast.get_docstring(_tree(FILES[name])) or "").partition("\n")
    assert first.endswith((".", "?", ":")), f"unbounded/{name} opens with {first!r}, not with one sentence"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_can_be_read_in_one_sitting(name: str) -> None:
    lines = len(FILES[name].read_text().splitlines())
    assert lines <= 400 or name in LONG_FOR_A_REASON, f"{lines} lines: look for the second idea in it"


def test_no_exception_outlives_its_reason() -> None:
    short = [name for name in LONG_FOR_A_REASON if len(FILES[name].read_text().splitlines()) <= 400]
    assert short == []


def test_no_file_is_a_bin() -> None:
    assert [name for name in FILES if name.rpartition(".")[2] in NOT_A_NOUN] == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_read_from_a_disk_can_run_as_code(name: str) -> None:
    imported = {found.partition(".")[0] for found in _imports(FILES[name])}
    called = {
        node.func.id
        for node in ast.walk(_tree(FILES[name]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert imported & NEVER_IMPORTED == set()
    assert called & NEVER_CALLED == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_all_of_a_file_names_what_it_defines(name: str) -> None:
    module = import_module(f"unbounded.{name}".rstrip("."))
    public = module.__all__
    assert len(public) == len(set(public))
    assert [missing for missing in public if not hasattr(module, missing)] == []


def test_the_package_names_everything_it_offers() -> None:
    offered = {name for name, value in vars(ub).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert offered - {"annotations"} == {name for name in ub.__all__ if not inspect.ismodule(getattr(ub, name))} - {
        "__version__"
    }


@pytest.mark.parametrize("name", sorted(ub.__all__))
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(ub, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        text = value.__doc__ or ""
        written = text != "" and not text.startswith(f"{name}(")  # a dataclass writes its signature itself
        assert written, f"ub.{name} has no docstring of its own"


@pytest.mark.parametrize("name", sorted(ub.__all__))
def test_a_public_verb_is_documented(name: str) -> None:
    thing = getattr(ub, name)
    members = vars(thing) if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False) else {}
    verbs = {
        member: value
        for member, value in members.items()
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
        if not hasattr(ub.Source, member)  # documented where it is promised
    }
    assert [member for member, value in verbs.items() if not inspect.getdoc(value)] == []


def test_who_only_describes_a_query_waits_for_no_other_library_than_polars() -> None:
    program = "import sys, unbounded; print(sorted({'numpy', 'pyarrow', 'fsspec'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True) == "[]\n"
