"""``tucker_ffn``: FFN matrices of equal shape share row and column bases."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, MethodSpec, require_rank

if TYPE_CHECKING:
    from torch import Tensor


class Ranks(BaseModel):
    """Ranks of the output and input modes, the same for every matrix."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    out: int = Field(ge=1)
    in_: int = Field(ge=1, alias="in")


class Spec(MethodSpec):
    """Ranks of the two modes."""

    groups: ClassVar[tuple[str, ...]] = ("ffn",)
    whole_groups: ClassVar[bool] = True

    method: Literal["tucker_ffn"]
    ranks: Ranks

    def check(self, layer: LayerShape, group: str) -> None:
        self.check_group(group)
        for module, shape in layer.group(group).items():
            require_rank("ranks.out", self.ranks.out, shape.out_features, module)
            require_rank("ranks.in", self.ranks.in_, shape.in_features, module)


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """Partial Tucker on (out, in), one core slice per projection; down stands alone."""
    import torch

    from tensorpress.formats.tucker_slices import TuckerSlices
    from tensorpress.linalg.tucker import partial_tucker, tucker_bounds

    together = tuple(m for m in ("ffn.gate", "ffn.up") if m in weights)
    factors = []
    for modules in (together, ("ffn.down",)):
        tensor = torch.stack([weights[module] for module in modules])
        slices, out_features, in_features = tensor.shape
        ranks = {1: spec.ranks.out, 2: spec.ranks.in_}
        core, bases = partial_tucker(tensor, ranks)
        store = TuckerSlices(
            slices=slices,
            out_features=out_features,
            in_features=in_features,
            out_rank=spec.ranks.out,
            in_rank=spec.ranks.in_,
        )
        store.fill(left=bases[1].float(), right=bases[2].float(), core=core.float())
        factors.append(Factors(modules, store, *tucker_bounds(tensor, ranks)))
    return factors
