"""What the exporter of torch looks up anew for every graph, here once a process."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch._export.utils
from torch.onnx._internal.exporter import _registration


@pytest.fixture(scope="session", autouse=True)
def tables_of_operators() -> Iterator[None]:
    """A fifth of the time of every small graph; modules that export take it in by name.

    The table of what ONNX has, and the walk over what torch composes of other operators, which
    finds nothing new after the first graph: ours are registered when they are imported.
    """
    with pytest.MonkeyPatch.context() as patched:
        once = functools.cache(_registration.ONNXRegistry.from_torchlib)
        patched.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(once))
        walk = functools.cache(torch._export.utils._materialize_cpp_cia_ops)
        patched.setattr(torch._export.utils, "_materialize_cpp_cia_ops", walk)
        yield
