"""How the graphs of a model turn queries and keys: decided once, from its encoding.

Shapes: A axes, S = prefix + T sequence, L layers, H heads, N blocks, K block side, P planes.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from export.fold import FoldError, check_commuting, check_planes, shared_planes
from export.layout import joined_blocks
from media.spec import Grid
from models.encodings.base import Commuting, Rotary
from models.manifest import RotationForm
from models.rotations.apply import Rotations, planar_rotations
from models.vit import VisionTransformer


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a model's rotations become.

    Attributes:
        form: what the manifest says.
        basis: Q to be folded into the projections, float64 [L or 1, H or 1, N, K, K].
        frequencies: [A, L, H, P] of generators that happen to commute; others know their own.
        numbers: how many a table holds for each token of the sequence.
    """

    model: VisionTransformer
    form: RotationForm
    basis: Tensor | None = None
    frequencies: Tensor | None = None
    numbers: int = 0

    @torch.no_grad()
    def rotations(self, grid: Grid) -> Rotations:
        """The tables of a grid in float64: blocks, or turns without their basis, or nothing."""
        encoding, positions = self.model.encoding, self.model.positions(grid)
        if self.frequencies is not None:
            return planar_rotations(positions, self.frequencies)
        if self.form.form == "blocks" and isinstance(encoding, Rotary):
            return Rotary.rotations(encoding, positions, torch.float64)  # whole, no basis apart
        found = encoding.rotations(positions, torch.float64) or Rotations()
        return found._replace(basis=None)

    def table_bytes(self, grid: Grid) -> int:
        """Bytes of float32 tables that one grid adds to a bundle."""
        return 4 * self.numbers * (grid.tokens + self.model.spec.prefix_tokens)

    def loaded_bytes(self, grid: Grid) -> int:
        """Bytes of what a runtime makes of them; layers may share one table."""
        if self.form.block is None:
            return self.table_bytes(grid)
        count = self.model.spec.head_dim // self.form.block
        return joined_blocks(count, self.form.block) * self.table_bytes(grid)


@torch.no_grad()
def plan_of(model: VisionTransformer) -> Plan:
    """Planes where the encoding allows it, blocks where it does not, with the reason."""
    encoding = model.encoding
    first = encoding.positions(model.spec.training_grid)[:1]
    found = encoding.rotations(first, torch.float64)  # of one token: [L or 1, 1, H or 1, ...]
    if found is None:
        return Plan(model, RotationForm("none", False, "positions are added to the tokens"))
    if found.turns is not None and found.basis is None:
        reason = "its planes are pairs of channels: there is no basis to fold"
        return Plan(model, RotationForm("planes", False, reason), numbers=found.turns.numel())
    if not isinstance(encoding, Rotary):
        return _blocks(model, found, "it is not given by generators")
    return _rotary(model, encoding, found)


def _rotary(model: VisionTransformer, encoding: Rotary, found: Rotations) -> Plan:
    """Folded, or the reason why not."""
    generators = encoding.generators(torch.float64)  # [A, L or 1, H or 1, N, K, K]
    frequencies, basis = None, found.basis
    try:
        share = check_commuting(generators)
        if isinstance(encoding, Commuting) and basis is not None:
            check_planes(generators, basis)
        else:
            frequencies, basis = shared_planes(generators)
    except FoldError as error:
        return _blocks(model, found, str(error), generators)
    if model.spec.query_key_norm:
        reason = "query_key_norm scales channels between projection and rotation: no basis passes"
        return _blocks(model, found, reason, generators)
    reason = f"generators commute to {share:.1g} of their norms; their basis is in the projections"
    form = RotationForm("planes", True, reason)
    if frequencies is not None:
        return Plan(model, form, basis, frequencies, numbers=2 * frequencies[0].numel())
    assert found.turns is not None
    return Plan(model, form, basis, numbers=found.turns.numel())


def _blocks(
    model: VisionTransformer, found: Rotations, reason: str, generators: Tensor | None = None
) -> Plan:
    """Whole matrices, as many as generators of one axis, or as were found for one token."""
    matrices = found.blocks if generators is None else generators[0]
    assert matrices is not None
    form = RotationForm("blocks", False, reason, block=matrices.shape[-1])
    return Plan(model, form, numbers=matrices.numel())
