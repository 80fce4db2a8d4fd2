"""Tensor trains at a given relative error: as few values as keep it, one list of ranks for all.

Cores but one are orthonormal, so the squared error of a train is the sum of the squared tails that
its sweep discards, exactly. The classical rule (Oseledets 2011) allows every bond an equal share of
it. Flat unfoldings near the ends cannot use theirs, and a cut at one bond shortens the tails of the
others. So the least maximal rank that keeps the error is found first; what it left over is then
spent bond by bond. Against equal shares that stores as little as an eighth (stories260K's
embedding, order 4, error 0.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import spectrum
from tensorpress.linalg.tt_shapes import reachable, train_values, tt_ranks

ROUNDING = 1e-6
"""Share of the error kept back for the rounding of the cores to float32."""
SMALLEST = 1e-8
"""Share of the largest singular value that those divided by are raised to: they may vanish."""


class _Unfolding:
    """S matrices ``(S, m, n)`` and their singular vectors, which are computed when asked for."""

    def __init__(self, matrices: Float[Tensor, "S m n"]) -> None:
        self.matrices = matrices
        self.is_wide = matrices.shape[1] < matrices.shape[2]
        self._product = matrices[:, :, :0]

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Singular vectors ``(S, side, side)`` of the smaller side, squared singular values."""
        return spectrum(self.matrices.mT if self.is_wide else self.matrices)

    @cached_property
    def tails(self) -> Float[Tensor, "S tails"]:
        """What is lost, squared, beyond 0, 1, ... singular vectors."""
        squares = self._spectrum[1]
        return torch.nn.functional.pad(squares.flip(-1).cumsum(-1).flip(-1), (0, 1))

    def projected(self, rank: int) -> Float[Tensor, "S m rank"]:
        """The matrices' products with their leading right singular vectors."""
        if rank == self.matrices.shape[2]:
            return self.matrices  # nothing is cut off, so the memory is shared
        vectors, squares = self._spectrum
        if self.is_wide:
            return vectors[:, :, :rank] * squares[:, None, :rank].sqrt()
        if rank > self._product.shape[2]:
            self._product = self.matrices @ vectors[:, :, :rank]
        return self._product[:, :, :rank]

    def core(self, rank: int) -> Float[Tensor, "S rank n"]:
        """The leading right singular vectors, with which ``projected`` is to be multiplied."""
        columns = self.matrices.shape[2]
        if rank == columns:
            return _identities(self.matrices, columns)
        vectors, squares = self._spectrum
        if not self.is_wide:
            return vectors[:, :, :rank].mT
        # the vectors that ``projected`` is of, to the sign: a QR has others
        values = squares[:, :rank, None].sqrt()
        least = (SMALLEST * values[:, :1]).clamp_min(1e-300)
        return vectors[:, :, :rank].mT @ self.matrices / values.maximum(least)


def _identities(like: Tensor, size: int) -> Tensor:
    """An identity for each of the tensors that ``like (S, ...)`` has."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return identity.expand(len(like), -1, -1)


@dataclass(frozen=True)
class Swept:
    """One TT-SVD of S tensors: ranks ``r_0 .. r_d``, values of one, squared errors ``(S,)``."""

    ranks: tuple[int, ...]
    values: int
    lost: Tensor


class Sweeps:
    """TT-SVDs of S tensors ``(S, n_1, ..., n_d)``, float64, from the last mode to the first.

    Unfoldings that a sweep has in common with the last one are not computed again.
    """

    def __init__(self, tensors: Float[Tensor, "S ..."]) -> None:
        self.tensors, self.modes = tensors, tuple(tensors.shape[1:])
        self.energy = tensors.square().flatten(1).sum(1)
        self._known: dict[tuple[int, ...], _Unfolding] = {}

    def run(self, caps: Sequence[int], allowed: Tensor, spare: Tensor) -> Swept:
        """One sweep, of common ranks.

        A bond's rank is its cap; less while the tails cut off beyond the caps sum to at most
        ``spare (S,)``, more where the squared error would pass ``allowed (S,)``.
        """
        ranks: tuple[int, ...] = (1,)
        lost = torch.zeros_like(allowed)
        for k in reversed(range(1, len(self.modes))):
            tails = self._unfolding(ranks).tails
            capped = tails[:, min(caps[k], tails.shape[1] - 1)]
            limit = torch.minimum(capped + spare, allowed - lost).clamp_min(0.0)
            # tails fall to zero, so a rank that suits every tensor exists
            rank = max(1, int((tails <= limit[:, None]).all(0).int().argmax()))
            ranks, cut = (rank, *ranks), tails[:, rank]
            spare, lost = spare - (cut - capped).clamp_min(0.0), lost + cut
        ranks = (1, *ranks)
        self._keep(ranks)
        return Swept(ranks, train_values(self.modes, ranks), lost)

    def capped(self, rank: int) -> Swept:
        """The sweep under one maximal rank."""
        anything = torch.full_like(self.energy, math.inf)
        return self.run(tt_ranks(self.modes, rank), anything, torch.zeros_like(anything))

    def worst_error(self, swept: Swept) -> float:
        """The largest relative error of the tensors."""
        return float((swept.lost / self.energy.clamp_min(1e-300)).max().sqrt())

    def cores(self, ranks: tuple[int, ...]) -> list[Tensor]:
        """Cores ``(S, r_{k-1}, n_k, r_k)`` of ranks ``r_0 .. r_d`` that the tensors can fill."""
        modes = self.modes
        # before the first bond that is cut all cores but one only hand the indices on
        uncut = takewhile(lambda k: ranks[k] == math.prod(modes[:k]), range(1, len(modes)))
        handed = [_identities(self.tensors, ranks[k]) for k in uncut]
        parts = [*handed, self._unfolding(ranks[len(handed) + 1 :]).matrices]
        for k in range(len(parts), len(modes)):
            parts.append(self._unfolding(ranks[k + 1 :]).core(ranks[k]))
        self._keep(ranks)
        return [
            part.reshape(-1, ranks[k], mode, ranks[k + 1])
            for k, (part, mode) in enumerate(zip(parts, modes, strict=True))
        ]

    def _keep(self, ranks: tuple[int, ...]) -> None:
        """Forget the unfoldings that a sweep of these ranks has not."""
        self._known = {key: self._known[key] for key in self._known if ranks[-len(key) :] == key}

    def _unfolding(self, ranks: tuple[int, ...]) -> _Unfolding:
        """The unfolding that is left of the bonds that have got their ``ranks``."""
        if ranks not in self._known:
            bond = len(self.modes) - len(ranks)
            rest = (
                self._unfolding(ranks[1:]).projected(ranks[0]) if len(ranks) > 1 else self.tensors
            )
            self._known[ranks] = _Unfolding(
                rest.reshape(len(rest), -1, self.modes[bond] * ranks[0])
            )
        return self._known[ranks]


def tt_svd_within(tensors: Float[Tensor, "S ..."], error: float) -> list[Tensor]:
    """Cores ``(S, r_{k-1}, n_k, r_k)`` of S float64 tensors, each within relative ``error``.

    Gram matrices in float64 tell tails down to an error of about 1e-6.
    """
    sweeps = Sweeps(tensors)
    return sweeps.cores(_smallest(sweeps, error).ranks)


def values_within(tensors: Float[Tensor, "S ..."], error: float) -> int:
    """Values of the cores of one of the tensors as ``tt_svd_within`` makes them."""
    return _smallest(Sweeps(tensors), error).values


def least_rank(tensors: Float[Tensor, "S ..."], error: float) -> int:
    """The least maximal rank with which every float64 tensor is within relative ``error``."""
    return _least_rank(Sweeps(tensors), error)


def worst_error(tensors: Float[Tensor, "S ..."], rank: int) -> float:
    """The largest relative error among TT-SVDs of float64 tensors under one maximal rank."""
    sweeps = Sweeps(tensors)
    return sweeps.worst_error(sweeps.capped(rank))


def holds(reached: float, error: float) -> bool:
    """Whether trains of relative error ``reached`` stay within ``error`` once in float32."""
    return reached <= error * (1 - ROUNDING)


def _smallest(sweeps: Sweeps, error: float) -> Swept:
    """A sweep after which no bond can be cut further."""
    allowed = sweeps.energy * (error * (1 - ROUNDING)) ** 2
    best = sweeps.capped(_least_rank(sweeps, error))
    while True:
        left_over = (allowed - best.lost).clamp_min(0.0)
        tighter = sweeps.run(reachable(sweeps.modes, best.ranks), allowed, left_over)
        if tighter.values >= best.values:
            return best
        best = tighter


def _least_rank(sweeps: Sweeps, error: float) -> int:
    low, high = 1, max(tt_ranks(sweeps.modes, math.prod(sweeps.modes)))
    while low < high:
        # the geometric middle: sweeps of small ranks are cheap
        middle = math.isqrt(low * high)
        within = holds(sweeps.worst_error(sweeps.capped(middle)), error)
        low, high = (low, middle) if within else (middle + 1, high)
    return low
