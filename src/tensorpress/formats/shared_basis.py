"""One basis of the residual stream for several projections, each with a core of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .base import Format


class SharedBasis(Format):
    """``basis (H, r)``, ``core_s (r, n_s)``: ``T_s = basis @ core_s`` of shape ``(H, n_s)``.

    ``sides[s]`` says which side of the matrix H is: ``in`` gives ``W_s = T_s^T`` (q, k, v),
    ``out`` gives ``W_s = T_s`` (o). ``widths[s]`` is ``n_s``; ``out_features`` and
    ``in_features`` are those of slice 0.
    """

    name = "shared_basis"
    basis: Tensor

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        hidden: int,
        sides: Sequence[str],
        widths: Sequence[int],
        rank: int,
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            hidden=hidden,
            sides=list(sides),
            widths=list(widths),
            rank=rank,
        )
        self.sides, self.widths, self.hidden = tuple(sides), tuple(widths), hidden
        self.factor("basis", (hidden, rank))
        for index, width in enumerate(widths):
            self.factor(f"core_{index}", (rank, width))

    def matrix_shape(self, index: int) -> tuple[int, int]:
        width = self.widths[index]
        return (width, self.hidden) if self.sides[index] == "in" else (self.hidden, width)

    def core(self, index: int) -> Tensor:
        """The core ``(r, n)`` of one projection."""
        core: Tensor = getattr(self, f"core_{index}")
        return core

    def project(self, x: Tensor, index: int) -> Tensor:
        if self.sides[index] == "in":
            return (x @ self.basis) @ self.core(index)
        return nn.functional.linear(nn.functional.linear(x, self.core(index)), self.basis)

    def dense(self, index: int) -> Tensor:
        flat = self.basis @ self.core(index)
        return flat.mT if self.sides[index] == "in" else flat

    def macs(self) -> int:
        return self.basis.numel() + max(self.core(i).numel() for i in range(self.slices))
