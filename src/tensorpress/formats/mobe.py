"""Mixture of basis experts: bases that all matrices share, mixed and bent for each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear


def _straight(mixed: Tensor) -> Tensor:
    return mixed


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "silu": nn.functional.silu,
    "identity": _straight,
}
"""What bends a mixture of bases, by name."""


class MoBE(Format):
    """``left (S, out, r)``, ``bases (m, r, in)``, ``mix (S, m)``: ``W_s = left_s f(mix_s bases)``.

    ``transposed``: what is written so is ``W_s^T``, whose sides are ``in`` and ``out``. Products
    rebuild the mixtures ``f(mix_s bases)`` for a moment, of all matrices where there are as many
    rows as matrices.
    """

    name = "mobe"
    exact = ("mix",)  # as few values as scales
    left: Tensor
    bases: Tensor
    mix: Tensor

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        rank: int,
        bases: int,
        activation: str,
        transposed: bool,
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            rank=rank,
            bases=bases,
            activation=activation,
            transposed=transposed,
        )
        self.act, self.transposed = ACTIVATIONS[activation], transposed
        own, shared = (out_features, in_features)[:: -1 if transposed else 1]
        self.factor("left", (slices, own, rank))
        self.factor("bases", (bases, rank, shared))
        self.factor("mix", (slices, bases))

    def mixture(self, index: int) -> Tensor:
        """The bent mixture ``(r, shared side)`` of one matrix."""
        mixed = (self.mix[index] @ self.bases.flatten(1)).view(self.bases.shape[1:])
        return self.act(mixed)

    def project(self, x: Tensor, index: int) -> Tensor:
        mixture, left = self.mixture(index), self.left[index]
        return (x @ left) @ mixture if self.transposed else (x @ mixture.mT) @ left.mT

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and len(x) < self.slices:
            return super().project_grouped(x, ends)  # most matrices have no row
        mixed = (self.mix @ self.bases.flatten(1)).unflatten(1, self.bases.shape[1:])
        mixtures = self.act(mixed)
        if self.transposed:
            return grouped_linear(grouped_linear(x, self.left.mT, ends), mixtures.mT, ends)
        return grouped_linear(grouped_linear(x, mixtures, ends), self.left, ends)

    def dense(self, index: int) -> Tensor:
        matrix = self.left[index] @ self.mixture(index)
        return matrix.mT if self.transposed else matrix

    def macs(self) -> int:
        # a batch mixes the bases of a matrix once, whatever its tokens
        return self.left[0].numel() + self.bases[0].numel()

    def peak_rebuilt_values(self) -> int:
        return self.slices * self.bases[0].numel()
