"""``tt_per_head``: one tensor train for each head's slice of q, k, v and o."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.attention_heads import (
    head_moments,
    head_outputs,
    head_shape,
    head_slices,
    inner_settings,
    per_head,
)
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, with_layouts
from tensorpress.methods.layout import Layout
from tensorpress.methods.tt import (
    Metric,
    TrainSpec,
    core_values,
    metric_of,
    stack_bounds,
    train_stack,
)

if TYPE_CHECKING:
    from torch import Tensor


class Spec(TrainSpec):
    """Order, rank and whitening of every head's train (the study's sweep: order 4)."""

    approach: ClassVar[Approach] = "tensor format"
    groups: ClassVar[tuple[str, ...]] = ("attention",)
    by_heads: ClassVar[bool] = True

    method: Literal["tt_per_head"]

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            settings = self.train_settings(head_shape(layer, module), module, shape.numel)
            found.append(per_head(module, "tt_matrix", settings))
        return found

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        return self.train_cost(inner_settings(layout))


EXAMPLE = Spec(method="tt_per_head", order=2, rank=3)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """TT-SVD of each head's slice; the bounds are those of all heads together."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module = layout.modules[0]
        heads = head_slices(stack[0], layer, module)
        trains = train_stack(heads, inner_settings(layout), _metric(moments, layer, module, spec))
        values = core_values([train.cores for train in trains])
        store = layout.build().fill(**{f"inner.{name}": v for name, v in values.items()})
        factors.append(Factors(layout.modules, store, *stack_bounds(trains, heads)))
    return factors


def _metric(
    moments: Mapping[str, Tensor] | None, layer: LayerShape, module: str, spec: Spec
) -> Metric | None:
    """What weighs the errors of each head."""
    whole = metric_of(moments, module, spec)
    if whole is None:
        return None
    outputs = None if whole.gradients is None else whole.gradients[0]
    return Metric(
        head_moments(whole.moments[0], layer, module),
        None if outputs is None else head_outputs(outputs, layer, module),
    )
