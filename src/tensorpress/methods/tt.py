"""``tt``: each matrix as a TT-matrix of a given order and one maximal rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tensorpress.errors import TensorpressError
from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, slices_of

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    """Order and maximal rank; modes are balanced (the study: order 12, rank 64)."""

    method: Literal["tt"]
    order: int = Field(12, ge=2, le=16, description="number of cores")
    rank: int = Field(64, ge=1, description="largest TT rank")

    def check(self, layer: LayerShape, group: str) -> None:
        for module, shape in layer.group(group).items():
            limit = shape.out_features * shape.in_features
            if self.rank > limit:
                raise TensorpressError(
                    f"rank: {self.rank} is above the limit at {module}; allowed: 1 to {limit}"
                )


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """TT-SVD of every matrix (Oseledets 2011) with the bounds of its unfoldings."""
    import torch

    from tensorpress.formats.tt_matrix import TTMatrix
    from tensorpress.linalg.tensor_train import (
        balanced_factors,
        tt_bounds,
        tt_ranks,
        tt_svd,
        tt_tensor,
    )

    factors = []
    for module, stack, sizes in slices_of(weights):
        in_modes = balanced_factors(sizes["in_features"], spec.order)
        out_modes = balanced_factors(sizes["out_features"], spec.order)
        tensors = [tt_tensor(matrix, in_modes, out_modes) for matrix in stack]
        ranks = tt_ranks(tensors[0].shape, spec.rank)
        trains = [tt_svd(tensor, spec.rank) for tensor in tensors]
        store = TTMatrix(**sizes, in_modes=in_modes, out_modes=out_modes, ranks=ranks)
        pairs = list(zip(in_modes, out_modes, strict=True))
        store.fill(
            **{
                f"core_{k}": torch.stack([train[k] for train in trains])
                .reshape(len(trains), ranks[k], *pairs[k], ranks[k + 1])
                .float()
                for k in range(spec.order)
            }
        )
        bounds = [tt_bounds(tensor, ranks) for tensor in tensors]
        norms = [float(matrix.double().square().sum()) for matrix in stack]
        lower, upper = (_joint([b[i] for b in bounds], norms) for i in (0, 1))
        factors.append(Factors((module,), store, lower, upper))
    return factors


def _joint(relative: list[float], squared_norms: list[float]) -> float:
    """Relative error of a stack from those of its slices."""
    total = sum(squared_norms)
    error = sum(r * r * n for r, n in zip(relative, squared_norms, strict=True))
    return (error / total) ** 0.5 if total else 0.0
