"""``gptq``: dense weights in 2 to 8 bits, rounded column by column so that outputs change least.

Our own short implementation of Frantar et al. (ICLR 2023), because none that is maintained takes a
matrix and a Hessian here: GPTQModel 7.7 needs a newer torch, llm-compressor 0.14 an older
transformers, and torchao's prototype does int8 rows alone without a CUDA library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format

BLOCK = 128
"""Columns that are rounded before their corrections reach the others (``compensation``)."""


class Spec(MethodSpec):
    """Bits of a weight, the size of groups that share a scale, and the damping of the Hessian."""

    approach: ClassVar[Approach] = "quantisation"
    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")

    method: Literal["gptq"]
    bits: int = Field(4, ge=2, le=8)
    group_size: int | None = Field(
        128, ge=2, description="adjacent weights that share a scale; null: all of a module do"
    )
    damping: float = Field(0.01, ge=1e-6, description="of the moments' mean diagonal, added to it")

    @property
    def needs_moments(self) -> bool:
        return True

    def control(self, rounding_bits: int | None) -> str | None:
        return None if rounding_bits else "GPTQ"

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            dense = {"format": "dense", "settings": sizes_of(shape)}
            how = {"inner": dense, "bits": self.bits, "group_size": self.group_size}
            found.append(Layout((module,), "rounded", how))
        return found

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape = layer.modules[layout.modules[0]]
        stored = shape.numel * self.bits // 32 + shape.numel // (self.group_size or shape.numel)
        inner, each = shape.in_features, shape.out_features * shape.in_features
        macs = shape.slices * inner * (each + 2 * inner**2)
        before = inner**2 + each + 4 * BLOCK * inner + shape.numel // 2
        # without the moments: magnitudes, of which scales are taken; with them: what rounding holds
        return Cost(stored, shape.numel, macs, before)


EXAMPLE = Spec(method="gptq", bits=4)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """Codes of every weight and bfloat16 scales, which every storage dtype holds exactly.

    The second moments of a module's inputs are GPTQ's Hessian; where they are zero, as of an
    expert that saw no token, the weights are rounded to nearest.
    """
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        moment = None if moments is None else stacked(moments[layout.modules[0]])
        store = rounded_stack(layout, stack, moment, spec.damping)
        factors.append(Factors(layout.modules, store))
    return factors


def rounded_stack(layout: Layout, stack: Tensor, moment: Tensor | None, damping: float) -> Format:
    """``stack (S, out, in)`` as the layout, of format ``rounded``, says."""
    import torch

    from tensorpress.formats import rounding

    bits, group_size = layout.settings["bits"], layout.settings["group_size"]
    scales = rounding.scales_of(stack, bits, group_size).bfloat16().float()
    # without moments all inputs weigh the same, and no column can make up for another's error
    unknown = stack.new_zeros(1, 1, 1).expand(len(stack), stack.shape[2], stack.shape[2])
    codes = []
    for index, (matrix, inputs) in enumerate(
        zip(stack, unknown if moment is None else moment, strict=True)
    ):
        each = rounding.spread(scales, matrix.numel(), group_size, index * matrix.numel())
        codes.append(gptq(matrix, each.view_as(matrix), inputs, bits, damping))
    packed = rounding.pack(torch.stack(codes).flatten(), bits)
    return layout.build().fill(weight_codes=packed, weight_scales=scales)


def gptq(weight: Tensor, scales: Tensor, moment: Tensor, bits: int, damping: float) -> Tensor:
    """Codes ``(out, in)`` of a weight ``(out, in)`` whose inputs have ``moment (in, in)``.

    Columns are rounded one by one to steps of ``scales (out, in)``, those of the largest inputs
    first (the authors' ``act_order``); each one's error is made up for by the columns still to
    come, as the inverse of the damped moment weighs them.
    """
    import torch

    from tensorpress.formats.rounding import limit, nearest
    from tensorpress.linalg.compensation import compensated, corrections

    # Ascending, and rounded from the end, so that the largest inputs come first all the same: row k
    # of the inverse Cholesky factor corrects the columns before k, never those behind it
    order = moment.diagonal().argsort(stable=True)
    pull, _ = corrections(moment, order, damping)
    columns = weight.mT[order]  # transposed, so that a column's values are adjacent
    codes = torch.empty_like(columns, dtype=torch.uint8)

    def replaced(k: int, column: Tensor) -> Tensor:
        scale = scales[:, order[k]]
        codes[k] = nearest(column, scale, bits)
        return (codes[k].to(column.dtype) - limit(bits)) * scale

    compensated(columns, pull, BLOCK, replaced)
    return codes[order.argsort()].mT
