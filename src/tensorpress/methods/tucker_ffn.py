"""``tucker_ffn``: FFN matrices of equal shape share row and column bases."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import ConfigDict, Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import WhitenedSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs, root_side, tucker_held
from tensorpress.methods.factors import Factors, by_layout, output_gradients, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor


class Ranks(Section):
    """Ranks of the output and input modes, the same for every matrix."""

    model_config = ConfigDict(serialize_by_alias=True)

    out: int = Field(ge=1)
    in_: int = Field(ge=1, alias="in")


class Spec(WhitenedSpec):
    """Ranks of the two modes, or a budget."""

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("ffn",)
    whole_groups: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("ranks", "budget")

    method: Literal["tucker_ffn"]
    ranks: Ranks | None = None
    budget: Budget | None = None

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        shapes = layer.group(group)
        sets = (("ffn.gate", "ffn.up"), ("ffn.down",))
        there = [tuple(module for module in each if module in shapes) for each in sets]
        return [self._layout(layer, modules) for modules in there if modules]

    def _layout(self, layer: LayerShape, modules: tuple[str, ...]) -> Layout:
        where, shape = "+".join(modules), layer.modules[modules[0]]
        slices = len(modules)
        limits = {"out": shape.out_features, "in": shape.in_features}
        if self.ranks is not None:
            ranks = self.ranks.model_dump()
            for name, limit in limits.items():
                require_rank(f"ranks.{name}", ranks[name], limit, where)
        else:
            assert self.budget is not None
            ranks = self.budget.proportional(
                limits,
                lambda r: (
                    r["out"] * (shape.out_features + slices * r["in"]) + r["in"] * shape.in_features
                ),
                slices * shape.numel,
                where,
                whole=slices,
            )
        sizes = {**sizes_of(shape), "slices": slices}
        settings = {**sizes, "out_rank": ranks["out"], "in_rank": ranks["in"]}
        return Layout(modules, "tucker_slices", settings)

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        sizes = layout.settings
        slices, ranks = sizes["slices"], (sizes["out_rank"], sizes["in_rank"])
        sides = (sizes["out_features"], sizes["in_features"])
        values = slices * math.prod(sides)
        stored = sum(side * rank for side, rank in zip(sides, ranks, strict=True))
        held = tucker_held(max(sides), min(sides), values) + values
        if self.needs_moments:
            rooted = root_side(slices * sides[0], sides[1], ranks[1])
            held += 2 * values + VECTORS * rooted**2 + sides[1] * rooted
        # the larger mode's basis is of what the smaller one has left
        small, large = sorted((side, rank) for side, rank in zip(sides, ranks, strict=True))
        left = min(large[0], slices * small[1])
        sweep = values * sum(ranks) + eigen_macs(small[0]) + eigen_macs(left)
        macs = values * sum(sides) + SWEEPS * sweep
        return Cost(stored + slices * math.prod(ranks), int(held), macs)


SWEEPS = 3
"""Passes over the modes as far as time goes, the start among them: few weights are worth more."""

EXAMPLE = Spec(method="tucker_ffn", ranks=Ranks.model_validate({"out": 16, "in": 12}))


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Partial Tucker on (out, in), one core slice per projection; down stands alone.

    Whitened, the input mode is multiplied by the root of the moment before and by its inverse
    after: gate and up see the same inputs, so one root serves both. So is the output mode, by the
    weights of the mean gradient of both, which share its basis.
    """
    import torch

    from tensorpress.linalg.tucker import tucker_bounds

    factors = []
    for layout, stacks in with_layouts(weights, layer, spec):
        bounds = tucker_bounds(torch.cat(stacks), _ranks(layout))
        made = _fit(layout, stacks, spec, moments, several=False)(layout)
        upper = bounds[1] if moments is None else None
        factors.append(replace(made, lower_bound=bounds[0], upper_bound=upper))
    return factors


def sizes_up_to(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    largest: Spec,
    moments: Mapping[str, Tensor] | None,
) -> Callable[[Spec], list[Factors]]:
    """``decompose`` of any size up to the ``largest``, without bounds."""
    return by_layout(
        weights, layer, largest, lambda layout, stacks: _fit(layout, stacks, largest, moments)
    )


def _fit(
    largest: Layout,
    stacks: list[Tensor],
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
    several: bool = True,
) -> Callable[[Layout], Factors]:
    """What makes the factors of one set at any size up to the ``largest``."""
    import torch

    from tensorpress.linalg.tucker import weighted_tuckers
    from tensorpress.linalg.whitening import Diagonal, Root, output_roots, root_for

    modules, ranks = largest.modules, _ranks(largest)
    tensor = torch.cat(stacks)
    stacks.clear()  # the copy stands in their place
    roots: dict[int, Root | Diagonal] = {}
    gradients = [output_gradients(moments, module, spec) for module in modules]
    if known := [each for each in gradients if each is not None]:
        roots[1] = Diagonal(output_roots(torch.cat(known).mean(0)))
    if moments is not None:
        roots[2] = root_for(tensor, moments[modules[0]], ranks[2])
    tuckers = weighted_tuckers(tensor, ranks, roots, several)

    def fit(layout: Layout) -> Factors:
        core, bases = tuckers(_ranks(layout))
        store = layout.build().fill(
            left=bases[1].float(), right=bases[2].float(), core=core.float()
        )
        return Factors(modules, store)

    return fit


def _ranks(layout: Layout) -> dict[int, int]:
    """Ranks by mode of the stack."""
    return {1: layout.settings["out_rank"], 2: layout.settings["in_rank"]}
