"""Fused experts of a block: how their tensors lie, told by what they compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from tensorpress.architectures.families.base import Experts

NAMES = ("gate_up_proj", "down_proj")


def experts_in(block: nn.Module) -> tuple[str, nn.Module] | None:
    """Path and module of a block's fused experts, all matrices of a kind in one tensor."""
    found = [
        (path, module)
        for path, module in block.named_modules()
        if all(getattr(getattr(module, name, None), "ndim", 0) == 3 for name in NAMES)
    ]
    return found[0] if len(found) == 1 else None


def layout(path: str, module: nn.Module, hidden: int, stored: Stored | None) -> Experts | None:
    """The description that computes what the experts of a small model do, if one does."""
    with torch.no_grad():
        for described in _candidates(path, module, stored):
            if _computes(described, module, hidden):
                return described
    return None


Stored = tuple[str, Mapping[str, str]]
"""Where checkpoints hold experts one by one: module within the layer, names of projections."""


def _candidates(path: str, module: Any, stored: Stored | None) -> Iterator[Experts]:
    if any(name.endswith("bias") for name, _ in module.named_parameters()):
        return  # GPT-OSS has a file of its own
    where, per_expert = stored if stored else (None, {})
    for interleaved, transposed, in_turn in product((False, True), repeat=3):
        yield Experts(
            module=path,
            per_expert=per_expert,
            stored_module=where,
            interleaved=interleaved,
            transposed=transposed,
            in_turn=in_turn,
        )


def _computes(described: Experts, module: Any, hidden: int) -> bool:
    gate_up, down = module.gate_up_proj, module.down_proj
    inner = down.shape[1 if described.transposed else 2]
    sides = (hidden, 2 * inner) if described.transposed else (2 * inner, hidden)
    if tuple(gate_up.shape[1:]) != sides or not hasattr(module, "act_fn"):
        return False
    x = torch.randn(5, hidden, generator=torch.Generator().manual_seed(0))
    chosen = torch.arange(5)[:, None] % gate_up.shape[0]
    gates, ups = described.split(gate_up)
    downs = down.mT if described.transposed else down
    expected = torch.stack([
        downs[e] @ (module.act_fn(gates[e] @ row) * (ups[e] @ row))
        for row, e in zip(x, chosen[:, 0].tolist(), strict=True)
    ])  # fmt: skip
    try:
        found: Tensor = (
            module(x.repeat(len(gate_up), 1)).view(len(gate_up), *x.shape)[chosen[:, 0], range(5)]
            if described.in_turn
            else module(x, chosen, torch.ones(5, 1))
        )
    except (TypeError, RuntimeError):  # of experts that are called in another way
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4, rtol=1e-3)
