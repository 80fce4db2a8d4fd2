"""Tensor trains of whole weights: plain, or whitened mode by mode, with their bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorpress.linalg.tensor_train import tt_bounds, tt_svd, tt_tensor
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks
from tensorpress.linalg.whitening import mode_roots


@dataclass(frozen=True)
class Train:
    """Cores ``(r_{k-1}, in_k, out_k, r_k)`` of one matrix and the bounds of its relative error."""

    cores: list[Tensor]
    lower: float
    upper: float | None


def train_matrix(weight: Tensor, shape: TTShape, rank: int, moment: Tensor | None = None) -> Train:
    """TT-SVD of ``weight (out, in)``; with a moment, of the weight whitened on its input modes.

    The moment is stood for by a Kronecker product over the input modes, so that undoing it acts
    on each core alone and leaves the ranks as they are. The lower bound is the plain one.
    """
    ranks = tt_ranks(shape.modes, rank)
    lower, upper = tt_bounds(tt_tensor(weight, shape), ranks)
    if moment is None:
        cores = _paired(tt_svd(tt_tensor(weight, shape), rank, overwrite=True), shape)
        return Train(cores, lower, upper)
    pairs = mode_roots(moment, shape.in_modes)
    white = _on_inputs(weight.double(), shape, [root for root, _ in pairs])
    cores = _paired(tt_svd(tt_tensor(white, shape), rank), shape)
    undone = [
        torch.einsum("rims,ij->rjms", core, inverse)
        for core, (_, inverse) in zip(cores, pairs, strict=True)
    ]
    return Train(undone, lower, None)


def _paired(cores: list[Tensor], shape: TTShape) -> list[Tensor]:
    sizes = zip(cores, shape.in_modes, shape.out_modes, strict=True)
    return [core.reshape(core.shape[0], i, o, core.shape[-1]) for core, i, o in sizes]


def _on_inputs(weight: Tensor, shape: TTShape, roots: list[Tensor]) -> Tensor:
    """``weight @ (S_1 x ... x S_d)`` for roots of the input modes."""
    out = weight.shape[0]
    tensor = weight.reshape(out, *shape.in_modes)
    for mode, root in enumerate(roots, start=1):
        tensor = torch.tensordot(tensor, root, dims=([mode], [0])).movedim(-1, mode)
    return tensor.reshape(out, -1)
