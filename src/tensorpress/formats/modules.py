"""Modules that stand where a model had dense layers and run the factors instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .base import Format

Gate = Callable[[Tensor, Tensor], Tensor]
"""What an expert makes of its gate and up activations, both ``(tokens, inner)``."""


class FactoredLinear(nn.Module):
    """A linear layer whose weight is made of slices of stores that the layer's owner holds.

    ``parts``: (store, slice) of each matrix of a fused layer, one of a plain one; their outputs
    follow each other or, with ``heads``, are interleaved head by head.
    """

    _parts: tuple[tuple[Format, int], ...]

    def __init__(
        self, parts: Sequence[tuple[Format, int]], has_bias: bool, heads: int | None = None
    ) -> None:
        super().__init__()
        # not registered: several linears share one store, whose factors are stored once
        object.__setattr__(self, "_parts", tuple(parts))
        self.heads = heads
        shapes = [store.matrix_shape(index) for store, index in parts]
        self.out_features, self.in_features = sum(out for out, _ in shapes), shapes[0][1]
        empty = torch.empty(self.out_features) if has_bias else None
        self.bias = None if empty is None else nn.Parameter(empty, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The dense weight ``(out, in)``, rebuilt; for code that asks for dtype or device."""
        return self._join([store.dense(index).mT for store, index in self._parts]).mT

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        y = self._join([store.project(x, index) for store, index in self._parts])
        return y if self.bias is None else y + self.bias

    def _join(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        if self.heads is None:
            return torch.cat(outputs, dim=-1)
        by_head = [output.unflatten(-1, (self.heads, -1)) for output in outputs]
        return torch.cat(by_head, dim=-1).flatten(-2)


class FactoredEmbedding(nn.Module):
    """An embedding whose table ``(vocabulary, hidden)`` is the one matrix of a store.

    ``scale`` multiplies the rows, as Gemma's embedding does.
    """

    _store: Format

    def __init__(self, store: Format, scale: float = 1.0) -> None:
        super().__init__()
        object.__setattr__(self, "_store", store)
        self.scale = scale

    @property
    def weight(self) -> Tensor:
        """The table, rebuilt; for code that asks for dtype or device."""
        return self._store.dense(0)

    def forward(self, ids: Tensor) -> Tensor:
        """``(...)`` -> ``(..., hidden)``."""
        rows = self._store.rows(ids.flatten(), 0)
        return rows.view(*ids.shape, -1) * self.scale


class FactoredExperts(nn.Module):
    """Gated experts whose projections are stores of one slice per expert.

    With ``biases``, gate and up share one ``(E, 2 * inner)``, interleaved as in GPT-OSS.
    """

    def __init__(self, gate: Format, up: Format, down: Format, act: Gate, biases: bool) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.act = gate, up, down, act
        self.biases = biases
        if biases:
            sizes = {"gate_up": 2 * gate.out_features, "down": down.out_features}
            for name, size in sizes.items():
                bias = nn.Parameter(torch.empty(gate.slices, size), requires_grad=False)
                self.register_parameter(f"{name}_proj_bias", bias)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Weighted sum of each token's experts: ``(T, hidden)``, ``(T, K)``, ``(T, K)``."""
        total = torch.zeros_like(hidden_states)
        for expert in range(self.gate.slices):
            token, place = torch.where(top_k_index == expert)
            if token.numel():
                y = self._expert(hidden_states[token], expert) * top_k_weights[token, place, None]
                total = total.index_add(0, token, y.to(total.dtype))
        return total

    def _expert(self, x: Tensor, expert: int) -> Tensor:
        gate, up = self.gate.project(x, expert), self.up.project(x, expert)
        if not self.biases:
            return self.down.project(self.act(gate, up), expert)
        bias = self.get_parameter("gate_up_proj_bias")[expert]
        inner = self.act(gate + bias[::2], up + bias[1::2])
        return self.down.project(inner, expert) + self.get_parameter("down_proj_bias")[expert]


def gate_of(experts: nn.Module, limits: Sequence[float]) -> Gate:
    """The gate of the experts module that is replaced: clamped at ``limits``, if there are any."""
    return clamped(*limits) if limits else gated(experts.act_fn)  # type: ignore[arg-type]


def gated(activation: Callable[[Tensor], Tensor]) -> Gate:
    """``activation(gate) * up``, the gate of most experts."""
    return lambda gate, up: activation(gate) * up


def clamped(alpha: float, limit: float) -> Gate:
    """GPT-OSS's gate: ``(up + 1) gate sigmoid(alpha gate)`` with both clamped at ``limit``."""

    def combine(gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=limit), up.clamp(min=-limit, max=limit)
        return (up + 1) * gate * torch.sigmoid(gate * alpha)

    return combine
