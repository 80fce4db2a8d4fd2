"""Tucker-2 of each matrix by itself: bases of rows and columns and a small core per slice."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear


class TuckerMatrix(Format):
    """``left (S, out, r_out)``, ``core (S, r_out, r_in)``, ``right (S, in, r_in)``."""

    name = "tucker_matrix"
    left: Tensor
    core: Tensor
    right: Tensor

    def __init__(
        self, *, slices: int, out_features: int, in_features: int, out_rank: int, in_rank: int
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            out_rank=out_rank,
            in_rank=in_rank,
        )
        self.factor("left", (slices, out_features, out_rank))
        self.factor("core", (slices, out_rank, in_rank))
        self.factor("right", (slices, in_features, in_rank))

    def project(self, x: Tensor, index: int) -> Tensor:
        small = nn.functional.linear(x @ self.right[index], self.core[index])
        return nn.functional.linear(small, self.left[index])

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        small = grouped_linear(grouped_linear(x, self.right.mT, ends), self.core, ends)
        return grouped_linear(small, self.left, ends)

    def dense(self, index: int) -> Tensor:
        return self.left[index] @ self.core[index] @ self.right[index].mT
