"""``tucker_qkvo_separate``: q, k, v and o share one basis of the residual stream, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.attention_heads import MODULES, side_of
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs
from tensorpress.methods.factors import Factors, with_layouts
from tensorpress.methods.layout import Layout
from tensorpress.methods.tucker_qkvo import GroupedQuery

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    """Rank of the shared basis, or a budget."""

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("attention",)
    by_heads: ClassVar[bool] = True
    whole_groups: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    method: Literal["tucker_qkvo_separate"]
    rank: int | None = Field(None, ge=1, description="columns of the shared basis")
    budget: Budget | None = None
    layout: Literal["tensorllm", "published"] = Field(
        "tensorllm", description="published shares the basis on the heads' side instead"
    )
    gqa: GroupedQuery = Field(
        "equal_shapes",
        description="where k and v have fewer heads: one basis for all that has the same side "
        "in common, or, as the study does, one for each projection",
    )

    @property
    def head_layout(self) -> str | None:
        return self.layout

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [self._layout(layer, modules) for modules in self._stacks(layer)]

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        hidden, width = layout.settings["hidden"], sum(layout.settings["widths"])
        # side by side in float32, squared in float64
        held = int(VECTORS * hidden**2) + 3 * hidden * width
        macs = 2 * hidden**2 * width + eigen_macs(hidden)
        return Cost(layout.settings["rank"] * (hidden + width), held, macs)

    def _stacks(self, layer: LayerShape) -> list[tuple[str, ...]]:
        if layer.heads == layer.kv_heads:
            return [MODULES]
        if self.gqa == "per_projection":
            return [(module,) for module in MODULES]
        if self.layout == "tensorllm":
            return [MODULES]  # whatever their heads, all meet the same residual stream
        return [("attention.q", "attention.o"), ("attention.k", "attention.v")]

    def _layout(self, layer: LayerShape, modules: tuple[str, ...]) -> Layout:
        where = "+".join(modules)
        sides, widths, hidden = [], [], 0
        for module in modules:
            shape, heads_side = layer.modules[module], side_of(module)
            by_stream = self.layout == "tensorllm"
            side = heads_side if not by_stream else ("out" if heads_side == "in" else "in")
            sides.append(side)
            hidden, width = shape.in_features, shape.out_features
            if side == "out":
                hidden, width = width, hidden
            widths.append(width)
        limit = min(hidden, sum(widths))
        if self.rank is not None:
            require_rank("rank", self.rank, limit, where)
            rank = self.rank
        else:
            assert self.budget is not None
            dense = hidden * sum(widths)
            rank = self.budget.largest(limit, lambda r: r * (hidden + sum(widths)), dense, where)
        first = layer.modules[modules[0]]
        return Layout(
            modules,
            "shared_basis",
            {
                "slices": len(modules),
                "out_features": first.out_features,
                "in_features": first.in_features,
                "hidden": hidden,
                "sides": sides,
                "widths": widths,
                "rank": rank,
            },
        )


EXAMPLE = Spec(method="tucker_qkvo_separate", rank=7)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """The basis that captures most of all projections side by side, and each one's core.

    The study takes the basis from a partial Tucker that truncates the stack mode too; since the
    cores are kept apart, the leading singular vectors without that truncation do no worse.
    """
    import torch

    from tensorpress.linalg.bounds import of_tails
    from tensorpress.linalg.gram import leading_right

    factors = []
    for layout, stacks_of_one in with_layouts(weights, layer, spec):
        settings = layout.settings
        flats = [
            stack[0].mT if side == "in" else stack[0]
            for stack, side in zip(stacks_of_one, settings["sides"], strict=True)
        ]
        together = torch.cat(flats, dim=1)
        basis, squares = leading_right(together.mT, settings["rank"])
        cores = {f"core_{i}": (basis.mT @ flat.double()).float() for i, flat in enumerate(flats)}
        store = layout.build().fill(basis=basis.float(), **cores)
        total = float(together.double().square().sum())
        tail = float(squares[settings["rank"] :].sum())
        factors.append(Factors(layout.modules, store, *of_tails([tail], total)))
    return factors
