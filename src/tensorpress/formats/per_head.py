"""One small matrix per head, side by side: each head's slice has factors of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Format


class PerHead(Format):
    """``inner``: a format whose slice h is head h of the one matrix.

    ``side`` ``out``: heads are blocks of rows (q, k, v); ``in``: blocks of columns (o).
    """

    name = "per_head"

    def __init__(self, *, side: str, inner: Format) -> None:
        rows, columns = (inner.slices, 1) if side == "out" else (1, inner.slices)
        super().__init__(
            slices=1,
            out_features=rows * inner.out_features,
            in_features=columns * inner.in_features,
        )
        self.settings = {"side": side, "inner": inner.description}
        self.side = side
        self.inner = inner

    def project(self, x: Tensor, index: int) -> Tensor:
        heads = range(self.inner.slices)
        if self.side == "out":
            return torch.cat([self.inner.project(x, head) for head in heads], dim=-1)
        blocks = x.chunk(self.inner.slices, dim=-1)
        return torch.stack([self.inner.project(blocks[head], head) for head in heads]).sum(0)

    def dense(self, index: int) -> Tensor:
        blocks = [self.inner.dense(head) for head in range(self.inner.slices)]
        return torch.cat(blocks, dim=0 if self.side == "out" else 1)

    def macs(self) -> int:
        return self.inner.slices * self.inner.macs()

    def peak_rebuilt_values(self) -> int:
        return self.inner.peak_rebuilt_values()
