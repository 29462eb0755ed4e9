"""The exporter of torch reads its table of operators anew for every graph; here once a process."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from torch.onnx._internal.exporter import _registration


@pytest.fixture(scope="session", autouse=True)
def one_table_of_operators() -> Iterator[None]:
    """A sixth of the time of every small graph; modules that export take it in by name."""
    with pytest.MonkeyPatch.context() as patched:
        once = functools.cache(_registration.ONNXRegistry.from_torchlib)
        patched.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(once))
        yield
