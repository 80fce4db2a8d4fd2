"""Singular spectra of stacks of matrices and what they say: ranks, energy, tail.

One symmetric eigenproblem of the smaller side (``linalg.gram``) gives the spectrum and both leading
subspaces of a matrix. Squared singular values are in float64, largest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import spectrum

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Stack:
    """Matrices of equal shape, each with its spectrum and its leading singular vectors.

    ``squares`` are squared singular values; ``left`` and ``right`` hold orthonormal columns.
    """

    matrices: Float[Tensor, "slices m n"]
    squares: Float[Tensor, "slices side"]
    left: Float[Tensor, "slices m k"]
    right: Float[Tensor, "slices n k"]

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def turned(self) -> Stack:
        """The transposed matrices."""
        return Stack(self.matrices.mT, self.squares, self.right, self.left)


def decompose(matrices: Float[Tensor, "slices m n"], share: float) -> Stack:
    """Spectra, and the leading subspaces of dimension ``leading(m, n, share)``."""
    rows, columns = matrices.shape[1:]
    if columns > rows:
        return decompose(matrices.mT, share).turned
    vectors, squares = spectrum(matrices)
    # a copy, so that the other vectors are freed
    right = vectors[..., : leading(rows, columns, share)].clone()
    # QR, not a division by singular values: these may vanish
    left, _ = torch.linalg.qr((matrices @ right.to(matrices.dtype)).double())
    return Stack(matrices, squares, left, right)


def join(stacks: Sequence[Stack]) -> Stack:
    """The slices of several stacks of one shape, one after the other."""
    return Stack(
        matrices=torch.cat([stack.matrices for stack in stacks]),
        squares=torch.cat([stack.squares for stack in stacks]),
        left=torch.cat([stack.left for stack in stacks]),
        right=torch.cat([stack.right for stack in stacks]),
    )


def leading(rows: int, columns: int, share: float) -> int:
    """Dimensions of a subspace: ``share`` of the smaller side, at least one."""
    return max(1, round(share * min(rows, columns)))


def effective_rank(squares: Float[Tensor, "*batch side"]) -> Float[Tensor, "*batch"]:
    """``exp(H)`` with H the entropy, in nats, of the singular values over their sum.

    Roy & Vetterli (2007): from 1 for one direction to the side for an even spectrum.
    """
    values = squares.sqrt()
    shares = values / values.sum(-1, keepdim=True).clamp_min(TINY)
    return torch.exp(-torch.xlogy(shares, shares).sum(-1))


def stable_rank(squares: Float[Tensor, "*batch side"]) -> Float[Tensor, "*batch"]:
    """``||W||_F^2 / ||W||_2^2`` (Rudelson & Vershynin 2007): at most the rank."""
    return squares.sum(-1) / squares[..., 0].clamp_min(TINY)


def energy_captured(squares: Float[Tensor, "*batch side"], rank: int) -> Float[Tensor, "*batch"]:
    """Share of ``||W||_F^2`` in the ``rank`` leading directions."""
    return squares[..., :rank].sum(-1) / squares.sum(-1).clamp_min(TINY)


def tail_exponent(squares: Float[Tensor, "*batch side"]) -> Float[Tensor, "*batch"]:
    """``alpha`` of ``density ~ lambda^-alpha`` for the tail of the eigenvalues of ``W^T W``.

    As Martin & Mahoney (2021): the maximum-likelihood estimate of Clauset et al. (2009),
    ``1 + n / sum ln(lambda_i / lambda_min)`` over the n largest, where n is that whose fit has the
    least Kolmogorov-Smirnov distance. Infinite where the spectrum is even, which has no tail.
    """
    logs = squares.cpu().log()
    best = torch.full_like(logs[..., 0], torch.inf)
    exponent = best.clone()
    for count in range(2, logs.shape[-1] + 1):
        excess = logs[..., :count] - logs[..., count - 1 : count]
        scale = excess.mean(-1)
        fitted = torch.exp(-excess / scale[..., None])  # share of the tail that lies above
        steps = torch.arange(count + 1, dtype=logs.dtype) / count
        apart = torch.maximum((fitted - steps[:-1]).abs(), (fitted - steps[1:]).abs()).amax(-1)
        better = apart < best  # never where the values are equal: these give NaN
        best = torch.where(better, apart, best)
        exponent = torch.where(better, 1 + 1 / scale, exponent)
    return exponent
