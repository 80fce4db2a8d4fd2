"""Best rank-k factors of a stack of matrices (Eckart & Young 1936), by Gram matrices."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import eigenpairs, gram, leading_right, orthonormal
from tensorpress.linalg.whitening import congruence, output_roots

RIDGE = 1e-8
"""Of a moment, as a share of its mean eigenvalue, where none is given."""


def balanced_factors_of(
    basis: Float[Tensor, "*batch m rank"], matrix: Float[Tensor, "*batch m n"]
) -> tuple[Float[Tensor, "*batch m rank"], Float[Tensor, "*batch rank n"]]:
    """``basis @ (basis^T matrix)`` as two factors of the same scale, column by column."""
    right = basis.mT @ matrix.double()
    scale = right.norm(dim=-1, keepdim=True).sqrt()
    # a zero row has no direction to rescale
    inverse = torch.where(scale > 0, scale.clamp_min(1e-300).reciprocal(), torch.zeros_like(scale))
    return basis * scale.mT, right * inverse


def truncated_svd(
    matrix: Float[Tensor, "*batch m n"], rank: int
) -> tuple[
    Float[Tensor, "*batch m rank"], Float[Tensor, "*batch rank n"], Float[Tensor, "*batch side"]
]:
    """Best rank-``rank`` factors ``left @ right`` and all squared singular values, float64.

    Largest first: the leading columns and rows are the best factors of smaller ranks.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        right, left, squares = truncated_svd(matrix.mT, rank)
        return left.mT, right.mT, squares
    basis, squares = leading_right(matrix.mT, rank)
    left, right = balanced_factors_of(basis, matrix)
    return left, right, squares


def weighted_svd(
    matrix: Float[Tensor, "*batch m n"],
    moment: Float[Tensor, "*batch n n"],
    rank: int,
    gradient: Float[Tensor, "*batch m"] | None = None,
    ridge: float | Float[Tensor, "*batch"] = RIDGE,
) -> tuple[Float[Tensor, "*batch m rank"], Float[Tensor, "*batch rank n"]]:
    """Rank-``rank`` factors that minimise ``||D (W - left right) S||_F`` with ``S S^T = moment``.

    D is ``diag(output_roots(gradient))``, so that half the square is the predicted rise of the loss
    (``analysis.damage``), or without a gradient the identity. The minimiser is ``D^-1 U U^T D W``
    with U the leading left singular vectors of ``D W S`` (SVD-LLM, Wang et al. 2025, where D is the
    identity), so S is not inverted and a singular moment does no harm. ``ridge``, a share of the
    mean eigenvalue of the moment, is added to its diagonal, as in COALA: the larger it is, the
    nearer to the plain SVD, which directions that no token used follow at any. Leading columns and
    rows are the factors of smaller ranks.
    """
    if gradient is not None:
        weights = output_roots(gradient)[..., None]
        left, right = weighted_svd(matrix.double() * weights, moment, rank, ridge=ridge)
        return left / weights, right
    wide, mean = matrix.double(), moment.diagonal(dim1=-2, dim2=-1).double().mean(-1)
    added = torch.where(mean > 0, ridge * mean, torch.ones_like(mean))
    if wide.shape[-2] <= wide.shape[-1]:
        whitened = congruence(wide, moment) + added[..., None, None] * gram(wide.mT)
        basis = eigenpairs(whitened)[1].flip(-1)[..., :rank]
    else:
        second = moment.to(torch.float64, copy=True)
        second.diagonal(dim1=-2, dim2=-1).add_(added[..., None])
        squares, vectors = eigenpairs(second)
        root = vectors * squares.clamp_min(0.0).sqrt()[..., None, :]
        right_basis, squares = leading_right(wide @ root, rank)
        basis = orthonormal(wide @ (root @ right_basis), squares[..., :rank])
    return balanced_factors_of(basis, wide)


def adaptive_ridge(
    matrix: Float[Tensor, "*batch m n"],
    moment: Float[Tensor, "*batch n n"],
    rank: int,
    gradient: Float[Tensor, "*batch m"] | None,
    weight: float,
) -> Float[Tensor, "*batch"]:
    """The ridge of ``weighted_svd`` at which both terms of its objective weigh alike (COALA).

    ``weight |D Delta S|^2 / |D Delta|^2`` of what the factors without a ridge change, as a share of
    the moment's mean eigenvalue. It depends on the rank.
    """
    left, right = weighted_svd(matrix, moment, rank, gradient, ridge=0.0)
    change = matrix.double() - left @ right
    if gradient is not None:
        change = change * output_roots(gradient)[..., None]
    mean = moment.diagonal(dim1=-2, dim2=-1).double().mean(-1)
    weighed = congruence(change, moment).diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0.0)
    found = weight * weighed / (change.square().sum((-2, -1)) * mean)
    return torch.where(torch.isfinite(found), found.clamp_min(RIDGE), RIDGE)


def used_by(
    right: Float[Tensor, "*batch rank n"], moment: Float[Tensor, "*batch n n"]
) -> Float[Tensor, "*batch rank n"]:
    """``right`` without what no input of this moment meets: factors of the least norm (COALA).

    Inputs that were never seen (a zero moment) leave it as it is.
    """
    squares, vectors = eigenpairs(moment.to(torch.float64, copy=True))
    largest = squares[..., -1:]
    least = squares.shape[-1] * torch.finfo(moment.dtype).eps * largest
    used = (squares > least) | (largest <= 0)
    return (right @ (vectors * used[..., None, :])) @ vectors.mT
