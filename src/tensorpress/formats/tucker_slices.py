"""Tucker of a stack of matrices: shared row and column bases, one core per slice."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Format
from .grouped import grouped_linear


class TuckerSlices(Format):
    """``left (out, r_out)``, ``right (in, r_in)``, ``core (R, r_out, r_in)``.

    ``W_s = left @ (sum_r mix[s, r] core[r]) @ right^T``; without ``slice_rank`` there is no
    ``mix`` and slice s has a core of its own (TD-MoE's mode "preserve").
    """

    name = "tucker_slices"
    left: Tensor
    right: Tensor
    core: Tensor
    mix: Tensor

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        out_rank: int,
        in_rank: int,
        slice_rank: int | None = None,
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            out_rank=out_rank,
            in_rank=in_rank,
            slice_rank=slice_rank,
        )
        self.factor("left", (out_features, out_rank))
        self.factor("right", (in_features, in_rank))
        self.factor("core", (slice_rank or slices, out_rank, in_rank))
        if slice_rank is not None:
            self.factor("mix", (slices, slice_rank))
        self.mixed = slice_rank is not None

    def slice_core(self, index: int) -> Tensor:
        """The core ``(r_out, r_in)`` of one matrix."""
        if self.mixed:
            return (self.mix[index] @ self.core.flatten(1)).view(self.core.shape[1:])
        return self.core[index]

    def slice_cores(self) -> Tensor:
        """The cores ``(S, r_out, r_in)`` of all matrices."""
        if self.mixed:
            return (self.mix @ self.core.flatten(1)).unflatten(1, self.core.shape[1:])
        return self.core

    def project(self, x: Tensor, index: int) -> Tensor:
        small = nn.functional.linear(x @ self.right, self.slice_core(index))
        return nn.functional.linear(small, self.left)

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        # the shared bases are one product for all rows; only the cores differ
        small = grouped_linear(x @ self.right, self.slice_cores(), ends)
        return nn.functional.linear(small, self.left)

    def macs(self) -> int:
        return self.left.numel() + self.right.numel() + self.core[0].numel()

    def dense(self, index: int) -> Tensor:
        return self.left @ self.slice_core(index) @ self.right.mT
