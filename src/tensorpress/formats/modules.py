"""Modules that stand where a model had dense layers and run the factors instead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Format


class FactoredLinear(nn.Module):
    """A linear layer whose weight is slice ``index`` of a store that the layer's owner holds."""

    _store: Format

    def __init__(self, store: Format, index: int, has_bias: bool) -> None:
        super().__init__()
        # not registered: several linears share one store, whose factors are stored once
        object.__setattr__(self, "_store", store)
        self.index = index
        self.out_features, self.in_features = store.matrix_shape(index)
        empty = torch.empty(self.out_features) if has_bias else None
        self.bias = None if empty is None else nn.Parameter(empty, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The dense weight ``(out, in)``, rebuilt; for code that asks for dtype or device."""
        return self._store.dense(self.index)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        y = self._store.project(x, self.index)
        return y if self.bias is None else y + self.bias


class FactoredExperts(nn.Module):
    """Gated experts whose projections are stores of one slice per expert."""

    def __init__(self, gate: Format, up: Format, down: Format, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.act_fn = gate, up, down, act_fn

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Weighted sum of each token's experts: ``(T, hidden)``, ``(T, K)``, ``(T, K)``."""
        total = torch.zeros_like(hidden_states)
        for expert in range(self.gate.slices):
            token, place = torch.where(top_k_index == expert)
            if token.numel():
                x = hidden_states[token]
                inner = self.act_fn(self.gate.project(x, expert)) * self.up.project(x, expert)
                y = self.down.project(inner, expert) * top_k_weights[token, place, None]
                total = total.index_add(0, token, y.to(total.dtype))
        return total
