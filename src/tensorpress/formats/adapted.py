"""A format with a low-rank adapter (LoRA, Hu et al. 2022) added to each of its matrices."""

from __future__ import annotations

from torch import Tensor

from .base import Format


class Adapted(Format):
    """``inner`` with ``adapter`` added, slice by slice: experts that recovery has trained."""

    name = "adapted"

    def __init__(self, *, inner: Format, adapter: Format) -> None:
        super().__init__(
            slices=inner.slices, out_features=inner.out_features, in_features=inner.in_features
        )
        self.settings = {"inner": inner.description, "adapter": adapter.description}
        self.inner = inner
        self.adapter = adapter

    def project(self, x: Tensor, index: int) -> Tensor:
        return self.inner.project(x, index) + self.adapter.project(x, index)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return self.inner.project_grouped(x, ends) + self.adapter.project_grouped(x, ends)

    def dense(self, index: int) -> Tensor:
        return self.inner.dense(index) + self.adapter.dense(index)

    def macs(self) -> int:
        return self.inner.macs() + self.adapter.macs()

    def peak_rebuilt_values(self) -> int:
        return max(self.inner.peak_rebuilt_values(), self.adapter.peak_rebuilt_values())
