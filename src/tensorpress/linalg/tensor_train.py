"""TT-SVD (Oseledets 2011, "Tensor-train decomposition", algorithm 1) of a matrix as a TT-matrix.

Mode k of the tensor is the pair of the k-th factors of the inputs and outputs (Oseledets 2010,
"Approximation of 2^d x 2^d matrices using tensor decomposition").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tensorpress.linalg.bounds import of_tails
from tensorpress.linalg.gram import leading_right, tail_bounds
from tensorpress.linalg.tt_shapes import EXACT_SIDE, TTShape, tt_ranks

PROJECTED_ROWS = 4096
"""Rows that are projected at a time, so that their copy stays small."""
LONG_RUN = 16
"""Shortest run of adjacent values at which a permutation of many axes reads memory fast."""


def tt_tensor(weight: Tensor, shape: TTShape) -> Tensor:
    """The matrix ``(out, in)`` as a tensor whose mode k is the pair (input k, output k).

    A permutation of 2d axes. Where the last ones are short, it is done as one of four long axes
    and two gathers, of rows and of columns: the memory is then read in long runs. The result
    never shares memory with ``weight``.
    """
    order = len(shape.in_modes)
    if shape.in_modes[-1] >= LONG_RUN or order < 4:
        axes = [axis for k in range(order) for axis in (order + k, k)]
        paired = weight.reshape(*shape.out_modes, *shape.in_modes).permute(axes)
        return paired.clone(memory_format=torch.contiguous_format).reshape(shape.modes)
    half = order // 2 + 1
    first = TTShape(shape.in_modes[:half], shape.out_modes[:half])
    last = TTShape(shape.in_modes[half:], shape.out_modes[half:])
    sides = [math.prod(m) for m in (first.out_modes, last.out_modes, first.in_modes, last.in_modes)]
    blocks = weight.reshape(sides).permute(0, 2, 1, 3).reshape(math.prod(first.modes), -1)
    rows, columns = _interleaved(first).to(weight.device), _interleaved(last).to(weight.device)
    return blocks.index_select(1, columns).index_select(0, rows).reshape(shape.modes)


def _interleaved(shape: TTShape) -> Tensor:
    """Where each index in pairs (input k, output k) lies in (outputs, inputs) order."""
    order = len(shape.in_modes)
    places = torch.arange(math.prod(shape.modes)).reshape(*shape.out_modes, *shape.in_modes)
    return places.permute([axis for k in range(order) for axis in (order + k, k)]).flatten()


def tt_svd(tensor: Tensor, rank: int, *, overwrite: bool = False) -> list[Tensor]:
    """Cores ``(r_{k-1}, n_k, r_k)``, by truncated SVDs from the last mode to the first.

    Quasi-optimal (Oseledets 2011, Theorem 2.2): the squared error is at most the sum over k of
    the squared tails of the unfoldings. The direction is that of tntorch, which the study uses;
    the other one has another error under the same bound. Where an unfolding is no larger than
    its rank it is passed on untouched. Works in the tensor's dtype, float32 or float64;
    ``overwrite`` lets it use the tensor's memory, which saves the time to fetch new pages.
    """
    modes = tuple(tensor.shape)
    ranks = tt_ranks(modes, rank)
    rest = tensor if overwrite else tensor.clone(memory_format=torch.contiguous_format)
    cores: list[Tensor] = []
    for k in reversed(range(1, len(modes))):
        rest = rest.reshape(-1, modes[k] * ranks[k + 1])
        rows, columns = rest.shape
        if ranks[k] == columns:
            core = torch.eye(columns, dtype=rest.dtype, device=rest.device)
        elif ranks[k] == rows:
            # no later unfolding is larger, so nothing after this one is truncated
            core, rest = rest, torch.eye(rows, dtype=rest.dtype, device=rest.device)
        else:
            basis = leading_right(rest, ranks[k])[0].to(rest.dtype)
            core, rest = basis.mT, _project_in_place(rest, basis)
        cores.append(core.reshape(ranks[k], modes[k], ranks[k + 1]))
    return [rest.reshape(1, modes[0], ranks[1]), *reversed(cores)]


def _project_in_place(rest: Tensor, basis: Tensor) -> Tensor:
    """``rest @ basis``, written over the front of ``rest``: rows are read before they are lost."""
    rows, rank = rest.shape[0], basis.shape[1]
    projected = rest.view(-1)[: rows * rank].view(rows, rank)
    for first in range(0, rows, PROJECTED_ROWS):
        last = first + PROJECTED_ROWS
        projected[first:last] = rest[first:last] @ basis
    return projected


def tt_bounds(tensor: Tensor, ranks: Sequence[int]) -> tuple[float, float]:
    """Relative Frobenius error bounds of any and of the TT-SVD tensor of these ranks.

    ``max_k tail_k <= error <= sqrt(sum_k tail_k^2)`` with the tails of the original unfoldings,
    and what rounding allows (``of_tails``); those of very wide unfoldings are bracketed, so the
    bounds hold but are less tight.
    """
    total = float(tensor.double().square().sum())
    tails = [(0.0, 0.0)]
    for k in range(1, tensor.ndim):
        unfolding = tensor.reshape(math.prod(tensor.shape[:k]), -1)
        tails.append(tail_bounds(unfolding, ranks[k], EXACT_SIDE))
    least = of_tails([lower for lower, _ in tails], total)[0]
    return least, min(of_tails([upper for _, upper in tails], total)[1], 1.0)
