"""Square roots of second moments, whole or as Kronecker products over modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import eigenpairs

CLIP = 1e-3
"""Least eigenvalue that is kept as it is, relative to their mean."""
FLOOR = 1e-3
"""Least weight of an output, relative to the mean of all."""
BLOCK_ROWS = 512
"""Rows of a moment that are in float64 at a time."""


@dataclass(frozen=True)
class Root:
    """``S = directions diag(values)`` with ``S S^T`` the moment, in float64.

    The symmetric root is ``S`` times a rotation. A truncation of the mode keeps the same subspace
    with either, so the rotation is not computed.
    """

    directions: Float[Tensor, "n r"]
    values: Float[Tensor, " r"]

    @property
    def inverse(self) -> Root:
        """The root of the inverse moment."""
        return Root(self.directions, self.values.reciprocal())

    def kron(self, other: Root) -> Root:
        """The root of the Kronecker product of two moments."""
        directions = torch.kron(self.directions, other.directions)
        return Root(directions, torch.kron(self.values, other.values))

    def whiten(self, tensor: Tensor, mode: int = -1) -> Tensor:
        """``tensor x_mode S^T``, float64: the mode's size becomes r."""
        moved = tensor.double().movedim(mode, -1)
        return (moved @ (self.directions * self.values)).movedim(-1, mode)

    def unwhiten(self, tensor: Tensor, mode: int = -1) -> Tensor:
        """What ``whiten`` made this tensor of: the mode's size becomes n again."""
        moved = tensor.double().movedim(mode, -1)
        return ((moved / self.values) @ self.directions.mT).movedim(-1, mode)


@dataclass(frozen=True)
class Diagonal:
    """The root of a diagonal moment, ``diag(values)``, in float64."""

    values: Float[Tensor, " n"]

    @property
    def inverse(self) -> Diagonal:
        """The root of the inverse moment."""
        return Diagonal(self.values.reciprocal())

    def whiten(self, tensor: Tensor, mode: int = -1) -> Tensor:
        """``tensor x_mode diag(values)``, float64."""
        return (tensor.double().movedim(mode, -1) * self.values).movedim(-1, mode)

    def unwhiten(self, tensor: Tensor, mode: int = -1) -> Tensor:
        """What ``whiten`` made this tensor of."""
        return (tensor.double().movedim(mode, -1) / self.values).movedim(-1, mode)


def output_roots(gradient: Float[Tensor, "*batch out"]) -> Float[Tensor, "*batch out"]:
    """Weights of outputs: roots of their squared gradients, at least ``FLOOR`` of the mean one.

    So they can be undone; where no gradient is known (an expert without tokens) all are 1.
    """
    roots = gradient.double().clamp_min(0.0).sqrt()
    mean = roots.mean(-1, keepdim=True)
    return torch.where(mean > 0, torch.maximum(roots, FLOOR * mean), torch.ones_like(roots))


def output_mode_roots(gradient: Float[Tensor, " out"], modes: Sequence[int]) -> list[Diagonal]:
    """``output_roots`` one factor a mode, whose Kronecker product stands for all outputs' weights.

    Factor k is of the mean gradient over all other modes, as in ``mode_roots``.
    """
    folded = gradient.double().reshape(*modes)
    found = []
    for k in range(len(modes)):
        others = [m for m in range(len(modes)) if m != k]
        factor = folded.mean(others) if others else folded
        found.append(Diagonal(output_roots(factor / factor.mean().clamp_min(1e-300))))
    return found


def root_of(moment: Float[Tensor, "n n"]) -> Root:
    """The root whose eigenvalues are clipped at ``CLIP`` of their mean (TD-MoE).

    So a moment of few tokens, or of none, can be undone; of a zero moment it is the identity.
    """
    squares, vectors = eigenpairs(moment.to(torch.float64, copy=True))
    mean = float(squares.mean())
    if mean <= 0:
        return Root(torch.eye(len(vectors)).to(vectors), torch.ones_like(squares))
    return Root(vectors, squares.clamp_min(CLIP * mean).sqrt())


def root_for(matrix: Float[Tensor, "*rows n"], moment: Float[Tensor, "n n"], rank: int) -> Root:
    """The root that weighs ``matrix``, on no more directions than its rows span.

    Where ``matrix`` has m < n rows, ``W = T Q^T`` (QR) turns the whitened matrix into
    ``T (Q^T S)``, so that the eigenproblem is of size m in place of n. A ``rank`` above m needs
    directions outside of that span, and takes the root of the whole moment.
    """
    rows = matrix.flatten(0, -2)
    if not rank <= len(rows) < len(moment):
        return root_of(moment)
    span, _ = torch.linalg.qr(rows.double().mT)
    inner = root_of(congruence(span.mT, moment))
    return Root(span @ inner.directions, inner.values)


def congruence(
    matrix: Float[Tensor, "*batch m n"], moment: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch m m"]:
    """``A M A^T`` in float64; of the moment only ``BLOCK_ROWS`` rows are in float64 at a time."""
    wide = matrix.double()
    total = wide.new_zeros(*wide.shape[:-1], wide.shape[-2])
    parts = zip(wide.split(BLOCK_ROWS, -1), moment.split(BLOCK_ROWS, -2), strict=True)
    for columns, rows in parts:
        total += columns @ (rows.double() @ wide.mT)
    return total


def mode_roots(moment: Float[Tensor, "n n"], modes: Sequence[int]) -> list[Root]:
    """``root_of`` one factor a mode, whose Kronecker product stands for ``moment``.

    Factor k is the partial trace of the moment over all other modes, scaled to mean one: exact
    where the moment is a Kronecker product, the best separate description of each mode where
    it is not. A tensor train whitened so keeps its ranks when the roots are undone.
    """
    order, folded = len(modes), moment.reshape(*modes, *modes)
    found = []
    for k in range(order):
        others = [m for m in range(order) if m != k]
        labels = [*range(order), *(order if m == k else m for m in range(order))]
        # diagonals are views: only they, not the moment, are brought to float64
        diagonals = torch.einsum(folded, labels, [k, order, *others]).double()
        factor = diagonals.flatten(2).sum(-1) if others else diagonals
        found.append(root_of(factor / factor.diagonal().mean().clamp_min(1e-300)))
    return found
