"""Overlap of subspaces: ``||U^T V||_F^2 / k`` for orthonormal bases of k columns.

It is the mean squared cosine of the principal angles (Björck & Golub 1973): 1 for equal subspaces,
0 for orthogonal ones, ``k / d`` on average for random ones in d dimensions.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import gram


def overlap(
    first: Float[Tensor, "*#batch d k1"], second: Float[Tensor, "*#batch d k2"]
) -> Float[Tensor, "*#batch"]:
    """Overlap of two subspaces; of unequal ones, the leading directions of the smaller number."""
    rank = min(first.shape[-1], second.shape[-1])
    product = first[..., :rank].mT @ second[..., :rank]
    return product.square().sum((-2, -1)) / rank


def mean_overlap(bases: Float[Tensor, "slices d k"]) -> float:
    """Mean overlap of all pairs of slices, of which there must be two.

    The pairs are summed at once: ``||sum_i U_i U_i^T||_F^2`` holds the overlap of each pair twice
    and k for each slice with itself.
    """
    slices, dimension, rank = bases.shape
    rows = bases.mT.reshape(slices * rank, dimension)
    total = gram(rows if dimension <= len(rows) else rows.mT).square().sum()
    return (float(total) / rank - slices) / (slices * (slices - 1))


def random_overlap(rank: int, dimension: int) -> float:
    """Overlap expected of two random subspaces of ``rank`` dimensions in ``dimension``."""
    return rank / dimension
