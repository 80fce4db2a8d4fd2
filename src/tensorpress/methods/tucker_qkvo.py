"""``tucker_qkvo``: TensorLLM's joint Tucker of the attention projections of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tensorpress.errors import TensorpressError
from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, require_rank

if TYPE_CHECKING:
    from torch import Tensor

MODULES = ("attention.q", "attention.k", "attention.v", "attention.o")


class Ranks(BaseModel):
    """Ranks of the truncated modes; the study: hidden 64, head_dim 4, stack 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = Field(64, ge=1)
    head_dim: int = Field(4, ge=1)
    stack: int = Field(2, ge=1)


class Spec(MethodSpec):
    """Ranks and how the heads are split."""

    groups: ClassVar[tuple[str, ...]] = ("attention",)
    whole_groups: ClassVar[bool] = True

    method: Literal["tucker_qkvo"]
    ranks: Ranks = Ranks()
    layout: Literal["tensorllm", "published"] = Field(
        "tensorllm",
        description="tensorllm splits the heads; published splits the residual stream, as the "
        "study's code does (golden/README.md, error 1)",
    )

    def check(self, layer: LayerShape, group: str) -> None:
        self.check_group(group)
        for stack in stacks(layer):
            where = "+".join(stack)
            limit = min(layer.hidden_size, _flat(layer, stack[0]) * len(stack))
            require_rank("ranks.hidden", self.ranks.hidden, limit, where)
            require_rank("ranks.head_dim", self.ranks.head_dim, layer.head_dim, where)
            require_rank("ranks.stack", self.ranks.stack, len(stack), where)
            if self.layout == "published" and _flat(layer, stack[0]) != layer.hidden_size:
                raise TensorpressError(
                    "layout: 'published' needs square projections; allowed here: tensorllm"
                )


def stacks(layer: LayerShape) -> list[tuple[str, ...]]:
    """Projections that are decomposed together: all four, or (q, o) and (k, v) under GQA."""
    if layer.heads == layer.kv_heads:
        return [MODULES]
    return [("attention.q", "attention.o"), ("attention.k", "attention.v")]


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """Partial Tucker of ``(hidden, heads, head_dim, stack)`` on all modes but the heads.

    The right layout reads q, k and v as ``W^T`` and o as ``W``, so that mode 0 is the residual
    stream of all four (Gu et al. 2025); ``published`` has it the other way round.
    """
    import torch

    from tensorpress.formats.tucker_heads import TuckerHeads
    from tensorpress.linalg.tucker import partial_tucker, tucker_bounds

    factors = []
    for modules in stacks(layer):
        right = ["out" if module == "attention.o" else "in" for module in modules]
        wrong = ["in" if side == "out" else "out" for side in right]
        sides = right if spec.layout == "tensorllm" else wrong
        views = [
            weights[module].mT if side == "in" else weights[module]
            for module, side in zip(modules, sides, strict=True)
        ]
        heads = layer.heads if "attention.q" in modules else layer.kv_heads
        tensor = torch.stack([view.unflatten(1, (heads, -1)) for view in views], dim=-1)
        ranks = {0: spec.ranks.hidden, 2: spec.ranks.head_dim, 3: spec.ranks.stack}
        core, bases = partial_tucker(tensor, ranks)
        out_features, in_features = weights[modules[0]].shape
        store = TuckerHeads(
            slices=len(modules),
            out_features=out_features,
            in_features=in_features,
            heads=heads,
            sides=sides,
            hidden_rank=spec.ranks.hidden,
            head_dim_rank=spec.ranks.head_dim,
            stack_rank=spec.ranks.stack,
        )
        store.fill(
            hidden=bases[0].float(),
            head_dim=bases[2].float(),
            stack=bases[3].float(),
            core=core.float(),
        )
        factors.append(Factors(modules, store, *tucker_bounds(tensor, ranks)))
    return factors


def _flat(layer: LayerShape, module: str) -> int:
    """Heads times head_dim of a projection."""
    heads = layer.heads if module in ("attention.q", "attention.o") else layer.kv_heads
    return heads * layer.head_dim
