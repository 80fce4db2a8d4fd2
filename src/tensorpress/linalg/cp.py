"""CP of a stack of matrices by alternating least squares, from several starts.

Kolda and Bader 2009, "Tensor decompositions and applications", figure 3.3. Alternating steps stall
in local minima, so the best of several starts is kept; one of them is exact where the slices share
no more than min(m, n) components and there is no noise: the generalised eigenvectors of two
mixtures of the slices (Leurgans, Ross and Abel 1993).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SWEEPS = 500
"""Most passes over the three modes from one start."""
CHANGE = 1e-8
"""Change of the squared relative error in a pass below which a start has settled."""
RIDGE = 1e-10
"""Of the normal equations, as a share of the mean of their diagonal."""


@dataclass(frozen=True)
class Components:
    """``T_s ~ left diag(mix_s) right^T``, and the relative error."""

    mix: Float[Tensor, "slices rank"]
    left: Float[Tensor, "m rank"]
    right: Float[Tensor, "n rank"]
    error: float


def cp(
    tensor: Float[Tensor, "slices m n"], rank: int, starts: int, seed: int, sweeps: int = SWEEPS
) -> Components:
    """The best of ``starts`` alternating least squares; columns of ``left`` and ``right`` are unit.

    The same seed gives the same result.
    """
    tensor = tensor.double()
    found = (_settled(tensor, *start, sweeps) for start in _starts(tensor, rank, starts, seed))
    return min(found, key=lambda each: each.error)


def _settled(tensor: Tensor, mix: Tensor, right: Tensor, sweeps: int) -> Components:
    """Passes over left, right and mix until the error no longer falls."""
    norm, before = float(tensor.square().sum()), math.inf
    if not norm:
        left = tensor.new_zeros(tensor.shape[1], mix.shape[1])
        return Components(torch.zeros_like(mix), left, right, 0.0)
    left = tensor.new_empty(0)
    for _ in range(sweeps):
        # sum_s T_s right diag(mix_s)
        left = _solved(torch.einsum("smr,sr->mr", tensor @ right, mix), mix, right)
        left = _unit(left)
        right = _solved(torch.einsum("snr,sr->nr", tensor.mT @ left, mix), mix, left)
        right = _unit(right)
        products = torch.einsum("smr,mr->sr", tensor @ right, left)
        mix = _solved(products, left, right)
        # |T|^2 - 2 <T, S> + |S|^2 of the sum S of the components
        gram = (mix.mT @ mix) * (left.mT @ left) * (right.mT @ right)
        error = (norm - 2 * float((products * mix).sum()) + float(gram.sum())) / norm
        if before - error < CHANGE * max(error, CHANGE):
            break
        before = error
    exact = (left * mix[:, None]) @ right.mT
    return Components(mix, left, right, (float((tensor - exact).square().sum()) / norm) ** 0.5)


def _solved(products: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """A mode's factor by the normal equations of the other two."""
    gram = (one.mT @ one) * (other.mT @ other)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solved: Tensor = torch.linalg.solve(gram, products.mT).mT
    return solved


def _unit(factor: Tensor) -> Tensor:
    return factor / factor.norm(dim=0).clamp_min(torch.finfo(factor.dtype).tiny)


def _starts(tensor: Tensor, rank: int, starts: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mix and right factors to begin with."""
    generator = torch.Generator().manual_seed(seed)
    slices, m, n = tensor.shape

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(tensor.device)

    exact = rank <= min(m, n) and slices > 1 and bool(tensor.any())
    if exact:
        yield _of_pencil(tensor, rank, noise(2, slices))
    for _ in range(starts - exact):
        yield noise(slices, rank), noise(n, rank)


def _of_pencil(tensor: Tensor, rank: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mix and right factor from two mixtures of the slices, whose pencil has the components."""
    columns = torch.linalg.svd(tensor.flatten(0, 1), full_matrices=False).Vh[:rank]
    rows = torch.linalg.svd(tensor.mT.flatten(0, 1), full_matrices=False).Vh[:rank]
    first, second = torch.einsum("ks,smn->kmn", weights, rows @ tensor @ columns.mT)
    values, vectors = torch.linalg.eig(torch.linalg.lstsq(second, first).solution)
    # of a conjugate pair, which noise makes, real and imaginary part span the same plane
    basis = torch.where(values.imag < 0, vectors.imag, vectors.real)
    # first = L D R^T and second = L E R^T: the eigenvectors are those of R^-T
    right = _unit(columns.mT @ torch.linalg.pinv(basis).mT)
    halves = (tensor @ torch.linalg.pinv(right.mT)).movedim(0, -1)
    # each component is a matrix of rank one by now: its slices' weights are the leading vector
    parts = halves.movedim(1, 0)
    mix = torch.linalg.svd(parts, full_matrices=False).Vh[:, 0].mT
    return mix.contiguous(), right
