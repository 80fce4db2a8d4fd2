"""``drop``: the module's output becomes zero, the control that any method must beat."""

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

    approach: ClassVar[Approach] = "pruning"

    method: Literal["drop"]

    def control(self, rounding_bits: int | None) -> str | None:
        return None if rounding_bits else "drop"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [Layout((m,), "zero", sizes_of(s)) for m, s in layer.group(group).items()]

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        return Cost(0)


EXAMPLE = Spec(method="drop")


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Store nothing for every weight (Gromov et al. 2024 drop whole layers so)."""
    return [
        Factors(layout.modules, layout.build(), 1.0, 1.0)
        for layout, _ in with_layouts(weights, layer, spec)
    ]
