"""Products of many rows with many matrices: each row with the matrix of its group."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

ALIGNED = 8
"""Values of bfloat16 in 16 bytes."""


def grouped_linear(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows ``x (n, in)`` by the matrices ``weight (S, out, in)`` of their groups -> ``(n, out)``.

    Rows are sorted by group; ``ends (S,)``, int32, says where each group ends. The sizes of groups
    are read by the kernels only, so that ``torch.compile`` makes one graph of it.
    """
    x = x.to(weight.dtype)  # autocast does not reach the kernels
    outputs, inputs = weight.shape[1:]
    spare = -outputs % ALIGNED, -inputs % ALIGNED
    if weight.is_cuda and weight.dtype == torch.bfloat16 and any(spare):
        # zeros to the kernel's sizes: copies of factors, in place of a product for each matrix
        x, weight = pad(x, (0, spare[1])), pad(weight, (0, spare[1], 0, spare[0]))
    if _fits_kernel(weight):
        kernel = torch.nn.functional.grouped_mm
        return _WholeGradient.apply(kernel(x.contiguous(), weight.mT, offs=ends))[:, :outputs]
    # registers the operator; not above, where it would double the start of every decompose job
    import transformers.integrations.moe  # noqa: F401

    return torch.ops.transformers.grouped_mm_fallback(x, weight.mT, ends)


def _fits_kernel(weight: Tensor) -> bool:
    """Whether torch's kernel takes these matrices: bfloat16 in rows of multiples of 16 bytes.

    It takes float32 too, but not under ``torch.compile``, and is no faster then.
    """
    aligned = weight.shape[1] % ALIGNED == 0 and weight.shape[2] % ALIGNED == 0
    if weight.dtype != torch.bfloat16 or not aligned:
        return False
    return not weight.is_cuda or torch.cuda.get_device_capability(weight.device) >= (8, 0)


class _WholeGradient(torch.autograd.Function):
    """The identity; its gradient is contiguous, as the backward of torch's kernel wants it."""

    @staticmethod
    def forward(ctx: object, y: Tensor) -> Tensor:  # type: ignore[override]
        return y.view_as(y)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad.contiguous()
