"""``gptq``: dense weights in 2 to 8 bits, rounded column by column so that outputs change least.

Our own short implementation of Frantar et al. (ICLR 2023), because none that is maintained takes a
matrix and a Hessian here: GPTQModel 7.7 needs a newer torch, llm-compressor 0.14 an older
transformers, and torchao's prototype does int8 rows alone without a CUDA library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tensorpress.layers import LayerShape
from tensorpress.methods.base import Factors, Layout, MethodSpec, sizes_of, stacked, with_layouts
from tensorpress.methods.cost import Cost

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 128
"""Columns whose corrections are collected before they reach all columns to the right."""


class Spec(MethodSpec):
    """Bits of a weight, how many share a scale, and what is added to the moments' diagonal."""

    groups: ClassVar[tuple[str, ...]] = ("attention", "ffn", "experts")

    method: Literal["gptq"]
    bits: int = Field(4, ge=2, le=8)
    group: int | None = Field(
        128, ge=2, description="adjacent weights that share a scale; null: all of a module do"
    )
    damping: float = Field(0.01, gt=0, description="of the moments' mean diagonal, added to it")

    @property
    def needs_moments(self) -> bool:
        return True

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        how = {"inner": "dense", "bits": self.bits, "group": self.group}
        return [
            Layout((module,), "rounded", {**sizes_of(shape), "settings": sizes_of(shape), **how})
            for module, shape in layer.group(group).items()
        ]

    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape = layer.modules[layout.modules[0]]
        stored = shape.numel * self.bits // 32 + shape.numel // (self.group or shape.numel)
        inner, each = shape.in_features, shape.out_features * shape.in_features
        held = int(2.5 * shape.numel) + 2 * each + 4 * inner**2
        return Cost(stored, held, shape.slices * inner * (each + 2 * inner**2))


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
        scales = rounding.scales_of(stack, spec.bits, spec.group).bfloat16().float()
        one_by_one = rounding.spread(scales, stack.numel(), spec.group).view_as(stack)
        # without moments all inputs weigh the same, and nothing can be made up for
        unknown = stack.new_zeros(1, 1, 1).expand(len(stack), stack.shape[2], stack.shape[2])
        moment = stacked(moments[layout.modules[0]]) if moments else unknown
        codes = [
            gptq(matrix, scale, inputs, spec.bits, spec.damping)
            for matrix, scale, inputs in zip(stack, one_by_one, moment, strict=True)
        ]
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

    order = moment.diagonal().argsort(descending=True, stable=True)
    pull = corrections(moment[order][:, order], damping).to(weight.dtype)
    # transposed, so that a column's values are adjacent
    weight, scales = weight.mT[order], scales.mT[order]
    codes = torch.empty_like(weight, dtype=torch.uint8)
    columns = len(weight)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.empty_like(weight[start:stop])
        for k in range(start, stop):
            codes[k] = nearest(weight[k], scales[k], bits)
            errors[k - start] = weight[k] - (codes[k].to(weight.dtype) - limit(bits)) * scales[k]
            weight[k:stop] -= torch.outer(pull[k, k:stop], errors[k - start])
        weight[stop:] -= pull[start:stop, stop:].mT @ errors
    return codes[order.argsort()].mT


def corrections(moment: Tensor, damping: float) -> Tensor:
    """How an error in column k is made up for: row k of the result, ones on the diagonal.

    The rows, divided by their diagonal, of the upper triangular R with ``R^T R`` the inverse of the
    damped moment. Since ``(R^-1) (R^-1)^T`` is the damped moment, R is got without that inverse.
    """
    import torch

    wide = moment.to(torch.float64, copy=True)
    diagonal = wide.diagonal()
    mean = float(diagonal.mean())
    if mean <= 0:
        return torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    # in place where that is possible: a moment is the largest thing here
    diagonal += damping * mean
    # the Cholesky factor of the moment with its rows and columns turned round, turned back
    wide = torch.linalg.cholesky(wide.flip(0, 1)).flip(0, 1)
    upper = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    torch.linalg.solve_triangular(wide, upper, upper=True, out=upper)
    upper /= upper.diagonal().clone()[:, None]
    return upper
