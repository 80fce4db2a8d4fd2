"""Two thin matrices a slice, of a rank of its own: ``W_s = left_s @ right_s``, or whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .base import Format


class Ragged(Format):
    """``left (out, sum of ranks)``, ``right (sum of ranks, in)``, ``whole (W, out, in)``.

    ``ranks`` has one entry a slice: its rank, 0 where it is zero, or ``None`` where it is one of
    the ``whole`` matrices. The factors of the slices lie side by side.
    """

    name = "ragged"
    left: Tensor
    right: Tensor
    whole: Tensor

    def __init__(
        self, *, slices: int, out_features: int, in_features: int, ranks: Sequence[int | None]
    ) -> None:
        super().__init__(
            slices=slices, out_features=out_features, in_features=in_features, ranks=list(ranks)
        )
        self.ranks = list(ranks)
        columns = sum(rank or 0 for rank in ranks)
        if columns:
            self.factor("left", (out_features, columns))
            self.factor("right", (columns, in_features))
        if None in ranks:
            self.factor("whole", (self.ranks.count(None), out_features, in_features))

    def factors(self, index: int) -> tuple[Tensor, Tensor]:
        """``left (out, rank)`` and ``right (rank, in)`` of a slice that has any: views."""
        rank, before = self.ranks[index], sum(rank or 0 for rank in self.ranks[:index])
        assert rank
        return self.left[:, before : before + rank], self.right[before : before + rank]

    def matrix(self, index: int) -> Tensor:
        """The slice's matrix where it is whole: a view."""
        return self.whole[self.ranks[:index].count(None)]

    def project(self, x: Tensor, index: int) -> Tensor:
        rank = self.ranks[index]
        if rank is None:
            return nn.functional.linear(x, self.matrix(index))
        if rank == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        left, right = self.factors(index)
        return nn.functional.linear(nn.functional.linear(x, right), left)

    def dense(self, index: int) -> Tensor:
        rank = self.ranks[index]
        if rank is None:
            return self.matrix(index)
        if rank == 0:
            like: Tensor = next(self.parameters())
            return like.new_zeros(self.out_features, self.in_features)
        left, right = self.factors(index)
        return left @ right
