"""The sum of two formats: matrices in parts, or an adapter (LoRA, Hu et al. 2022) added to them."""

from __future__ import annotations

from torch import Tensor

from .base import Format


class Sum(Format):
    """``base`` with ``correction`` added, slice by slice; either may be a sum again."""

    name = "sum"

    def __init__(self, *, base: Format, correction: Format) -> None:
        super().__init__(
            slices=base.slices, out_features=base.out_features, in_features=base.in_features
        )
        self.settings = {"base": base.description, "correction": correction.description}
        self.base = base
        self.correction = correction

    def project(self, x: Tensor, index: int) -> Tensor:
        return self.base.project(x, index) + self.correction.project(x, index)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return self.base.project_grouped(x, ends) + self.correction.project_grouped(x, ends)

    def rows(self, ids: Tensor, index: int) -> Tensor:
        return self.base.rows(ids, index) + self.correction.rows(ids, index)

    def dense(self, index: int) -> Tensor:
        return self.base.dense(index) + self.correction.dense(index)

    def matrix_shape(self, index: int) -> tuple[int, int]:
        return self.base.matrix_shape(index)

    def macs(self) -> int:
        return self.base.macs() + self.correction.macs()

    def peak_rebuilt_values(self) -> int:
        return max(self.base.peak_rebuilt_values(), self.correction.peak_rebuilt_values())
