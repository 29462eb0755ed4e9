"""What a run for a change may skip: only what its machine cannot have."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.programs import PACKAGES, PROMISE, do_without, tool
from tests.helpers.service_fixtures import ROOT


def test_what_was_promised_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not there is a reason to skip, and a failure where it was said to be."""
    why = "no-such-program is not installed: apt-get install prometheus"
    monkeypatch.delenv(PROMISE, raising=False)
    monkeypatch.setitem(PACKAGES, "no-such-program", "prometheus")
    with pytest.raises(pytest.skip.Exception, match=why):
        tool("no-such-program")
    monkeypatch.setenv(PROMISE, "nginx chromium ")
    with pytest.raises(pytest.skip.Exception, match=why):
        tool("no-such-program")
    monkeypatch.setenv(PROMISE, "nginx prometheus ")
    with pytest.raises(pytest.fail.Exception, match=why):
        tool("no-such-program")
    monkeypatch.setenv(PROMISE, "nginx chromium ")
    with pytest.raises(pytest.fail.Exception, match="says that chromium is here"):
        do_without("chromium", "playwright is not installed here")
    assert tool("sh").endswith("/sh")


@pytest.mark.parametrize("installs", [True, False])
def test_run_promises_what_it_has(tmp_path: Path, installs: bool) -> None:
    """What apt could install; not what it could not, which is told."""
    stubs = {
        "make": f'echo "make $1: ${PROMISE}"; [ "$2" != container-engine ]',
        "apt-get": f"exit {0 if installs else 100}",
    }
    for name, does in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("dirname", "prometheus"):  # nginx may be in /usr/sbin
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/true")
    bash = shutil.which("bash")
    assert bash is not None
    environment = {name: one for name, one in os.environ.items() if name != PROMISE}
    done = subprocess.run(
        [bash, ROOT / ".ci" / "run"], env=environment | {"PATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    promised = re.findall(r"^make test: (.*)$", done.stdout, re.MULTILINE)[0]
    assert "prometheus" in promised.split()
    assert ("chromium" in promised.split()) == installs
    assert ("SKIPPED: apt-get install" in done.stdout) == (not installs)
