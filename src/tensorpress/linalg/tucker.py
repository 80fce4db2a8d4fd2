"""Partial Tucker: HOSVD bases from Gram matrices, then orthogonal iteration (HOOI)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

SWEEPS = 20
TOLERANCE = 1e-7


def mode_spectrum(tensor: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors ``(n, n)`` and eigenvalues of a mode's Gram matrix, largest first, float64."""
    unfolding = tensor.double().movedim(mode, 0).flatten(1)
    squares, vectors = torch.linalg.eigh(unfolding @ unfolding.mT)
    return vectors.flip(-1), squares.flip(-1).clamp_min(0.0)


def project_modes(tensor: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    """``tensor x_n U_n^T`` for every listed mode n with basis ``U_n (size, rank)``."""
    for mode, basis in bases.items():
        tensor = torch.tensordot(tensor, basis, dims=([mode], [0])).movedim(-1, mode)
    return tensor


def expand_modes(core: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    """``core x_n U_n`` for every listed mode n: the inverse of ``project_modes``."""
    return project_modes(core, {mode: basis.mT for mode, basis in bases.items()})


def hosvd(tensor: Tensor, ranks: Mapping[int, int]) -> tuple[Tensor, dict[int, Tensor]]:
    """Core and bases of the truncated HOSVD (De Lathauwer et al. 2000), float64."""
    bases = {mode: mode_spectrum(tensor, mode)[0][:, :rank] for mode, rank in ranks.items()}
    return project_modes(tensor.double(), bases), bases


def partial_tucker(tensor: Tensor, ranks: Mapping[int, int]) -> tuple[Tensor, dict[int, Tensor]]:
    """Core and bases of a partial Tucker decomposition, float64.

    Starts from the HOSVD and sweeps over the modes (HOOI) until the captured energy grows by
    less than ``TOLERANCE`` of the total; never worse than the HOSVD.
    """
    wide = tensor.double()
    core, bases = hosvd(wide, ranks)
    truncated = [mode for mode, rank in ranks.items() if rank < wide.shape[mode]]
    total, energy = float(wide.square().sum()), float(core.square().sum())
    for _ in range(SWEEPS if len(truncated) > 1 else 0):
        for mode in truncated:
            others = {m: basis for m, basis in bases.items() if m != mode}
            vectors, _ = mode_spectrum(project_modes(wide, others), mode)
            bases[mode] = vectors[:, : ranks[mode]]
        core = project_modes(wide, bases)
        before, energy = energy, float(core.square().sum())
        if energy - before <= TOLERANCE * total:
            break
    return core, bases


def tucker_bounds(tensor: Tensor, ranks: Mapping[int, int]) -> tuple[float, float]:
    """Relative error bounds: ``max_n tail_n <= error^2 <= sum_n tail_n`` over the modes."""
    total = float(tensor.double().square().sum())
    tails = [float(mode_spectrum(tensor, mode)[1][rank:].sum()) for mode, rank in ranks.items()]
    if not total:
        return 0.0, 0.0
    return math.sqrt(max(tails) / total), math.sqrt(sum(tails) / total)
