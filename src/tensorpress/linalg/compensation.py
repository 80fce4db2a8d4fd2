"""Columns replaced one by one, each one's error made up for by the columns still to come.

What GPTQ (Frantar et al. 2023) and SparseGPT (Frantar and Alistarh 2023) have in common: optimal
brain surgery with one inverse of the inputs' second moment for all rows of a weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128
"""Rows of the Cholesky factor that are inverted at once."""


def corrections(
    moment: Float[Tensor, "n n"], order: Int[Tensor, " n"], damping: float
) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
    """How an error in column k, in ``order``, is made up for by those before it: row k, float64.

    The rows, divided by their diagonal, of the lower triangular R with ``R^T R`` the inverse of the
    damped moment: R is the inverse of its Cholesky factor. The second result is that diagonal. It
    is computed in place, in the memory of one moment, which is the largest tensor here.
    """
    wide = moment.new_empty(moment.shape, dtype=torch.float64)
    for rows, some in zip(wide.split(BLOCK), order.split(BLOCK), strict=True):
        rows.copy_(moment[some][:, order])
    mean = float(wide.diagonal().mean())
    if mean <= 0:
        identity = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
        return identity, identity.diagonal().clone()
    wide.diagonal().add_(damping * mean)
    lower = torch.linalg.cholesky(wide.mT, out=wide.mT)
    for start in range(0, len(lower), BLOCK):
        own = slice(start, start + BLOCK)
        inverse = torch.linalg.inv(lower[own, own])
        lower[own, :start] = -inverse @ (lower[own, :start] @ lower[:start, :start])
        lower[own, own] = inverse
    scale = lower.diagonal().clone()
    lower /= scale[:, None]
    return lower, scale


def compensated(
    columns: Float[Tensor, "in out"],
    pull: Float[Tensor, "in in"],
    block: int,
    replaced: Callable[[int, Tensor], Tensor],
    begin: Callable[[int, int], None] = lambda start, stop: None,
) -> Float[Tensor, "in out"]:
    """The columns, written over, as ``replaced(k, column)`` made them one by one, the last first.

    ``columns`` are in the order of ``pull``, the first result of ``corrections``, and adjacent in
    memory. ``begin(start, stop)`` is told of each block before its columns are replaced; by then
    they have what earlier blocks lost.
    """
    for stop in range(len(columns), 0, -block):
        start = max(stop - block, 0)
        begin(start, stop)
        rows = pull[start:stop, :stop].to(columns.dtype)
        errors = torch.empty_like(columns[start:stop])
        for k in reversed(range(start, stop)):
            kept = replaced(k, columns[k])
            error = columns[k] - kept
            columns[start:k].addr_(rows[k - start, start:k], error, alpha=-1)
            columns[k] = kept
            errors[k - start] = error
        columns[:start].addmm_(rows[:, :start].mT, errors, alpha=-1)
    return columns
