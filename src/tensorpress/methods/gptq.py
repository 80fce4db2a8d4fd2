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
from tensorpress.methods.base import Factors, MethodSpec, sizes_of, stacked, with_layouts
from tensorpress.methods.cost import Cost
from tensorpress.methods.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128
"""Columns whose corrections are collected before they reach all columns still to come."""


class Spec(MethodSpec):
    """Bits of a weight, the size of groups that share a scale, and the damping of the Hessian."""

    approach: ClassVar[Approach] = "quantisation"
    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")

    method: Literal["gptq"]
    bits: int = Field(4, ge=2, le=8)
    group_size: int | None = Field(
        128, ge=2, description="adjacent weights that share a scale; null: all of a module do"
    )
    damping: float = Field(0.01, gt=0, description="of the moments' mean diagonal, added to it")

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
    import torch

    from tensorpress.formats import rounding

    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        scales = rounding.scales_of(stack, spec.bits, spec.group_size).bfloat16().float()
        # without moments all inputs weigh the same, and no column can make up for another's error
        unknown = stack.new_zeros(1, 1, 1).expand(len(stack), stack.shape[2], stack.shape[2])
        moment = stacked(moments[layout.modules[0]]) if moments else unknown
        codes = []
        for index, (matrix, inputs) in enumerate(zip(stack, moment, strict=True)):
            each = rounding.spread(scales, matrix.numel(), spec.group_size, index * matrix.numel())
            codes.append(gptq(matrix, each.view_as(matrix), inputs, spec.bits, spec.damping))
        packed = rounding.pack(torch.stack(codes).flatten(), spec.bits)
        store = layout.build().fill(weight_codes=packed, weight_scales=scales)
        factors.append(Factors(layout.modules, store))
    return factors


def gptq(weight: Tensor, scales: Tensor, moment: Tensor, bits: int, damping: float) -> Tensor:
    """Codes ``(out, in)`` of a weight ``(out, in)`` whose inputs have ``moment (in, in)``.

    Columns are rounded one by one to steps of ``scales (out, in)``, those of the largest inputs
    first (the authors' ``act_order``); each one's error is made up for by the columns still to
    come, as the inverse of the damped moment weighs them.
    """
    import torch

    from tensorpress.formats.rounding import limit, nearest

    # Ascending, and rounded from the end, so that the largest inputs come first all the same: row k
    # of the inverse Cholesky factor corrects the columns before k, never those behind it
    order = moment.diagonal().argsort(stable=True)
    pull = corrections(moment, order, damping)
    weight = weight.mT[order]  # transposed, so that a column's values are adjacent
    codes = torch.empty_like(weight, dtype=torch.uint8)
    for stop in range(len(weight), 0, -BLOCK):
        start = max(stop - BLOCK, 0)
        rows = pull[start:stop, :stop].to(weight.dtype)
        errors = torch.empty_like(weight[start:stop])
        for k in reversed(range(start, stop)):
            scale = scales[:, order[k]]
            codes[k] = nearest(weight[k], scale, bits)
            error = weight[k] - (codes[k].to(weight.dtype) - limit(bits)) * scale
            weight[start : k + 1].addr_(rows[k - start, start : k + 1], error, alpha=-1)
            errors[k - start] = error
        weight[:start].addmm_(rows[:, :start].mT, errors, alpha=-1)
    return codes[order.argsort()].mT


def corrections(moment: Tensor, order: Tensor, damping: float) -> Tensor:
    """How an error in column k, in ``order``, is made up for by those before it: row k, float64.

    The rows, divided by their diagonal, of the lower triangular R with ``R^T R`` the inverse of the
    damped moment: R is the inverse of its Cholesky factor. It is computed in place, in the memory
    of one moment, which is the largest tensor here.
    """
    import torch

    wide = moment.new_empty(moment.shape, dtype=torch.float64)
    for rows, some in zip(wide.split(BLOCK), order.split(BLOCK), strict=True):
        rows.copy_(moment[some][:, order])
    mean = float(wide.diagonal().mean())
    if mean <= 0:
        return torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    wide.diagonal().add_(damping * mean)
    lower = torch.linalg.cholesky(wide.mT, out=wide.mT)
    for start in range(0, len(lower), BLOCK):
        own = slice(start, start + BLOCK)
        inverse = torch.linalg.inv(lower[own, own])
        lower[own, :start] = -inverse @ (lower[own, :start] @ lower[:start, :start])
        lower[own, own] = inverse
    lower /= lower.diagonal().clone()[:, None]
    return lower
