"""Frobenius errors of factors, summed in float64."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from tensorpress.formats.base import Format

SUMMED_VALUES = 2**22
"""Values of a matrix that stand in float64 at a time while errors are summed."""


def squared_errors(
    store: Format, first: int, matrices: Iterable[Float[Tensor, "out in"]]
) -> tuple[float, float]:
    """Squared norms of (slices from ``first`` on - matrices) and of matrices."""
    sums = [_squares(store.dense(first + e), matrix) for e, matrix in enumerate(matrices)]
    return sum(error for error, _ in sums), sum(norm for _, norm in sums)


def _squares(rebuilt: Tensor, matrix: Tensor) -> tuple[float, float]:
    """Squared norms of error and matrix, some rows at a time: float64 copies take memory."""
    error = norm = 0.0
    rows = max(1, SUMMED_VALUES // matrix.shape[1])
    for found, wanted in zip(rebuilt.split(rows), matrix.split(rows), strict=True):
        wide = wanted.double()
        error += float((found.to(wanted).double() - wide).square().sum())
        norm += float(wide.square().sum())
    return error, norm
