"""TensorLLM's joint Tucker of attention projections: heads stay in the core."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Format


class TuckerHeads(Format):
    """``hidden (H, r0)``, ``head_dim (D, r2)``, ``stack (S, r3)``, ``core (r0, heads, r2, r3)``.

    ``T_s[i, h, d]`` is what the factors rebuild of slice s (Gu et al. 2025). ``sides[s]`` says
    which side of the matrix mode 0 is: ``in`` gives ``W[h D + d, i] = T_s[i, h, d]`` (q, k, v),
    ``out`` gives ``W[i, h D + d] = T_s[i, h, d]`` (o). ``out_features`` and ``in_features`` are
    those of slice 0. Without a stack rank, for a single matrix, there is no ``stack`` factor.
    """

    name = "tucker_heads"
    hidden: Tensor
    head_dim: Tensor
    stack: Tensor
    core: Tensor

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        heads: int,
        sides: Sequence[str],
        hidden_rank: int,
        head_dim_rank: int,
        stack_rank: int | None,
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            heads=heads,
            sides=list(sides),
            hidden_rank=hidden_rank,
            head_dim_rank=head_dim_rank,
            stack_rank=stack_rank,
        )
        self.heads, self.sides = heads, tuple(sides)
        hidden, flat = (
            (in_features, out_features) if sides[0] == "in" else (out_features, in_features)
        )
        self.factor("hidden", (hidden, hidden_rank))
        self.factor("head_dim", (flat // heads, head_dim_rank))
        self.has_stack = stack_rank is not None
        if stack_rank is not None:
            self.factor("stack", (slices, stack_rank))
        self.factor("core", (hidden_rank, heads, head_dim_rank, stack_rank or 1))

    def matrix_shape(self, index: int) -> tuple[int, int]:
        first = (self.out_features, self.in_features)
        return first if self.sides[index] == self.sides[0] else (first[1], first[0])

    def slice_core(self, index: int) -> Tensor:
        """The core ``(r0, heads, r2)`` of one matrix."""
        return self.core @ self.stack[index] if self.has_stack else self.core[..., 0]

    def project(self, x: Tensor, index: int) -> Tensor:
        core = self.slice_core(index)
        if self.sides[index] == "in":
            small = (x @ self.hidden) @ core.flatten(1)
            heads = small.unflatten(-1, core.shape[1:])
            return (heads @ self.head_dim.mT).flatten(-2)
        heads = x.unflatten(-1, (self.heads, -1)) @ self.head_dim
        return (heads.flatten(-2) @ core.flatten(1).mT) @ self.hidden.mT

    def macs(self) -> int:
        hidden, head_dim = self.hidden, self.head_dim
        return hidden.numel() + self.core[..., 0].numel() + self.heads * head_dim.numel()

    def dense(self, index: int) -> Tensor:
        core = self.slice_core(index) @ self.head_dim.mT
        flat = torch.tensordot(self.hidden, core, dims=1).flatten(1)
        return flat.mT if self.sides[index] == "in" else flat
