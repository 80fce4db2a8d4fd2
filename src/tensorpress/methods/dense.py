from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    method: Literal["dense"]


def decompose(weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None) -> list[Factors]:
    from tensorpress.formats.dense import DenseSlices
    out = []
    for m, w in weights.items():
        w = w if w.ndim == 3 else w[None]
        s, o, i = w.shape
        out.append(Factors((m,), DenseSlices(slices=s, out_features=o, in_features=i).fill(weight=w), 0.0, 0.0))
    return out
