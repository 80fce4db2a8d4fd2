"""Nothing stored, zero out: what remains of a dropped module."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Format


class Zero(Format):
    """No factors; every matrix is zero."""

    name = "zero"
    _like: Tensor

    def __init__(self, *, slices: int, out_features: int, in_features: int) -> None:
        super().__init__(slices=slices, out_features=out_features, in_features=in_features)
        # without factors, this alone knows the dtype and the device
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def project(self, x: Tensor, index: int) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return self.project(x, 0)

    def dense(self, index: int) -> Tensor:
        return self._like.new_zeros(self.out_features, self.in_features)
