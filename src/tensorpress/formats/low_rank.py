"""Two thin matrices per slice: ``W = left @ right``."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear


class LowRank(Format):
    """``left (S, out, rank)``, ``right (S, rank, in)``."""

    name = "low_rank"
    left: Tensor
    right: Tensor

    def __init__(self, *, slices: int, out_features: int, in_features: int, rank: int) -> None:
        super().__init__(
            slices=slices, out_features=out_features, in_features=in_features, rank=rank
        )
        self.factor("left", (slices, out_features, rank))
        self.factor("right", (slices, rank, in_features))

    def factors(self, index: int) -> tuple[Tensor, Tensor]:
        """``left (out, rank)`` and ``right (rank, in)`` of a slice: views."""
        return self.left[index], self.right[index]

    def project(self, x: Tensor, index: int) -> Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.right[index]), self.left[index])

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return grouped_linear(grouped_linear(x, self.right, ends), self.left, ends)

    def rows(self, ids: Tensor, index: int) -> Tensor:
        return self.left[index][ids] @ self.right[index]

    def dense(self, index: int) -> Tensor:
        return self.left[index] @ self.right[index]
