from __future__ import annotations

import torch
from torch import Tensor, nn

from .base import Format


class FactoredLinear(nn.Module):
    def __init__(self, store: Format, index: int, bias: bool) -> None:
        super().__init__()
        object.__setattr__(self, "_store", store)
        self.index = index
        self.in_features, self.out_features = store.in_features, store.out_features
        self.bias = nn.Parameter(torch.empty(store.out_features), requires_grad=False) if bias else None

    @property
    def weight(self) -> Tensor:
        return self._store.dense(self.index)

    def forward(self, x: Tensor) -> Tensor:
        y = self._store.project(x, self.index)
        return y if self.bias is None else y + self.bias


class FactoredExperts(nn.Module):
    def __init__(self, gate: Format, up: Format, down: Format, act_fn: nn.Module) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.act_fn = gate, up, down, act_fn

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden_states)
        for e in range(self.gate.slices):
            token, place = torch.where(top_k_index == e)
            if token.numel():
                x = hidden_states[token]
                h = self.act_fn(self.gate.project(x, e)) * self.up.project(x, e)
                y = self.down.project(h, e) * top_k_weights[token, place, None]
                out = out.index_add(0, token, y.to(out.dtype))
        return out
