"""Low-rank adapters (LoRA, Hu et al. 2022) beside layers: what recovery has trained.

An adapter is a format of its own, low-rank or rounded, whose matrices are added to the layer's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import Format

ADAPTER = "adapter"


class Adapted(Format):
    """``inner`` with ``adapter`` added, slice by slice: experts.

    Both are given as ``{format, settings}``.
    """

    name = "adapted"

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        inner: dict[str, Any],
        adapter: dict[str, Any],
    ) -> None:
        from .table import FORMATS  # which lists this class

        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            inner=inner,
            adapter=adapter,
        )
        self.inner = FORMATS[inner["format"]](**inner["settings"])
        self.adapter = FORMATS[adapter["format"]](**adapter["settings"])

    def project(self, x: Tensor, index: int) -> Tensor:
        return self.inner.project(x, index) + self.adapter.project(x, index)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        return self.inner.project_grouped(x, ends) + self.adapter.project_grouped(x, ends)

    def dense(self, index: int) -> Tensor:
        return self.inner.dense(index) + self.adapter.dense(index)

    def products(self) -> int:
        return self.inner.products() + self.adapter.products()

    def rebuilt(self) -> int:
        return max(self.inner.rebuilt(), self.adapter.rebuilt())


def attach(module: nn.Module, adapter: Format) -> None:
    """Add ``adapter``'s output to that of a linear layer, factored or plain, from now on."""
    module.add_module(ADAPTER, adapter)
    module.register_forward_hook(lambda _, inputs, y: y + adapter.project(inputs[0], 0))
