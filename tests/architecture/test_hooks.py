"""What runs after a commit can fail nobody: not the transaction that stands, nor the hooks that come after."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.test_floors import ROOT, SOURCES, relative

Hook = tuple[Path, ast.Call]


def hooks() -> list[Hook]:
    """Every call of ``on_commit`` in the platform."""
    calls = [
        (path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    return [
        (path, call) for path, call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "on_commit"
    ]


def where(value: object) -> str:
    return relative(value) if isinstance(value, Path) else str(getattr(value, "lineno", value))


def test_the_topics_page_is_among_those_that_are_checked() -> None:
    assert ROOT / "pipeline" / "topics.py" in {path for path, _ in hooks()}


@pytest.mark.parametrize(("path", "call"), hooks(), ids=where)
def test_a_hook_is_robust(path: Path, call: ast.Call) -> None:
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} == {"robust": "True"}


@pytest.mark.parametrize(("path", "call"), hooks(), ids=where)
def test_a_hook_has_the_name_by_which_django_reports_its_failure(path: Path, call: ast.Call) -> None:
    # Without a __qualname__, as of functools.partial, the report itself fails, and with it the caller.
    assert isinstance(call.args[0], ast.Lambda | ast.Name | ast.Attribute)
