"""How many calls does the exponential of one training step take on a GPU, and how much memory?

Counted on a CPU with a GPU's chunk (``WHOLE``): 12 layers, 6 heads of 64 channels, published
generators, a grid of one picture and one of a clip. What the two operators call is counted below
them: calls of aten, without views, which by their schema give the memory that they were given and
do not write to it. Calls that a host waits for (a value read back, a shape that depends on
values) are counted apart.

Memory is the most that is alive at a time, after any call: generators, table and its gradient
included, over the table. What a call takes for itself and gives back is not seen.

    python -m benchmarks.exponential_calls
"""

from __future__ import annotations

import argparse
import collections
import json
import math
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.rotations.exponential import WHOLE, exponentials
from models.rotations.skew import skew

GRIDS = ((14, 14), (8, 14, 14))
LAYERS, HEADS, HEAD_DIM = 12, 6, 64
#: Calls that a host waits for where a device is asked.
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--block", type=int, default=8, help="side of a matrix")
    parser.add_argument("--layers", type=int, default=LAYERS, help="with generators of their own")
    options = parser.parse_args()
    results = []
    for size in GRIDS:
        counted = measure(size, options.block, options.layers)
        results.append({"grid": "x".join(map(str, size)), "block": options.block, **counted})
    show(results)
    print(json.dumps({"benchmark": "exponential_calls", "results": results}))


class Counted(NamedTuple):
    """Calls by name; bytes: the most memory that was alive after any of them."""

    calls: collections.Counter[str]
    bytes: int


class Meter(TorchDispatchMode):
    """Sees what the operators of ``liere`` call, in place of the operators themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()
        self.peak = 0
        self.inside = False
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "liere":
            return self.look_inside(func, args, kwargs)
        self.see(args, kwargs)
        if self.inside and not is_view(func):
            self.calls[func._schema.name] += 1
        result = func(*args, **kwargs)
        self.see(result)
        return result

    def look_inside(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """By way of a key below this mode's, with the mode on for what is called from there."""
        self.see(args, kwargs)
        self.inside = True
        try:
            with self:
                below = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
                return func.redispatch(below, *args, **kwargs)
        finally:
            self.inside = False

    def see(self, *values: Any) -> None:
        """Memory of the tensors among the values, and of all others that are still alive."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        alive = self.alive.items()
        self.alive = {key: (ref, size) for key, (ref, size) in alive if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))

    def take(self) -> Counted:
        """What was counted since the last time."""
        counted = Counted(self.calls, self.peak)
        self.calls, self.peak = collections.Counter(), 0
        return counted


def is_view(func: Any) -> bool:
    """Whether the schema says of a result that it is the memory of an argument, not written to."""
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def measure(
    size: tuple[int, ...], block: int, layers: int = LAYERS, chunk: int = WHOLE
) -> dict[str, Any]:
    """Calls and peak memory of one forward and one backward pass at a grid."""
    positions, generators = make_positions(size), make_generators(len(size), layers, block)
    with Meter() as meter:
        table = exponentials(positions, generators, chunk)
        forward = meter.take()
        # as a model has it, whose layers come first
        gradient = torch.ones_like(table.transpose(0, 1).contiguous()).transpose(0, 1)
        table.backward(gradient)
        backward = meter.take()
    calls = {"forward": forward.calls, "backward": backward.calls}
    size_of_table = table.untyped_storage().nbytes()
    return {
        **{name: counter.total() for name, counter in calls.items()},
        "calls": sum(counter.total() for counter in calls.values()),
        "waiting": sum(counter[name] for counter in calls.values() for name in WAITING),
        "table_mb": size_of_table / 1e6,
        "memory_forward": forward.bytes / size_of_table,
        "memory_backward": backward.bytes / size_of_table,
    }


def make_positions(size: tuple[int, ...]) -> Tensor:
    """[T, A], from 0 to 1 per axis."""
    axes = [torch.linspace(0, 1, side, dtype=torch.float64) for side in size]
    mesh = torch.meshgrid(axes, indexing="ij")
    return torch.stack(mesh, dim=-1).flatten(0, -2).float()


def make_generators(axes: int, layers: int, block: int) -> Tensor:
    """[A, L, H, N, K, K], entries from U(0, 2 pi)."""
    entries = torch.empty(axes, layers, HEADS, HEAD_DIM // block, block * (block - 1) // 2)
    entries.uniform_(0, 2 * math.pi, generator=torch.Generator().manual_seed(0))
    return skew(entries, block).requires_grad_()


def show(results: list[dict[str, Any]]) -> None:
    table = Table(*results[0])
    for row in results:
        cells = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row.values())
        table.add_row(*cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
