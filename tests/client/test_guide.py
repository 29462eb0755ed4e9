"""docs/client.md is true: every command and every example runs, against the real service."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from client import __main__, asking
from tests.helpers.service_fixtures import ROOT, RunningServer, picture

PAGE = (ROOT / "docs" / "client.md").read_text()


EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names."""
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "other.png", "photos/1.png", "photos/2.png"):
        (tmp_path / name).write_bytes(picture())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_of_the_page_run(
    server: RunningServer, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them are the client's, but for the install, whose package another test builds."""
    install, *commands = re.findall(r"^(?:pip|python) .*$", PAGE, flags=re.MULTILINE)
    assert install == "pip install ./client"
    job = ""
    for line in commands:
        python, flag, module, *arguments = shlex.split(line.replace("ID", job))
        assert (python, flag, module) == ("python", "-m", "client")
        assert __main__.main([*arguments, "--url", server.url]) == 0
        if "submit" in arguments:
            job = capsys.readouterr().out.strip()
    assert len(commands) == 9
    assert len((here / "answers.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_of_the_page_run(
    server: RunningServer,
    here: Path,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As they stand, but for the address of the server; no file fails."""
    text = text.replace("Client()", f"Client({asking.DEFAULT_URL!r})")
    code = compile(text.replace(asking.DEFAULT_URL, server.url), "client.md", "exec")
    exec(code, {"__name__": "page"})
    told = capsys.readouterr().out
    assert told and "failed" not in told
