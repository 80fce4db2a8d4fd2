"""``svd``: best rank-k approximation of each matrix, plain or weighted by the inputs' moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.methods.base import (
    Budget,
    Factors,
    Layout,
    WhitenedSpec,
    bounded,
    require_rank,
    sizes_of,
    stacked,
    with_layouts,
)

if TYPE_CHECKING:
    from torch import Tensor


class Spec(WhitenedSpec):
    """One rank for every matrix of the group, or a budget that gives each its own."""

    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    method: Literal["svd"]
    rank: int | None = Field(None, ge=1, description="columns of the left factor")
    budget: Budget | None = None

    @property
    def nested(self) -> bool:
        return True

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [
            Layout((m,), "low_rank", {**sizes_of(shape), "rank": self.rank_of(m, shape)})
            for m, shape in layer.group(group).items()
        ]

    def rank_of(self, module: str, shape: ModuleShape) -> int:
        """The rank of one module's matrices."""
        limit = min(shape.out_features, shape.in_features)
        if self.rank is not None:
            require_rank("rank", self.rank, limit, module)
            return self.rank
        assert self.budget is not None
        each = shape.slices * (shape.out_features + shape.in_features)
        return self.budget.largest(limit, lambda rank: rank * each, shape.numel, module)


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """Factors ``left (S, out, k)``, ``right (S, k, in)`` (Eckart & Young; SVD-LLM if whitened).

    For the plain SVD both bounds are the error itself; for the weighted one the plain SVD's
    error bounds from below.
    """
    from tensorpress.linalg.truncated_svd import truncated_svd, weighted_svd

    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        rank = layout.settings["rank"]
        left, right, squares = truncated_svd(stack, rank)
        if moments is not None:
            left, right = weighted_svd(stack, stacked(moments[layout.modules[0]]), rank)
        store = layout.build().fill(left=left.float(), right=right.float())
        factors.append(bounded(layout.modules, store, {"rank": squares.sum(0)}, spec))
    return factors
