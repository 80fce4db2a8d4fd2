"""What decomposing a layout takes, from shapes alone: for planning, so an upper bound. Torch-free.

Values are counted, not bytes: those of factors are float32, all others float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorpress.architectures.layers import ModuleShape

VECTORS = 3.5
"""Matrices in the room that all eigenvectors of one take: itself, in their place, LAPACK's work."""
EIGENVALUES = 2.5
"""The same without vectors."""
EIGEN_PRODUCTS = 10
"""Multiplications of ``n x n`` eigenvectors over n^3."""


@dataclass(frozen=True)
class Cost:
    """Of one layout: values of its factors, values held beside weights and factors, products.

    ``before``: values held while the moments still are, where these are gone when the rest is.
    """

    stored: int
    held: int = 0
    products: int = 0
    before: int | None = None


def eigen_products(side: int) -> int:
    """Multiplications of a Gram matrix's eigenvectors."""
    return EIGEN_PRODUCTS * side**3


def root_side(rows: int, columns: int, rank: int) -> int:
    """Side of the eigenproblem of a moment that weighs a matrix (``whitening.root_for``)."""
    return rows if rank <= rows < columns else columns


def tucker_held(largest: int, other: int, values: int) -> float:
    """What the bases of a Tucker decomposition hold: eigenvectors, or the bounds' eigenvalues.

    The largest mode's eigenvectors are of what the others have left, its eigenvalues those of the
    smaller side of its unfolding.
    """
    return max(VECTORS * other**2, EIGENVALUES * min(largest, values // largest) ** 2)


def most(shapes: Sequence[ModuleShape]) -> Cost:
    """Where a method says nothing: dense factors, a few copies and the largest eigenproblem."""
    values = sum(shape.numel for shape in shapes)
    side = max(max(shape.out_features, shape.in_features) for shape in shapes)
    held = 3 * values + int(VECTORS * side**2)
    return Cost(values, held, values * side + eigen_products(side))
