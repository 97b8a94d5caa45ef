"""How the tests are built: what several of them need is in ``tests/support`` or a conftest."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def imported(source: str) -> Iterator[str]:
    """Yield the full names of what a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def from_tests(source: str) -> list[str]:
    """Return which imports of a module are of a test module, or of something in one; the package itself has none."""
    names = [name for name in imported(source) if not name.startswith("unfreeze.")]
    return [name for name in names if any(part.startswith("test_") for part in name.split("."))]


@pytest.mark.parametrize(
    "source",
    [
        "from tests.unit.runs.test_run import run",
        "from tests.unit import test_run",
        "from . import test_run",
        "from .test_run import run",
        "import tests.unit.runs.test_run",
        "def run():\n    from tests.unit.runs.test_run import run",
    ],
)
def test_an_import_of_a_test_module_is_found(source: str) -> None:
    assert from_tests(source)


def test_what_the_package_itself_calls_a_test_set_is_no_test() -> None:
    assert not from_tests("from unfreeze.scoring.held_out import test_set")


def test_no_module_imports_from_a_test_module() -> None:
    modules = sorted(TESTS.rglob("*.py"))
    found = {str(path.relative_to(TESTS)): from_tests(path.read_text("utf-8")) for path in modules}
    assert Path(__file__).name in {path.name for path in modules}
    assert {path: names for path, names in found.items() if names} == {}
