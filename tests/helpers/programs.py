"""What tests ask that is no Python package: programs of Debian's."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

#: Holds the packages that are here, as .ci/run says: what one of them lacks is not skipped over.
PROMISE = "TESTS_HAVE"
#: Where a program is called otherwise.
PACKAGES = {"promtool": "prometheus"}
SANS_PATH = "/usr/sbin:/usr/bin:/bin"


def tool(name: str) -> str:
    """Where a program lies; without it a test is skipped, or fails where it was promised."""
    path = shutil.which(name) or shutil.which(name, path=SANS_PATH)
    package = PACKAGES.get(name, name)
    return path or do_without(package, f"{name} is not installed: apt-get install {package}")


def do_without(package: str, why: str) -> NoReturn:
    """End a test that needs this package."""
    if package in os.environ.get(PROMISE, "").split():
        pytest.fail(f"{why} ({PROMISE} says that {package} is here)")
    pytest.skip(why)
