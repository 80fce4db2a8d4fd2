"""One small matrix per head, side by side: each head's slice has factors of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Format
from .tt_matrix import TTMatrix
from .tucker_matrix import TuckerMatrix

INNER: dict[str, type[Format]] = {each.name: each for each in (TTMatrix, TuckerMatrix)}


class PerHead(Format):
    """``inner``: a format whose slice h is head h of the one matrix.

    ``side`` ``out``: heads are blocks of rows (q, k, v); ``in``: blocks of columns (o).
    """

    name = "per_head"

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        side: str,
        inner: str,
        settings: dict[str, Any],
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            side=side,
            inner=inner,
            settings=settings,
        )
        self.side = side
        self.inner = INNER[inner](**settings)

    def project(self, x: Tensor, index: int) -> Tensor:
        heads = range(self.inner.slices)
        if self.side == "out":
            return torch.cat([self.inner.project(x, head) for head in heads], dim=-1)
        blocks = x.chunk(self.inner.slices, dim=-1)
        return torch.stack([self.inner.project(blocks[head], head) for head in heads]).sum(0)

    def dense(self, index: int) -> Tensor:
        blocks = [self.inner.dense(head) for head in range(self.inner.slices)]
        return torch.cat(blocks, dim=0 if self.side == "out" else 1)

    def products(self) -> int:
        return self.inner.slices * self.inner.products()

    def rebuilt(self) -> int:
        return self.inner.rebuilt()
