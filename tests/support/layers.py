"""A layer of every kind of module, random weights of it, and distances."""

from __future__ import annotations

import torch
from torch import Tensor

from tensorpress.architectures.layers import LayerShape, ModuleShape

HIDDEN, HEADS, HEAD_DIM, INNER, EXPERTS = 24, 4, 6, 30, 5


def layer(kv_heads: int = HEADS) -> LayerShape:
    q, kv = HEADS * HEAD_DIM, kv_heads * HEAD_DIM
    return LayerShape(
        HIDDEN,
        HEADS,
        kv_heads,
        HEAD_DIM,
        {
            "attention.q": ModuleShape(q, HIDDEN),
            "attention.k": ModuleShape(kv, HIDDEN),
            "attention.v": ModuleShape(kv, HIDDEN),
            "attention.o": ModuleShape(HIDDEN, q),
            "ffn.gate": ModuleShape(INNER, HIDDEN),
            "ffn.up": ModuleShape(INNER, HIDDEN),
            "ffn.down": ModuleShape(HIDDEN, INNER),
            "experts.gate": ModuleShape(INNER, HIDDEN, EXPERTS),
            "experts.up": ModuleShape(INNER, HIDDEN, EXPERTS),
            "experts.down": ModuleShape(HIDDEN, INNER, EXPERTS),
        },
    )


def weights_of(group: str, shape: LayerShape) -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = {}
    for module, size in shape.group(group).items():
        weight = torch.randn(size.slices, size.out_features, size.in_features)
        made[module] = weight if size.slices > 1 else weight[0]
    return made


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())
