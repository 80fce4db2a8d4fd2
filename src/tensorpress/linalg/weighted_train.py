"""Tensor trains of whole weights: plain, or whitened mode by mode, with their bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.tensor_train import tt_bounds, tt_svd, tt_tensor
from tensorpress.linalg.tt_error import tt_svd_within
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks
from tensorpress.linalg.whitening import Root, mode_roots


@dataclass(frozen=True)
class Train:
    """Cores ``(r_{k-1}, in_k, out_k, r_k)`` of one matrix and the bounds of its relative error."""

    cores: list[Tensor]
    lower: float
    upper: float | None

    @property
    def ranks(self) -> list[int]:
        """``r_0 .. r_d``."""
        return [1, *(core.shape[-1] for core in self.cores)]

    @property
    def values(self) -> int:
        """Values of the cores."""
        return sum(core.numel() for core in self.cores)


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
    roots = mode_roots(moment, shape.in_modes)
    cores = _paired(tt_svd(_whitened(weight, shape, roots), rank, overwrite=True), shape)
    return Train(_undone(cores, roots), lower, None)


def trains_within(
    stack: Float[Tensor, "S out in"],
    shape: TTShape,
    error: float,
    moments: Float[Tensor, "S in in"] | None = None,
) -> list[Train]:
    """Trains of common ranks, each within relative ``error``: of its whitened matrix with moments.

    The lower bounds are the plain ones, as in ``train_matrix``.
    """
    columns = tt_svd_within(train_targets(stack, shape, moments), error)
    trains = []
    for index, matrix in enumerate(stack):
        cores = _paired([column[index] for column in columns], shape)
        ranks = [1, *(core.shape[-1] for core in cores)]
        lower, upper = tt_bounds(tt_tensor(matrix, shape), ranks)
        if moments is None:
            trains.append(Train(cores, lower, min(upper, error)))
        else:
            roots = mode_roots(moments[index], shape.in_modes)
            trains.append(Train(_undone(cores, roots), lower, None))
    return trains


def train_targets(
    stack: Float[Tensor, "S out in"], shape: TTShape, moments: Float[Tensor, "S in in"] | None
) -> Float[Tensor, "S ..."]:
    """Each matrix, whitened if there are moments, as a float64 tensor of the shape's modes."""
    if moments is None:
        return torch.stack([tt_tensor(matrix.double(), shape) for matrix in stack])
    pairs = zip(stack, moments, strict=True)
    return torch.stack([_whitened(w, shape, mode_roots(m, shape.in_modes)) for w, m in pairs])


def _paired(cores: list[Tensor], shape: TTShape) -> list[Tensor]:
    sizes = zip(cores, shape.in_modes, shape.out_modes, strict=True)
    return [core.reshape(core.shape[0], i, o, core.shape[-1]) for core, i, o in sizes]


def _undone(cores: list[Tensor], roots: list[Root]) -> list[Tensor]:
    """Cores of the matrix from those of the whitened one."""
    return [root.unwhiten(core, 1) for core, root in zip(cores, roots, strict=True)]


def _whitened(weight: Tensor, shape: TTShape, roots: list[Root]) -> Tensor:
    """``tt_tensor`` of ``weight @ (S_1 x ... x S_d)`` for roots of the input modes, float64."""
    out = weight.shape[0]
    tensor = weight.reshape(out, *shape.in_modes)
    for mode, root in enumerate(roots, start=1):
        tensor = root.whiten(tensor, mode)
    return tt_tensor(tensor.reshape(out, -1), shape)
