"""One forward pass of a small model, with what every linear layer of some blocks reads and gives.

To each output a zero is added whose gradient tells what depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

TOKENS = 24

Model = TypeVar("Model", bound=nn.Module)


@dataclass(eq=False)
class Call:
    """The one call of a linear layer: rows ``(tokens, features)`` of inputs and outputs."""

    path: str
    x: Tensor
    y: Tensor
    delta: Tensor
    """Zero, added to the outputs: of their own shape."""


def linears(block: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a block by their paths within it."""
    return {p: m for p, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)}


@contextmanager
def watched(block: nn.Module) -> Iterator[list[Call]]:
    """The calls of a block's linear layers, in order; of those called once, with all tokens."""
    calls: list[Call] = []
    handles = []
    for path, module in linears(block).items():

        def watch(linear: nn.Module, inputs: Any, output: Any, path: str = path) -> Tensor | None:
            if not isinstance(output, Tensor):
                return None  # a router that is a linear layer too
            delta = torch.zeros_like(output, requires_grad=True)
            moved = output + delta
            x = inputs[0]
            calls.append(Call(path, x.reshape(-1, x.shape[-1]), moved.detach(), delta))
            return moved

        handles.append(module.register_forward_hook(watch))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
        paths = [call.path for call in calls]
        calls[:] = [c for c in calls if paths.count(c.path) == 1 and len(c.x) == TOKENS]


def gradients(of: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    """How a number depends on the outputs of calls, each ``(tokens, out)``."""
    nothing = [torch.zeros_like(call.delta) for call in calls]
    if not of.requires_grad:
        return [_rows(each) for each in nothing]
    found = torch.autograd.grad(
        of, [call.delta for call in calls], retain_graph=True, allow_unused=True
    )
    both = zip(found, nothing, strict=True)
    return [_rows(zero if each is None else each) for each, zero in both]


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def randomised(model: Model) -> Model:
    """The model with matrices large enough for its nonlinear parts to matter, and no gradients."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            if parameter.ndim > 1:
                std = parameter.shape[-1] ** -0.5
                parameter.normal_(std=std, generator=generator)
            elif parameter.ndim == 1 and parameter.is_floating_point():
                parameter.add_(
                    0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
                )
    return model.eval()
