"""Gram matrices and leading subspaces: fast products in float32, sums in float64.

The squared spectrum of ``A`` is that of ``A^T A``, at a fraction of an SVD's cost. Products of
blocks are taken in float32 and summed in float64, so rounding stays near 1e-7 of the total; where
less than ``SAFE_TAIL`` of it would be cut off, the products are taken again in float64, and below
``GRAM_LIMIT`` the singular vectors come from a QR and an SVD, which do not square the spectrum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

BLOCK_VALUES = 2**20
"""Values of the rows that are multiplied at once in float32, before their sum in float64."""
HALVED_FROM = 128
"""Columns from which on the result's symmetry is made use of."""
SAFE_TAIL = 1e-5
"""Share of all energy below which a tail from float32 products may be nothing but rounding."""
GRAM_LIMIT = 1e-12
"""Share of all energy below which not even a float64 Gram matrix resolves a tail."""
EVEN = 1e-6
"""Share of the largest squared length that columns must have to be divided by theirs.

Products of float64 are then orthogonal to 1e-10.
"""
ROUNDING = 1e-6
"""Of products in float32, as a share of all energy."""


def gram(matrix: Float[Tensor, "*batch m n"], tall: bool = False) -> Float[Tensor, "*kept n n"]:
    """``A^T A`` in float64; float32 input is multiplied block by block of rows.

    ``tall``: the batch ``(b, m, n)`` is one tall matrix in b blocks of rows, and the result has no
    batch (``kept``), as in all functions here. The result is symmetric: its lower left quarter is
    copied from the upper right one, and the quarters on its diagonal are computed in the same way.
    """
    columns = matrix.shape[-1]
    if columns < HALVED_FROM:
        return _products(matrix, matrix, tall)
    half = columns // 2
    first, last = matrix[..., :half], matrix[..., half:]
    batch = () if tall else matrix.shape[:-2]
    total = matrix.new_empty(*batch, columns, columns, dtype=torch.float64)
    total[..., :half, :half] = gram(first, tall)
    total[..., half:, half:] = gram(last, tall)
    total[..., :half, half:] = _products(first, last, tall)
    total[..., half:, :half] = total[..., :half, half:].mT
    return total


def _products(left: Tensor, right: Tensor, tall: bool) -> Tensor:
    """``left^T right`` in float64."""
    rows, columns = left.shape[-2:]
    step = max(BLOCK_VALUES // columns, columns)
    if not tall and (left.dtype == torch.float64 or rows <= step):
        return (left.mT @ right).double()
    batch = () if tall else left.shape[:-2]
    total = left.new_zeros(*batch, columns, right.shape[-1], dtype=torch.float64)
    blocks = zip(left, right, strict=True) if tall else [(left, right)]
    for upper_rows, lower_rows in blocks:
        pairs = zip(upper_rows.split(step, -2), lower_rows.split(step, -2), strict=True)
        for upper, lower in pairs:
            total += upper.mT @ lower
    return total


def spectrum(
    matrix: Float[Tensor, "*batch m n"], tall: bool = False
) -> tuple[Float[Tensor, "*kept n n"], Float[Tensor, "*kept n"]]:
    """All right singular vectors and squared singular values, largest first, float64."""
    squares, vectors = eigenpairs(gram(matrix, tall))
    return vectors.flip(-1), squares.flip(-1).clamp_min(0.0)


def eigenpairs(
    symmetric: Float[Tensor, "*batch n n"],
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n n"]]:
    """Eigenvalues, smallest first, and vectors, which are written over the contiguous matrix."""
    values = symmetric.new_empty(symmetric.shape[:-1])
    # LAPACK works on columns; the transpose has them in one piece and the same values
    return torch.linalg.eigh(symmetric.mT, out=(values, symmetric.mT))


def leading_right(
    matrix: Float[Tensor, "*batch m n"], rank: int, tall: bool = False, cut: int | None = None
) -> tuple[Float[Tensor, "*kept n rank"], Float[Tensor, "*kept side"]]:
    """The ``rank`` leading right singular vectors and all squared singular values, float64.

    Where ``n > m`` the smaller Gram matrix is taken and turned by ``A^T``; vectors beyond the m-th
    only complete the basis. ``tall`` as in ``gram``.
    ``cut``: how many of the vectors will be kept, where that is not all that are asked for.
    """
    rows, columns = matrix.shape[-2:]
    kept = rank if cut is None else cut
    if tall and rows * len(matrix) < columns:
        return leading_right(matrix.flatten(0, 1), rank, cut=cut)
    if tall or columns <= rows:
        basis, squares = spectrum(matrix, tall)
        energy, tail = squares.sum(-1), squares[..., kept:].sum(-1)
        if matrix.dtype != torch.float64 and bool((tail < SAFE_TAIL * energy).any()):
            return leading_right(matrix.double(), rank, tall, cut)
        squared_too_far = bool((tail < GRAM_LIMIT * energy).any())
        if matrix.dtype == torch.float64 and squared_too_far:
            return _by_qr(matrix.flatten(0, 1) if tall else matrix, rank)
        return basis[..., :rank], squares
    left, squares = leading_right(matrix.mT, min(rank, rows))
    turned = torch.nn.functional.pad(matrix.mT.double() @ left, (0, max(0, rank - rows)))
    exact = matrix.dtype == torch.float64 and rank <= rows
    return orthonormal(turned, squares[..., :rank] if exact else None), squares


def orthonormal(
    turned: Float[Tensor, "*batch n rank"], squares: Float[Tensor, "*batch rank"] | None
) -> Float[Tensor, "*batch n rank"]:
    """A basis of columns that float64 products made, which are orthogonal but for rounding.

    ``squares``: their squared lengths, if known. Where one nearly vanishes a QR makes the basis,
    in which columns of zeros become vectors that are orthogonal to all others.
    """
    if squares is not None and bool((squares[..., -1] > EVEN * squares[..., 0]).all()):
        return turned / squares[..., None, :].sqrt()
    return torch.linalg.qr(turned).Q


def _by_qr(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    triangle = torch.linalg.qr(matrix, mode="r").R
    _, values, right = torch.linalg.svd(triangle, full_matrices=False)
    return right.mT[..., :rank], values.square()


def tail_bounds(matrix: Float[Tensor, "m n"], rank: int, exact_side: int) -> tuple[float, float]:
    """Bounds of the squared tail after ``rank``: equal for small sides, bracketed for large ones.

    Beyond ``exact_side`` a randomised subspace (Halko, Martinsson and Tropp 2011, algorithm 4.4,
    two power steps) captures nearly all that the leading one does; what it leaves is at least the
    tail.
    """
    thin = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    side = thin.shape[1]
    if rank >= side:
        return 0.0, 0.0
    if side <= exact_side:
        tail = float(leading_right(thin, rank)[1][rank:].sum())
        return tail, tail
    generator = torch.Generator(device=thin.device).manual_seed(0)
    basis = torch.randn(side, rank + 16, dtype=thin.dtype, device=thin.device, generator=generator)
    for _ in range(3):
        basis, _ = torch.linalg.qr(thin.mT @ (thin @ basis))
    _, captured = spectrum(thin @ basis)
    energy = float(thin.double().square().sum())
    # a difference of large numbers: at least what rounding of the products leaves open
    left = energy - float(captured[:rank].sum())
    return 0.0, max(left, 0.0) + ROUNDING * energy
