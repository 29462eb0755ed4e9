"""The operator's page says what the code does: every setting, every error, each once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from service.environment import PREFIX
from service.http.problems import PROBLEMS
from service.settings import Settings


def settings_rows() -> list[str]:
    """A row of the table for every field of the settings, in their order."""
    rows = []
    for name, field in Settings.model_fields.items():
        assert field.default is not PydanticUndefined, name
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        flag, variable = name.replace("_", "-"), PREFIX + name.upper()
        shown = "" if default in (None, "") else f"`{default}`"
        rows.append(f"| `--{flag}` | `{variable}` | {shown} | {field.description} |")
    return rows


def problem_rows() -> list[str]:
    """A row for every type of problem, by status; several failures may share one."""
    kinds = {(one.status, one.type, one.title) for one in PROBLEMS.values()}
    return [f"| {status} | `{kind}` | {title} |" for status, kind, title in sorted(kinds)]


@pytest.fixture(scope="module")
def page(repo_root: Path) -> str:
    return (repo_root / "docs" / "operate.md").read_text()


def table(page: str, heading: str) -> list[str]:
    """The rows below a heading, without the two of the head."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\|.*\|$", section, flags=re.MULTILINE)[2:]


def test_settings_are_those_of_the_code(page: str) -> None:
    """Flag, variable, default and meaning, word for word."""
    assert table(page, "Settings") == settings_rows()


def test_errors_are_those_of_the_code(page: str) -> None:
    """Status, type and title."""
    assert table(page, "Errors") == problem_rows()
