"""How a mixture of experts spreads its tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

BATCH = 16
"""Windows of one forward pass."""


def effective_experts(
    model: PreTrainedModel,
    windows: Int[Tensor, "windows window"],
    device: torch.device,
    batch: int = BATCH,
) -> list[float]:
    """Exponential of the entropy of each layer's expert assignment shares, in nats.

    Counts the experts that the router's output really sends tokens to: E for even use, 1 if one
    expert gets everything.
    """
    counts: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if name.endswith(".experts"):
            hooks.append(module.register_forward_pre_hook(_counter(counts, name)))
    try:
        with torch.inference_mode():
            for ids in windows.split(batch):
                model(input_ids=ids.to(device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [_effective(counts[name]) for name in counts]


def _effective(count: Tensor) -> float:
    share = count.double() / count.sum()
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def _counter(counts: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        experts = inputs[1].flatten().cpu()
        seen = torch.bincount(experts, minlength=int(experts.max()) + 1)
        known = counts.get(name, seen.new_zeros(0))
        size = max(len(seen), len(known))
        counts[name] = nn.functional.pad(seen, (0, size - len(seen))) + nn.functional.pad(
            known, (0, size - len(known))
        )

    return count
