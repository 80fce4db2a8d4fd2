"""``tucker_per_head``: Tucker-2 of each head's slice of q, k, v and o."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach
from tensorpress.methods.attention_heads import (
    head_moments,
    head_outputs,
    head_shape,
    head_slices,
    inner_settings,
    per_head,
    side_of,
)
from tensorpress.methods.base import WhitenedSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs, root_side, tucker_held
from tensorpress.methods.factors import Factors, output_gradients, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor


class Ranks(Section):
    """Ranks of each head's residual-stream side and of its own side (the study: 64, 16)."""

    hidden: int = Field(ge=1)
    head_dim: int = Field(ge=1)


class Spec(WhitenedSpec):
    """Ranks or a budget; every head has the same."""

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("attention",)
    by_heads: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("ranks", "budget")

    method: Literal["tucker_per_head"]
    ranks: Ranks | None = None
    budget: Budget | None = None

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            heads = head_shape(layer, module)
            ranks = self._ranks(heads, module, shape)
            rows, columns = ("head_dim", "hidden")[:: 1 if side_of(module) == "out" else -1]
            inner = {**sizes_of(heads), "out_rank": ranks[rows], "in_rank": ranks[columns]}
            found.append(per_head(module, "tucker_matrix", inner))
        return found

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        inner = inner_settings(layout)
        sides, heads = (inner["out_features"], inner["in_features"]), inner["slices"]
        ranks = (inner["out_rank"], inner["in_rank"])
        stored = sum(side * rank for side, rank in zip(sides, ranks, strict=True))
        each = math.prod(sides)
        held = tucker_held(max(sides), min(sides), each) + 2 * heads * each
        macs = heads * 2 * (eigen_macs(min(sides)) + each * max(sides))
        if self.needs_moments:
            rooted = root_side(*sides, ranks[1])
            held += VECTORS * rooted**2 + sides[1] * rooted
            macs += heads * (eigen_macs(rooted) + sides[1] ** 2 * rooted)
        return Cost(heads * (stored + math.prod(ranks)), int(held), macs)

    def _ranks(self, heads: ModuleShape, module: str, shape: ModuleShape) -> dict[str, int]:
        out_size, in_size = heads.out_features, heads.in_features
        sides = (out_size, in_size) if side_of(module) == "out" else (in_size, out_size)
        limits = {"head_dim": sides[0], "hidden": sides[1]}
        if self.ranks is not None:
            given = self.ranks.model_dump()
            for name, limit in limits.items():
                require_rank(f"ranks.{name}", given[name], limit, module)
            return given
        assert self.budget is not None
        # a matrix has one rank: more on one side than on the other would store zeros
        side = min(limits.values())
        each = heads.slices * (out_size + in_size)
        rank = self.budget.largest(
            side, lambda r: r * each + heads.slices * r * r, shape.numel, module
        )
        return {"head_dim": rank, "hidden": rank}


EXAMPLE = Spec(method="tucker_per_head", ranks=Ranks(hidden=6, head_dim=4))


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Partial Tucker of each head's matrix on both of its modes, which weights are undone on."""
    import torch

    from tensorpress.linalg.bounds import joint
    from tensorpress.linalg.tucker import tucker_bounds, weighted_tucker
    from tensorpress.linalg.whitening import Diagonal, Root, output_roots, root_for

    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module, inner = layout.modules[0], inner_settings(layout)
        heads = head_slices(stack[0], layer, module)
        ranks = {0: inner["out_rank"], 1: inner["in_rank"]}
        each_moment = None if moments is None else head_moments(moments[module], layer, module)
        outputs = output_gradients(moments, module, spec)
        each_output = None if outputs is None else head_outputs(outputs[0], layer, module)
        lefts, cores, rights = [], [], []
        for index, matrix in enumerate(heads):
            roots: dict[int, Root | Diagonal] = {}
            if each_output is not None:
                roots[0] = Diagonal(output_roots(each_output[index]))
            if each_moment is not None:
                roots[1] = root_for(matrix, each_moment[index], ranks[1])
            core, bases = weighted_tucker(matrix, ranks, roots)
            lefts.append(bases[0].float())
            cores.append(core.float())
            rights.append(bases[1].float())
        norms = [float(matrix.double().square().sum()) for matrix in heads]
        bounds = [tucker_bounds(matrix, ranks) for matrix in heads]
        lower, upper = (joint([b[i] for b in bounds], norms) for i in (0, 1))
        values = {"left": lefts, "core": cores, "right": rights}
        store = layout.build().fill(**{f"inner.{n}": torch.stack(v) for n, v in values.items()})
        factors.append(Factors(layout.modules, store, lower, upper if moments is None else None))
    return factors
