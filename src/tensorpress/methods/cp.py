"""``cp``: stacks of matrices as sums of components that all share (TRAWL, Luo et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

TRANSPOSED = ("attention.o", "ffn.down")
"""Modules that write the residual stream: the others of a stack read it."""


class Spec(MethodSpec):
    """Components of each stack: matrices of a group that have equal sides, seen from the stream.

    So q, k, v with o, or of grouped queries q with o and k with v; gate and up with down; the
    experts of a projection. Fewer components are not the first of more.
    """

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")
    whole_groups: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    method: Literal["cp"]
    rank: int | None = Field(None, ge=1)
    budget: Budget | None = None
    starts: int = Field(5, ge=1, description="of alternating least squares, the best is kept")
    sweeps: int = Field(500, ge=1, description="passes over the modes, at most, from each start")
    seed: int = Field(0, ge=0)

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        alike: dict[tuple[int, ...], list[str]] = {}
        for module, shape in layer.group(group).items():
            sides = (shape.out_features, shape.in_features)
            read = sides[::-1] if module in TRANSPOSED else sides
            # the experts of a projection are a stack already
            alike.setdefault(read if shape.slices == 1 else (len(alike),), []).append(module)
        return [self._layout(layer, tuple(modules)) for modules in alike.values()]

    def _layout(self, layer: LayerShape, modules: tuple[str, ...]) -> Layout:
        where, first = "+".join(modules), layer.modules[modules[0]]
        slices = first.slices if len(modules) == 1 else len(modules)
        dense = slices * first.out_features * first.in_features
        each = slices + first.out_features + first.in_features
        if self.rank is not None:
            require_rank("rank", self.rank, dense // each, where)
            rank = self.rank
        else:
            assert self.budget is not None
            rank = self.budget.largest(dense // each, lambda r: r * each, dense, where)
        flipped = modules[0] in TRANSPOSED
        if len(modules) == 1:
            transposed = [False] * slices
        else:
            transposed = [(module in TRANSPOSED) != flipped for module in modules]
        sizes = {**sizes_of(first), "slices": slices}
        return Layout(modules, "cp", {**sizes, "rank": rank, "transposed": transposed})

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        sizes = layout.settings
        m, n, rank = sizes["out_features"], sizes["in_features"], sizes["rank"]
        values = sizes["slices"] * m * n
        # in float64: the stack, its product with one factor, and the normal equations
        held = 2 * (2 * values + sizes["slices"] * max(m, n) * rank + 4 * rank**2)
        sweep = 3 * values * rank + 6 * rank**2 * max(m, n, rank)
        settles = min(self.sweeps, 100)
        stored = rank * (sizes["slices"] + m + n)
        return Cost(stored, held, 2 * self.starts * settles * sweep)


EXAMPLE = Spec(method="cp", rank=6, starts=2)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Components of every stack, each with the bound of its unfoldings of that rank."""
    import torch

    from tensorpress.linalg.cp import cp
    from tensorpress.linalg.tucker import tucker_bounds

    factors = []
    for layout, parts in with_layouts(weights, layer, spec):
        sizes = layout.settings
        turned = sizes["transposed"]
        stack = [matrix for part in parts for matrix in part]
        tensor = torch.stack([m.mT if t else m for m, t in zip(stack, turned, strict=True)])
        found = cp(tensor, sizes["rank"], spec.starts, spec.seed, spec.sweeps)
        # the size of a component lies evenly on its three factors
        size = found.mix.norm(dim=0).pow(1 / 3)
        values = {
            "left": found.left * size,
            "right": found.right * size,
            "mix": found.mix / size.square().clamp_min(torch.finfo(size.dtype).tiny),
        }
        store = layout.build().fill(**{name: value.float() for name, value in values.items()})
        ranks = {mode: min(sizes["rank"], side) for mode, side in enumerate(tensor.shape)}
        lower, _ = tucker_bounds(tensor, ranks)
        factors.append(Factors(layout.modules, store, lower, None))
    return factors
