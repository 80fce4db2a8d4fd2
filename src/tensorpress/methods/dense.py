"""``dense``: the weight itself, a control that must change nothing but the storage dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, slices_of

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    """No settings."""

    method: Literal["dense"]


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """Keep every weight as it is."""
    from tensorpress.formats.dense import DenseSlices

    return [
        Factors((module,), DenseSlices(**sizes).fill(weight=stack), 0.0, 0.0)
        for module, stack, sizes in slices_of(weights)
    ]
