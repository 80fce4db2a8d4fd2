"""CP (canonical polyadic) of a stack of matrices: shared bases, a diagonal core for each slice."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .base import Format


class CP(Format):
    """``left (m, R)``, ``right (n, R)``, ``mix (S, R)``: ``T_s = left diag(mix_s) right^T``.

    Slice s of the matrices is ``T_s``, or its transpose where ``transposed[s]``; the first is
    ``T_0``, so ``m`` and ``n`` are its sides.
    """

    name = "cp"
    left: Tensor
    right: Tensor
    mix: Tensor

    def __init__(
        self,
        *,
        slices: int,
        out_features: int,
        in_features: int,
        rank: int,
        transposed: Sequence[bool],
    ) -> None:
        super().__init__(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            rank=rank,
            transposed=list(transposed),
        )
        self.transposed = tuple(transposed)
        self.factor("left", (out_features, rank))
        self.factor("right", (in_features, rank))
        self.factor("mix", (slices, rank))

    def matrix_shape(self, index: int) -> tuple[int, int]:
        sides = (self.out_features, self.in_features)
        return (sides[1], sides[0]) if self.transposed[index] else sides

    def project(self, x: Tensor, index: int) -> Tensor:
        given, made = self._sides(index)
        return ((x @ given) * self.mix[index]) @ made.mT

    def dense(self, index: int) -> Tensor:
        given, made = self._sides(index)
        return (made * self.mix[index]) @ given.mT

    def macs(self) -> int:
        return self.left.numel() + self.right.numel() + self.mix.shape[1]

    def _sides(self, index: int) -> tuple[Tensor, Tensor]:
        """The factors on the side of the inputs and of the outputs."""
        return (self.left, self.right) if self.transposed[index] else (self.right, self.left)
