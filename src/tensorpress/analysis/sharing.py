"""The sharing penalty: what it costs that the slices of a stack share their factors.

At the same number of stored values, the error of a Tucker decomposition of the whole stack over the
error of truncated SVDs of its slices: 1 where sharing is free, below where it pays, above where it
costs. Both get the best ranks that fit. Slices of noise are not at 1, since the two formats spend
their values differently: ``noise_penalties`` tells how much of a penalty is due to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from tensorpress.linalg.bounds import of_tails
from tensorpress.linalg.gram import SAFE_TAIL, spectrum
from tensorpress.linalg.tucker import multi_mode_dot, partial_tucker, row_blocks

RESOLUTION = 1e-3
"""Relative errors below it count as equal: storing in bfloat16 costs as much."""

Sizes = tuple[int, int, int]


@dataclass(frozen=True)
class Sharing:
    """Relative Frobenius errors of a stack at one budget; ``lower`` and ``upper`` bound the shared.

    ``ranks`` are of the Tucker modes (slices, m, n); zeros where the budget has room for none.
    """

    ranks: Sizes
    shared_error: float
    separate_error: float
    lower: float
    upper: float

    @property
    def penalty(self) -> float:
        """Shared error over separate error."""
        return max(self.shared_error, RESOLUTION) / max(self.separate_error, RESOLUTION)


def sharing(
    tensor: Float[Tensor, "slices m n"],
    squares: Float[Tensor, "slices side"],
    saved: Sequence[float],
) -> list[Sharing]:
    """Shared against separate errors, for each share of the stack's values that is to be saved.

    ``squares`` are the squared singular values of the slices. Ranks are chosen by the errors of
    truncated HOSVDs, then the bases are refined (HOOI). Bounds: the HOSVD's, ``max_n tail_n <=
    error^2 <= sum_n tail_n`` over the modes.
    """
    total = float(squares.sum())
    modes = [mode_spectrum(tensor, mode) for mode in range(3)]
    core = multi_mode_dot(tensor, {mode: basis for mode, (basis, _) in enumerate(modes)})
    missing = [size - r for size, r in zip(tensor.shape, core.shape, strict=True)]
    # zeros, so that a mode without so many directions can be kept whole too, which spares its basis
    core = pad(core, [zeros for size in reversed(missing) for zeros in (0, size)])
    found = []
    for share in saved:
        allowed = math.floor((1.0 - share) * tensor.numel())
        ranks = best_ranks(core, allowed)
        tails = [float(values[rank:].sum()) for (_, values), rank in zip(modes, ranks, strict=True)]
        if max(tails) < SAFE_TAIL * total and tensor.dtype != torch.float64:
            # what is left is rounding of float32
            found += sharing(tensor.double(), squares, [share])
            continue
        lower, upper = of_tails(tails, total)
        # tails that meet say the error: one mode is truncated, or none
        meet = max(tails) == sum(tails)
        shared = relative(sum(tails), total) if meet else tucker_error(tensor, ranks)
        separate = separate_error(squares, sum(tensor.shape[1:]), allowed)
        found.append(Sharing(ranks, shared, separate, lower, upper))
    return found


@cache  # layers of a model have equal shapes
def noise_penalties(
    shape: tuple[int, ...], saved: tuple[float, ...], device: torch.device
) -> list[float]:
    """Penalties of a stack of Gaussian noise, whose slices have nothing in common.

    Of one draw: they scatter by about 1 % at 4,000 values and by 0.2 % at 40,000.
    """
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    wide = noise if shape[1] >= shape[2] else noise.mT
    return [found.penalty for found in sharing(noise, spectrum(wide)[1], saved)]


def mode_spectrum(tensor: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors ``(n, rank)`` and squared singular values of a mode's unfolding.

    All that the unfolding has, largest first: n, or as many as the other modes are large.
    """
    blocks = row_blocks(tensor, mode)
    if len(blocks) * blocks.shape[1] >= blocks.shape[2]:
        return spectrum(blocks, tall=True)
    wide = blocks.flatten(0, 1).mT
    vectors, squares = spectrum(wide)
    return torch.linalg.qr(wide.double() @ vectors).Q, squares


def best_ranks(core: Float[Tensor, "slices m n"], allowed: int) -> Sizes:
    """Ranks of most captured energy whose Tucker decomposition takes ``allowed`` values or fewer.

    ``core`` is that of the full HOSVD: a truncated one captures the energy of its leading block,
    so sums along the modes give the errors of all ranks at once. Core and bases take values, but a
    mode that keeps its size needs no basis.
    """
    slices, rows, columns = core.shape
    best, most = (0, 0, 0), 0.0
    second = torch.arange(1, rows + 1, device=core.device)
    captured = torch.zeros_like(core[0], dtype=torch.float64)
    for first in range(1, slices + 1):
        captured += core[first - 1].double().square().cumsum(0).cumsum(1)
        left = allowed - first * slices * (first < slices) - second * rows * (second < rows)
        third = left.div(first * second + columns, rounding_mode="floor").clamp(0, columns - 1)
        third = torch.where(first * second * columns <= left, columns, third)
        energy = captured.gather(1, (third - 1).clamp_min(0)[:, None])[:, 0] * (third > 0)
        index = int(energy.argmax())
        if float(energy[index]) > most:
            best, most = (first, index + 1, int(third[index])), float(energy[index])
    return best


def tucker_error(tensor: Float[Tensor, "slices m n"], ranks: Sizes) -> float:
    """Relative error of the Tucker decomposition with these ranks."""
    if not all(ranks):
        return 1.0
    core, _ = partial_tucker(tensor, {m: r for m, r in enumerate(ranks) if r < tensor.shape[m]})
    captured, total = (float(x.double().square().sum()) for x in (core, tensor))
    return relative(total - captured, total)


def separate_error(squares: Float[Tensor, "slices side"], sides: int, allowed: int) -> float:
    """Relative error of the slices' truncated SVDs (Eckart & Young 1936) in ``allowed`` values.

    A singular triple takes ``sides = m + n`` values in whichever slice, so the largest are kept.
    """
    discarded = squares.flatten().sort(descending=True).values[allowed // sides :]
    return relative(float(discarded.sum()), float(squares.sum()))


def relative(error: float, total: float) -> float:
    """Relative norm from squared ones; of a zero tensor, zero."""
    return math.sqrt(max(error, 0.0) / total) if total else 0.0
