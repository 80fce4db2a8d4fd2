"""Dense matrices, as a format like any other: the control."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear


class DenseSlices(Format):
    """``weight (S, out, in)``."""

    name = "dense"
    weight: Tensor

    def __init__(self, *, slices: int, out_features: int, in_features: int) -> None:
        super().__init__(slices=slices, out_features=out_features, in_features=in_features)
        self.factor("weight", (slices, out_features, in_features))

    def project(self, x: Tensor, index: int) -> Tensor:
        return nn.functional.linear(x, self.weight[index])

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return grouped_linear(x, self.weight, ends)

    def rows(self, ids: Tensor, index: int) -> Tensor:
        return self.weight[index][ids]

    def dense(self, index: int) -> Tensor:
        return self.weight[index]
