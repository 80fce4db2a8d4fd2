"""What decomposing a layout takes, from shapes alone: for planning, so an upper bound. Torch-free.

Values are counted, not bytes: those of factors are float32, all others float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tensorpress.architectures.layers import ModuleShape

VECTORS = 3.5
"""Memory of a full eigendecomposition, in matrices of its size.

The matrix, over which its eigenvectors are written, and LAPACK's work space.
"""
EIGENVALUES = 2.5
"""Memory of eigenvalues without vectors, in matrices of the same size."""
EIGEN_MACS = 10
"""Multiply-accumulates (MACs) of a full eigendecomposition of an ``n x n`` matrix, over n^3."""


@dataclass(frozen=True)
class Cost:
    """What decomposing one layout takes.

    ``stored``: values of its factors. ``held``: values in memory beside weights, moments and
    factors. ``macs``: multiply-accumulates. ``before``: where the moments are in memory for a part
    of the time only, values held beside them; ``held`` then counts those held without them.
    """

    stored: int
    held: int = 0
    macs: int = 0
    before: int | None = None


def eigen_macs(side: int) -> int:
    """MACs of all eigenvectors of a Gram matrix of this side."""
    return EIGEN_MACS * side**3


def root_side(rows: int, columns: int, rank: int) -> int:
    """Side of the eigenproblem by which a moment whitens a matrix (``whitening.root_for``)."""
    return rows if rank <= rows < columns else columns


def tucker_held(largest: int, other: int, values: int) -> float:
    """What the bases of a Tucker decomposition hold: eigenvectors, or the bounds' eigenvalues.

    The largest mode's eigenvectors are of what the others have left, its eigenvalues those of the
    smaller side of its unfolding.
    """
    return max(VECTORS * other**2, EIGENVALUES * min(largest, values // largest) ** 2)


def most(shapes: Sequence[ModuleShape]) -> Cost:
    """The bound where a method says nothing.

    Factors as large as the weights, three copies, and an eigenproblem of the largest side.
    """
    values = sum(shape.numel for shape in shapes)
    side = max(max(shape.out_features, shape.in_features) for shape in shapes)
    held = 3 * values + int(VECTORS * side**2)
    return Cost(values, held, values * side + eigen_macs(side))
