"""``tucker_qkvo``: TensorLLM's joint Tucker of the attention projections of a layer.

Gu et al. 2025, "TensorLLM: Tensorising multi-head attention for enhanced reasoning and compression
in LLMs" (arXiv 2501.15674).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tensorpress.architectures.layers import LayerShape
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.keying.section import Section
from tensorpress.methods.approach import Approach
from tensorpress.methods.attention_heads import MODULES, side_of
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.budget import Budget, require_rank
from tensorpress.methods.cost import VECTORS, Cost, eigen_macs
from tensorpress.methods.factors import Factors, by_layout, with_layouts
from tensorpress.methods.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

GroupedQuery = Literal["equal_shapes", "per_projection"]


class Ranks(Section):
    """Ranks of the truncated modes; the study: hidden 64, head_dim 4, stack 2.

    Stacks of fewer projections than ``stack`` (grouped-query attention) keep that mode whole.
    """

    hidden: int = Field(64, ge=1)
    head_dim: int = Field(4, ge=1)
    stack: int = Field(2, ge=1)


class Spec(MethodSpec):
    """Ranks or a budget, and how heads and unequal projections are read."""

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("attention",)
    by_heads: ClassVar[bool] = True
    whole_groups: ClassVar[bool] = True
    sized_by: ClassVar[tuple[str, ...]] = ("ranks", "budget")

    method: Literal["tucker_qkvo"]
    ranks: Ranks | None = None
    budget: Budget | None = None
    layout: Literal["tensorllm", "published"] = Field(
        "tensorllm",
        description="tensorllm splits the heads; published splits the residual stream, as the "
        "study's code does",
    )
    gqa: GroupedQuery = Field(
        "equal_shapes",
        description="where k and v have fewer heads: stack q with o and k with v, or, as the "
        "study does, decompose each projection by itself",
    )

    @model_validator(mode="before")
    @classmethod
    def _study_ranks(cls, data: Any) -> Any:
        """The study's ranks where neither ranks nor a budget are given."""
        silent = isinstance(data, dict) and not data.keys() & {"ranks", "budget"}
        return {**data, "ranks": {}} if silent else data

    @property
    def head_layout(self) -> str | None:
        return self.layout

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [self._layout(layer, modules) for modules in stacks(layer, self.gqa)]

    def _layout(self, layer: LayerShape, modules: tuple[str, ...]) -> Layout:
        where, first = "+".join(modules), layer.modules[modules[0]]
        sides = [self.stream_side(module) for module in modules]
        hidden, flat = first.in_features, first.out_features
        if sides[0] == "out":
            hidden, flat = flat, hidden
        if flat % layer.head_dim:
            raise TensorpressError(
                f"layout: {self.layout!r} cannot split {flat} features into heads of "
                f"{layer.head_dim} at {where}; allowed here: tensorllm"
            )
        heads = flat // layer.head_dim
        limits = {"hidden": min(hidden, flat * len(modules)), "head_dim": layer.head_dim}
        whole = len(modules)

        def values(ranks: Any) -> int:
            bases = hidden * ranks["hidden"] + layer.head_dim * ranks["head_dim"]
            bases += whole * whole if whole > 1 else 0
            return bases + ranks["hidden"] * heads * ranks["head_dim"] * whole

        if self.ranks is not None:
            ranks = {**self.ranks.model_dump(), "stack": min(self.ranks.stack, whole)}
            if self.ranks.stack > len(MODULES):
                require_rank("ranks.stack", self.ranks.stack, len(MODULES), where)
            for name in ("hidden", "head_dim"):
                require_rank(f"ranks.{name}", ranks[name], limits[name], where)
        else:
            assert self.budget is not None
            # a few projections, and one less is a large part of them: that mode stays whole
            dense = whole * first.numel
            found = self.budget.proportional(limits, values, dense, where, whole=whole * heads)
            ranks = {**found, "stack": whole}
        return Layout(
            modules,
            "tucker_heads",
            {
                "slices": len(modules),
                "out_features": first.out_features,
                "in_features": first.in_features,
                "heads": heads,
                "sides": sides,
                "hidden_rank": ranks["hidden"],
                "head_dim_rank": ranks["head_dim"],
                "stack_rank": ranks["stack"] if whole > 1 else None,
            },
        )

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        sizes, head_dim = layout.settings, layer.head_dim
        ranks = (sizes["hidden_rank"], sizes["head_dim_rank"], sizes["stack_rank"] or 1)
        flat = sizes["heads"] * head_dim
        hidden = sizes["out_features"] * sizes["in_features"] // flat
        values = sizes["slices"] * hidden * flat
        stored = sizes["heads"] * math.prod(ranks) + hidden * ranks[0] + head_dim * ranks[1]
        held = int(VECTORS * hidden**2) + values
        return Cost(stored + 16, held, 4 * values * hidden + eigen_macs(hidden))

    def stream_side(self, module: str) -> str:
        """The side of the matrix that is mode 0: the residual stream's, unless ``published``."""
        heads_side = side_of(module)
        other = "out" if heads_side == "in" else "in"
        return other if self.layout == "tensorllm" else heads_side


EXAMPLE = Spec(method="tucker_qkvo", ranks=Ranks(hidden=12, head_dim=4, stack=2))


def stacks(layer: LayerShape, gqa: GroupedQuery) -> list[tuple[str, ...]]:
    """Projections that are decomposed together: all four where they have equal shapes."""
    if layer.heads == layer.kv_heads:
        return [MODULES]
    if gqa == "per_projection":
        return [(module,) for module in MODULES]
    return [("attention.q", "attention.o"), ("attention.k", "attention.v")]


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Partial Tucker of ``(stack, hidden, heads, head_dim)`` on all modes but the heads.

    The right layout reads q, k and v as ``W^T`` and o as ``W``, so that the residual stream is
    one mode of all four (Gu et al. 2025); ``published`` has it the other way round.
    """
    from tensorpress.linalg.tucker import tucker_bounds

    factors = []
    for layout, stacks_of_one in with_layouts(weights, layer, spec):
        bounds = tucker_bounds(_tensor(layout, stacks_of_one), _ranks(layout))
        made = _fit(layout, stacks_of_one, several=False)(layout)
        factors.append(replace(made, lower_bound=bounds[0], upper_bound=bounds[1]))
    return factors


def sizes_up_to(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    largest: Spec,
    moments: Mapping[str, Tensor] | None,
) -> Callable[[Spec], list[Factors]]:
    """``decompose`` of any size up to the ``largest``, without bounds."""
    return by_layout(weights, layer, largest, _fit)


def _fit(
    largest: Layout, stacks_of_one: list[Tensor], several: bool = True
) -> Callable[[Layout], Factors]:
    """What makes the factors of one set at any size up to the ``largest``."""
    from tensorpress.linalg.tucker import weighted_tuckers

    tensor = _tensor(largest, stacks_of_one)
    tuckers = weighted_tuckers(tensor, _ranks(largest), {}, several)

    def fit(layout: Layout) -> Factors:
        core, bases = tuckers(_ranks(layout))
        values = {"hidden": bases[1], "head_dim": bases[3], "core": core.movedim(0, -1)}
        if 0 in bases:
            values["stack"] = bases[0]
        store = layout.build().fill(**{name: value.float() for name, value in values.items()})
        return Factors(layout.modules, store)

    return fit


def _tensor(layout: Layout, stacks_of_one: list[Tensor]) -> Tensor:
    """``(stack, hidden, heads, head_dim)``."""
    import torch

    views = [
        stack[0].mT if side == "in" else stack[0]
        for stack, side in zip(stacks_of_one, layout.settings["sides"], strict=True)
    ]
    heads = layout.settings["heads"]
    return torch.stack([view.unflatten(1, (heads, -1)) for view in views])


def _ranks(layout: Layout) -> dict[int, int]:
    """Ranks by mode of the tensor, but of a mode that is kept whole."""
    ranks = {1: layout.settings["hidden_rank"], 3: layout.settings["head_dim_rank"]}
    stack = layout.settings["stack_rank"]
    return ranks if stack is None else {**ranks, 0: stack}
