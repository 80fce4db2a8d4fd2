from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, require_rank

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    method: Literal["svd"]
    rank: int = Field(ge=1)
    whiten: Literal["none", "input"] = "none"

    @property
    def needs_moments(self) -> bool:
        return self.whiten == "input"

    def check(self, layer: LayerShape, group: str) -> None:
        for m, s in layer.group(group).items():
            require_rank("rank", self.rank, min(s.out_features, s.in_features), m)


def decompose(weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None) -> list[Factors]:
    import torch
    from tensorpress.formats.low_rank import LowRank
    out = []
    for m, w in weights.items():
        w = w if w.ndim == 3 else w[None]
        s, o, i = w.shape
        u, sv, vh = torch.linalg.svd(w, full_matrices=False)
        k = spec.rank
        r = sv[:, :k].sqrt()
        store = LowRank(slices=s, out_features=o, in_features=i, rank=k)
        out.append(Factors((m,), store.fill(left=u[:, :, :k] * r[:, None], right=r[:, :, None] * vh[:, :k])))
    return out
