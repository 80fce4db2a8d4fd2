from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    method: Literal["drop"]


def decompose(weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None) -> list[Factors]:
    from tensorpress.formats.zero import Zero
    out = []
    for m, w in weights.items():
        w = w if w.ndim == 3 else w[None]
        s, o, i = w.shape
        out.append(Factors((m,), Zero(slices=s, out_features=o, in_features=i), 1.0, 1.0))
    return out
