"""``dense``: the weight itself, a control that must change nothing but the storage dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor


class Spec(MethodSpec):
    """No settings."""

    approach: ClassVar[Approach] = "control"

    method: Literal["dense"]

    def approaches(self, rounded: bool) -> frozenset[Approach]:
        return frozenset({"quantisation"}) if rounded else super().approaches(rounded)

    def control(self, rounding_bits: int | None) -> str | None:
        return f"RTN-{rounding_bits}" if rounding_bits else None

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [Layout((m,), "dense", sizes_of(s)) for m, s in layer.group(group).items()]

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        values = layer.modules[layout.modules[0]].numel
        return Cost(values, -values)  # the weights themselves become the factors


EXAMPLE = Spec(method="dense")


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Keep every weight as it is."""
    return [
        Factors(layout.modules, layout.build().fill(weight=stack), 0.0, 0.0)
        for layout, (stack,) in with_layouts(weights, layer, spec)
    ]
