"""``svd``: best rank-k approximation of each matrix, plain or weighted by the inputs' moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, Whitening, require_rank, slices_of

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    """One rank for every matrix of the group."""

    method: Literal["svd"]
    rank: int = Field(ge=1, description="columns of the left factor")
    whiten: Whitening = Field("none", description="input: minimise the error of the outputs")

    @property
    def needs_moments(self) -> bool:
        return self.whiten == "input"

    def check(self, layer: LayerShape, group: str) -> None:
        for module, shape in layer.group(group).items():
            require_rank("rank", self.rank, min(shape.out_features, shape.in_features), module)


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """Factors ``left (S, out, k)``, ``right (S, k, in)`` (Eckart & Young; SVD-LLM if whitened).

    For the plain SVD both bounds are the error itself; for the weighted one the plain SVD's
    error bounds from below.
    """
    from tensorpress.formats.low_rank import LowRank
    from tensorpress.linalg.truncated_svd import truncated_svd, weighted_svd

    factors = []
    for module, stack, sizes in slices_of(weights):
        left, right, error = truncated_svd(stack, spec.rank)
        least = float(error.sum() / stack.double().square().sum().clamp_min(1e-300)) ** 0.5
        if moments is not None:
            moment = moments[module]
            second = moment if moment.ndim == 3 else moment[None]
            left, right = weighted_svd(stack, second, spec.rank)
        store = LowRank(**sizes, rank=spec.rank).fill(left=left.float(), right=right.float())
        factors.append(Factors((module,), store, least, least if moments is None else None))
    return factors
