"""TT-SVD of a matrix as a TT-matrix (Oseledets 2011; methods.md, "TT modes")."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tensorpress.linalg.truncated_svd import leading_subspace


def balanced_factors(number: int, order: int) -> list[int]:
    """``order`` factors of ``number``, as equal as its primes allow, ascending.

    Prime factors, largest first, each multiplied into the currently smallest bin.
    """
    bins = [1] * order
    for prime in reversed(_primes(number)):
        smallest = bins.index(min(bins))
        bins[smallest] *= prime
    return sorted(bins)


def tt_tensor(weight: Tensor, in_modes: Sequence[int], out_modes: Sequence[int]) -> Tensor:
    """The matrix ``(out, in)`` as a tensor whose mode k is the pair (input k, output k)."""
    order = len(in_modes)
    axes = [axis for k in range(order) for axis in (k, order + k)]
    tensor = weight.mT.reshape(*in_modes, *out_modes).permute(axes)
    return tensor.reshape([i * o for i, o in zip(in_modes, out_modes, strict=True)])


def tt_ranks(modes: Sequence[int], rank: int) -> list[int]:
    """TT ranks ``r_0 .. r_d`` under one maximal rank: at most the sides of each unfolding."""
    ranks = [1]
    for k in range(1, len(modes)):
        ranks.append(min(rank, ranks[-1] * modes[k - 1], math.prod(modes[k:])))
    return [*ranks, 1]


def tt_svd(tensor: Tensor, rank: int) -> list[Tensor]:
    """Cores ``(r_{k-1}, n_k, r_k)`` in float64, by truncated SVDs from the last mode to the first.

    Quasi-optimal (Oseledets 2011, Theorem 2.2): the squared error is at most the sum over k of
    the squared tails of the unfoldings. The direction is that of tntorch, which the study uses;
    the other one has another error under the same bound. Where an unfolding is no larger than
    its rank it is passed on untouched.
    """
    modes = tuple(tensor.shape)
    ranks = tt_ranks(modes, rank)
    rest = tensor.double()
    cores: list[Tensor] = []
    for k in reversed(range(1, len(modes))):
        rest = rest.reshape(-1, modes[k] * ranks[k + 1])
        rows, columns = rest.shape
        if ranks[k] == columns:
            core = torch.eye(columns, dtype=rest.dtype, device=rest.device)
        elif ranks[k] == rows:
            # no later unfolding is larger, so nothing after this one is truncated
            core, rest = rest, torch.eye(rows, dtype=rest.dtype, device=rest.device)
        elif columns <= rows:
            basis, _ = leading_subspace(rest.mT, ranks[k])
            core, rest = basis.mT, rest @ basis
        else:
            left, _ = leading_subspace(rest, ranks[k])
            # QR keeps the core orthonormal, so that later truncations see the true error
            basis, change = torch.linalg.qr((left.mT @ rest).mT)
            core, rest = basis.mT, left @ change.mT
        cores.append(core.reshape(ranks[k], modes[k], ranks[k + 1]))
    return [rest.reshape(1, modes[0], ranks[1]), *reversed(cores)]


def tt_bounds(tensor: Tensor, ranks: Sequence[int]) -> tuple[float, float]:
    """Relative Frobenius error bounds of any and of the TT-SVD tensor of these ranks.

    ``max_k tail_k <= error <= sqrt(sum_k tail_k^2)`` with the tails of the original unfoldings.
    """
    wide = tensor.double()
    total = float(wide.square().sum())
    tails = []
    for k in range(1, wide.ndim):
        unfolding = wide.reshape(math.prod(wide.shape[:k]), -1)
        short = unfolding if unfolding.shape[0] <= unfolding.shape[1] else unfolding.mT
        if ranks[k] < short.shape[0]:
            _, squares = leading_subspace(short, 0)
            tails.append(float(squares[ranks[k] :].sum()))
    if not tails or not total:
        return 0.0, 0.0
    return math.sqrt(max(tails) / total), math.sqrt(sum(tails) / total)


def _primes(number: int) -> list[int]:
    """Prime factors, ascending."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found
