"""Modules that stand where a model had dense layers and run the factors instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear

SHARED = "shared"
"""Submodule of experts that holds a store of all of their projections."""

PROJECTIONS = ("gate", "up", "down")
"""Of experts, as they are named and, where one store holds all, in the order of its slices."""

Gate = Callable[[Tensor, Tensor], Tensor]
"""What an expert makes of its gate and up activations, both ``(tokens, inner)``."""


class Rebuildable(nn.Module):
    """A factored module that can keep its matrices rebuilt beside its factors.

    That makes it as fast and as large as the dense module, and larger by its factors: for those
    with memory to spare. What is kept is never saved and does not follow later changes of the
    factors, so it is refused, and freed, where factors require gradients.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names
        for name in names:
            self.register_buffer(f"_kept_{name}", None, persistent=False)

    def rebuild_weight(self, name: str) -> Tensor:
        """One of the matrices or stacks of matrices, from the factors."""
        raise TypeError(f"{type(self).__name__} does not define rebuild_weight")

    def stores(self) -> Iterable[Format]:
        """The stores whose factors the module runs."""
        raise TypeError(f"{type(self).__name__} does not define stores")

    def cache_weight(self, enabled: bool = True) -> None:
        """Rebuild the matrices once and multiply by them from now on, or free them.

        ``ValueError`` if factors require gradients.
        """
        if enabled and self._trains():
            raise ValueError(
                "cache_weight: factors that require gradients are not allowed; allowed: frozen "
                "ones, by model.requires_grad_(False)"
            )
        with torch.no_grad():
            for name in self._names:
                setattr(self, f"_kept_{name}", self.rebuild_weight(name) if enabled else None)

    def kept(self, name: str) -> Tensor | None:
        """What ``cache_weight`` keeps, freed by now if the factors are trained."""
        if getattr(self, f"_kept_{name}") is not None and self._trains():
            self.cache_weight(False)
        kept: Tensor | None = getattr(self, f"_kept_{name}")
        return kept

    def _trains(self) -> bool:
        return any(factor.requires_grad for store in self.stores() for factor in store.parameters())


def cache_weights(model: nn.Module, enabled: bool = True) -> None:
    """``cache_weight`` of every factored module: the whole model at a dense model's speed."""
    for module in model.modules():
        if isinstance(module, Rebuildable):
            module.cache_weight(enabled)


class FactoredLinear(Rebuildable):
    """A linear layer whose weight is made of slices of stores that the layer's owner holds.

    ``parts``: (store, slice) of each matrix of a fused layer, one of a plain one; their outputs
    follow each other or, with ``heads``, are interleaved head by head.
    """

    _parts: tuple[tuple[Format, int], ...]
    _run: tuple[tuple[Format, int], ...]

    def __init__(
        self, parts: Sequence[tuple[Format, int]], has_bias: bool, heads: int | None = None
    ) -> None:
        super().__init__("weight")
        # not registered: several linears share one store, whose factors are stored once
        object.__setattr__(self, "_parts", tuple(parts))
        object.__setattr__(self, "_run", tuple(store.runs(index) for store, index in parts))
        self.heads = heads
        shapes = [store.matrix_shape(index) for store, index in self._run]
        self.out_features, self.in_features = sum(out for out, _ in shapes), shapes[0][1]
        empty = torch.empty(self.out_features) if has_bias else None
        self.bias = None if empty is None else nn.Parameter(empty, requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The dense weight ``(out, in)``; for code that asks for dtype or device."""
        kept = self.kept("weight")
        return self.rebuild_weight("weight") if kept is None else kept

    def rebuild_weight(self, name: str) -> Tensor:
        return self.joined([store.dense(index) for store, index in self._run])

    def whole_weight(self) -> Tensor:
        """The weight as the plain model has it, ``(out, in)``, zero where the layer is narrower."""
        return self.joined([store.dense(index) for store, index in self._parts])

    def joined(self, matrices: Sequence[Tensor]) -> Tensor:
        """Matrices ``(out, ...)``, one a part, as one with rows in the order of the outputs."""
        return self._join([matrix.mT for matrix in matrices]).mT

    @property
    def parts(self) -> tuple[tuple[Format, int], ...]:
        """Store and slice of each matrix, as large as the plain model has it."""
        return self._parts

    @property
    def is_narrower(self) -> bool:
        """Whether the layer runs smaller matrices than the plain model's."""
        return self._run != self._parts

    def restored(self, matrix: Tensor) -> Tensor:
        """A matrix of the layer's own size, ``(out, in)``, at the size of the plain model's."""
        if not self.is_narrower:
            return matrix
        sizes = [store.matrix_shape(index)[0] for store, index in self._run]
        shares = zip(self._parts, matrix.split(sizes), strict=True)
        return torch.cat([store.restored(share, index) for (store, index), share in shares])

    def whole_bias(self) -> Tensor | None:
        """The bias as the plain model has it, zero where the layer is narrower."""
        if self.bias is None or not self.is_narrower:
            return self.bias
        sizes = [store.matrix_shape(index)[0] for store, index in self._run]
        shares = zip(self._parts, self.bias.split(sizes), strict=True)
        return torch.cat([store.widened(share, index) for (store, index), share in shares])

    def stores(self) -> Iterable[Format]:
        return [store for store, _ in self._parts]

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` -> ``(..., out)``."""
        kept = self.kept("weight")
        if kept is not None:
            return nn.functional.linear(x, kept, self.bias)
        y = self._join([store.project(x, index) for store, index in self._run])
        return y if self.bias is None else y + self.bias

    def _join(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        if self.heads is None:
            return torch.cat(outputs, dim=-1)
        by_head = [output.unflatten(-1, (self.heads, -1)) for output in outputs]
        return torch.cat(by_head, dim=-1).flatten(-2)


class FactoredEmbedding(Rebuildable):
    """An embedding whose table ``(vocabulary, hidden)`` is the one matrix of a store.

    ``scale`` multiplies the rows, as Gemma's embedding does.
    """

    _store: Format

    def __init__(self, store: Format, scale: float = 1.0) -> None:
        super().__init__("weight")
        object.__setattr__(self, "_store", store)
        self.scale = scale

    @property
    def weight(self) -> Tensor:
        """The table; for code that asks for dtype or device."""
        kept = self.kept("weight")
        return self.rebuild_weight("weight") if kept is None else kept

    def rebuild_weight(self, name: str) -> Tensor:
        return self._store.dense(0)

    def stores(self) -> Iterable[Format]:
        return [self._store]

    def forward(self, ids: Tensor) -> Tensor:
        """``(...)`` -> ``(..., hidden)``."""
        kept, flat = self.kept("weight"), ids.flatten()
        rows = self._store.rows(flat, 0) if kept is None else kept[flat]
        return rows.view(*ids.shape, -1) * self.scale


class FactoredExperts(Rebuildable):
    """Gated experts whose projections are stores of one slice per expert.

    With ``biases``, gate and up share one ``(E, 2 * inner)``, interleaved as in GPT-OSS. One
    ``shared`` store of all projections, of ``3 E`` slices, runs by its parts.
    """

    gate: Format
    up: Format
    down: Format
    shared: Format | None

    def __init__(
        self,
        gate: Format | None = None,
        up: Format | None = None,
        down: Format | None = None,
        *,
        shared: Format | None = None,
        act: Gate,
        biases: bool,
    ) -> None:
        super().__init__(*PROJECTIONS)
        self.shared = shared
        for index, (name, own) in enumerate(zip(PROJECTIONS, (gate, up, down), strict=True)):
            if shared is None:
                self.add_module(name, own)
            else:  # not registered: they are parts of what is
                part, _ = shared.runs(index * shared.slices // 3)
                object.__setattr__(self, name, part)
        gate, down = self.gate, self.down
        self.act, self.biases = act, biases
        if biases:
            sizes = {"gate_up": 2 * gate.out_features, "down": down.out_features}
            for name, size in sizes.items():
                bias = nn.Parameter(torch.empty(gate.slices, size), requires_grad=False)
                self.register_parameter(f"{name}_proj_bias", bias)

    def rebuild_weight(self, name: str) -> Tensor:
        store: Format = getattr(self, name)
        return store.stacked()

    def stores(self) -> Iterable[Format]:
        return [self.gate, self.up, self.down] if self.shared is None else [self.shared]

    def whole_weights(self, name: str) -> list[Tensor]:
        """Each expert's matrix of a projection as the plain model has it."""
        store: Format = getattr(self, name)
        slices = range(store.slices)
        if self.shared is None:
            return [store.dense(expert) for expert in slices]
        first = PROJECTIONS.index(name) * store.slices
        return [self.shared.dense(first + expert) for expert in slices]

    def whole_biases(self) -> Tensor:
        """Gate's and up's as the plain model has them, ``(E, 2 * inner)``."""
        biases = self.get_parameter("gate_up_proj_bias")
        if self.shared is None:
            return biases
        return torch.stack(
            [
                torch.stack([self.shared.widened(b, e) for b in (own[::2], own[1::2])], 1).flatten()
                for e, own in enumerate(biases)
            ]
        )

    def forward(
        self,
        hidden_states: Tensor,
        top_k_index: Tensor | None = None,
        top_k_weights: Tensor | None = None,
    ) -> Tensor:
        """Weighted sum of each token's experts: ``(T, hidden)``, ``(T, K)``, ``(T, K)``.

        Without a choice, as Llama 4 calls its experts: their outputs of ``(E * T, hidden)``, all
        tokens for one expert after the other, zeros where a token is not for it.
        """
        if top_k_index is None or top_k_weights is None:
            return self._in_turn(hidden_states)
        top_k = top_k_index.shape[1]
        # pairs of token and expert, sorted by expert, so that each projection is grouped products
        expert, order = top_k_index.flatten().sort(stable=True)
        experts = torch.arange(self.gate.slices, device=expert.device)
        ends = torch.searchsorted(expert, experts, right=True, out_int32=True)
        y = self._sorted(hidden_states[order // top_k], expert, ends)
        y = y * top_k_weights.flatten()[order, None]
        by_token = y[order.argsort()].unflatten(0, top_k_index.shape)
        return by_token.sum(1).to(hidden_states.dtype)

    def _in_turn(self, x: Tensor) -> Tensor:
        experts = torch.arange(self.gate.slices, device=x.device)
        expert, chosen = experts.repeat_interleave(len(x) // self.gate.slices), x.any(-1)
        ends = torch.searchsorted(expert[chosen], experts, right=True, out_int32=True)
        y = torch.zeros_like(x)
        y[chosen] = self._sorted(x[chosen], expert[chosen], ends).to(x.dtype)
        return y

    def _sorted(self, x: Tensor, expert: Tensor, ends: Tensor) -> Tensor:
        """Rows ``x (n, hidden)`` through the experts ``(n,)`` they belong to, sorted by these."""
        gate, up = self._project("gate", x, ends), self._project("up", x, ends)
        if not self.biases:
            return self._project("down", self.act(gate, up), ends)
        bias = self.get_parameter("gate_up_proj_bias")[expert]
        inner = self.act(gate + bias[:, ::2], up + bias[:, 1::2])
        return self._project("down", inner, ends) + self.get_parameter("down_proj_bias")[expert]

    def _project(self, name: str, x: Tensor, ends: Tensor) -> Tensor:
        kept = self.kept(name)
        if kept is not None:
            return grouped_linear(x, kept, ends)
        store: Format = getattr(self, name)
        return store.project_grouped(x, ends)


def store_names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of the stores in a plan's entry of experts, which are also their submodules' names."""
    return (SHARED,) if SHARED in entry else PROJECTIONS


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
