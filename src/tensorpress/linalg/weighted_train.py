"""Tensor trains of whole weights: plain, or whitened mode by mode, with their bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.tensor_train import tt_bounds, tt_svd, tt_tensor
from tensorpress.linalg.tt_error import Sweeps, tt_svd_within
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks
from tensorpress.linalg.whitening import Diagonal, Root, mode_roots, output_mode_roots

MERGED = 64
"""Largest mode that is made of several to be whitened at once."""


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


@dataclass(frozen=True)
class ModeRoots:
    """What weighs errors mode by mode: roots of the input modes, and of the output modes if any.

    The moment of the inputs is stood for by a Kronecker product over the input modes, as are the
    squared gradients of the outputs, so that undoing them acts on each core alone and leaves the
    ranks as they are.
    """

    inner: list[Root]
    outer: list[Diagonal]

    @classmethod
    def of(cls, shape: TTShape, moment: Tensor, gradient: Tensor | None = None) -> ModeRoots:
        """Of the moment ``(in, in)`` of a matrix's inputs and the gradients ``(out,)``."""
        outer = [] if gradient is None else output_mode_roots(gradient, shape.out_modes)
        return cls(mode_roots(moment, shape.in_modes), outer)

    def whiten(self, weight: Tensor, shape: TTShape) -> Tensor:
        """``tt_tensor`` of ``(D_1 x ... x D_d) weight (S_1 x ... x S_d)``, float64."""
        out = weight.shape[0]
        if self.outer:
            weight = weight * reduce(torch.kron, [root.values for root in self.outer])[:, None]
        roots = _merged(self.inner)
        tensor = weight.reshape(out, *(len(root.values) for root in roots))
        for mode, root in enumerate(roots, start=1):
            tensor = root.whiten(tensor, mode)
        return tt_tensor(tensor.reshape(out, -1), shape)

    def undone(self, cores: list[Tensor]) -> list[Tensor]:
        """Cores of the matrix from those of the whitened one."""
        found = [root.unwhiten(core, 1) for core, root in zip(cores, self.inner, strict=True)]
        if self.outer:
            found = [root.unwhiten(core, 2) for core, root in zip(found, self.outer, strict=True)]
        return found


def _merged(roots: Sequence[Root]) -> list[Root]:
    """Roots of adjacent small modes as one, so that a weight is read less often."""
    found = [roots[0]]
    for root in roots[1:]:
        if len(found[-1].values) * len(root.values) <= MERGED:
            found[-1] = found[-1].kron(root)
        else:
            found.append(root)
    return found


def train_matrix(
    weight: Tensor, shape: TTShape, rank: int, roots: ModeRoots | None = None
) -> Train:
    """TT-SVD of ``weight (out, in)``, or of the weight as ``roots`` whiten it.

    The lower bound is the plain one.
    """
    ranks = tt_ranks(shape.modes, rank)
    lower, upper = tt_bounds(tt_tensor(weight, shape), ranks)
    if roots is None:
        cores = _paired(tt_svd(tt_tensor(weight, shape), rank, overwrite=True), shape)
        return Train(cores, lower, upper)
    cores = _paired(tt_svd(roots.whiten(weight, shape), rank, overwrite=True), shape)
    return Train(roots.undone(cores), lower, None)


def trains_within(
    stack: Float[Tensor, "S out in"],
    shape: TTShape,
    error: float,
    roots: list[ModeRoots] | None = None,
) -> list[Train]:
    """Trains of common ranks, each within relative ``error``: of its whitened matrix with roots.

    The lower bounds are the plain ones, as in ``train_matrix``.
    """
    columns = tt_svd_within(train_targets(stack, shape, roots), error)
    trains = []
    for index, matrix in enumerate(stack):
        cores = _paired([column[index] for column in columns], shape)
        ranks = [1, *(core.shape[-1] for core in cores)]
        lower, upper = tt_bounds(tt_tensor(matrix, shape), ranks)
        if roots is None:
            trains.append(Train(cores, lower, min(upper, error)))
        else:
            trains.append(Train(roots[index].undone(cores), lower, None))
    return trains


def trains_of_ranks(
    stack: Float[Tensor, "S out in"],
    shape: TTShape,
    roots: list[ModeRoots] | None = None,
) -> Callable[[int], list[list[Tensor]]]:
    """Cores of each matrix as ``train_matrix`` makes them, by maximal rank.

    Unfoldings that a train has in common with the last one are factorised once.
    """
    sweeps = Sweeps(train_targets(stack, shape, roots))

    def fit(rank: int) -> list[list[Tensor]]:
        columns = sweeps.cores(tuple(tt_ranks(shape.modes, rank)))
        trains = [_paired([column[i] for column in columns], shape) for i in range(len(stack))]
        if roots is None:
            return trains
        return [each.undone(cores) for cores, each in zip(trains, roots, strict=True)]

    return fit


def train_targets(
    stack: Float[Tensor, "S out in"], shape: TTShape, roots: list[ModeRoots] | None
) -> Float[Tensor, "S ..."]:
    """Each matrix, whitened if there are roots, as a float64 tensor of the shape's modes."""
    if roots is None:
        return torch.stack([tt_tensor(matrix.double(), shape) for matrix in stack])
    return torch.stack([r.whiten(w, shape) for w, r in zip(stack, roots, strict=True)])


def _paired(cores: list[Tensor], shape: TTShape) -> list[Tensor]:
    sizes = zip(cores, shape.in_modes, shape.out_modes, strict=True)
    return [core.reshape(core.shape[0], i, o, core.shape[-1]) for core, i, o in sizes]
