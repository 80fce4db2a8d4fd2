"""Which columns of a matrix to keep, and what they then hold of the others.

The columns of ``W (out, in)`` meet inputs of second moment ``C (in, in)``. From the inputs in a set
T the others are predicted linearly, by ``C[:, T] C[T, T]^-1`` as in Nystroem's approximation, which
is least squares and so leaves the least error of ``W x`` (MoDeGPT, Lin et al., ICLR 2025;
FLAT-LLM, Tian et al. 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST = 1e-10
"""Variance that a column must have of its own to be chosen, relative to the largest of all."""
EXACT = 4096
"""Columns up to which every choice is the best of all; above it blocks are chosen."""
BLOCK = 32
"""Columns of a block, the best among four times as many."""


@dataclass(frozen=True)
class Chosen:
    """Columns in the order in which they were chosen, and by how much each lowered the error."""

    order: Int[Tensor, " chosen"]
    gains: Float[Tensor, " chosen"]


def greedy(
    weight: Float[Tensor, "out in"],
    moment: Float[Tensor, "in in"],
    count: int,
    first: Int[Tensor, " given"] | None = None,
) -> Chosen:
    """Up to ``count`` columns, one after the other that which lowers the error of ``W x`` most.

    The error is ``tr W R W^T`` with R what is left of C (a pivoted Cholesky factorisation); column
    j lowers it by ``|W R_:j|^2 / R_jj``. Prefixes of the order are the choices of smaller counts.
    Columns that tell nothing new (dead ones, duplicates) are never chosen, so there may be fewer.
    ``first`` are chosen before all others.
    """
    left, images = moment.double().clone(), weight.double() @ moment.double()
    least = LEAST * left.diagonal().max()
    free = torch.ones(len(left), dtype=torch.bool, device=left.device)
    order, gains = [left.new_zeros(0, dtype=torch.long)], [left.new_zeros(0)]
    block = count if len(left) <= EXACT else BLOCK
    forced = [] if first is None else first.tolist()
    while count > 0:
        own = left.diagonal()
        scores = images.square().sum(0) / own.clamp_min(least)
        usable = free & (own > least)
        scores = torch.where(usable, scores, scores.new_tensor(-1.0))
        if forced:
            candidates = left.new_tensor([forced.pop(0)], dtype=torch.long)
            if not usable[candidates]:
                continue
        else:
            candidates = scores.topk(min(4 * block, int(usable.sum()))).indices
        if not len(candidates):
            break
        inside = left[candidates][:, candidates]
        picked, won = _one_by_one(images[:, candidates], inside, min(block, count), least)
        chosen = candidates[picked]
        order.append(chosen)
        gains.append(won)
        free[chosen] = False
        count -= len(chosen)
        if count:
            share = torch.cholesky_solve(
                left[chosen], torch.linalg.cholesky(left[chosen][:, chosen])
            )
            images -= images[:, chosen] @ share
            left -= left[:, chosen] @ share
    return Chosen(torch.cat(order), torch.cat(gains))


def _one_by_one(images: Tensor, left: Tensor, count: int, least: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the best columns, each chosen in view of those before, and their gains.

    Works in the memory of its arguments.
    """
    free = torch.ones(len(left), dtype=torch.bool, device=left.device)
    picked, gains = [], []
    for _ in range(min(count, len(left))):
        own = left.diagonal()
        scores = images.square().sum(0) / own.clamp_min(least)
        scores = torch.where(free & (own > least), scores, scores.new_tensor(-1.0))
        gain, best = scores.max(0)
        if gain < 0:
            break
        share = left[best] / left[best, best]
        images.addr_(images[:, best].clone(), share, alpha=-1)
        left.addr_(left[:, best].clone(), share, alpha=-1)
        free[best] = False
        picked.append(best)
        gains.append(gain)
    return torch.stack(picked), torch.stack(gains)


def leverage(moment: Float[Tensor, "in in"], count: int) -> Int[Tensor, " chosen"]:
    """Columns of the largest ridge leverage ``diag(C (C + I)^-1)``, C summed over tokens.

    As FLAT-LLM's code has it (Tian et al. 2025). It looks neither at the weight nor, for sums over
    many tokens, at the size of activations.
    """
    wide = moment.double()
    ridge = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    # diag(C (C + I)^-1) = 1 - diag((C + I)^-1), which loses digits: the order is of the second
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(wide + ridge))
    return inverse.diagonal().argsort(stable=True)[:count]


def refit(
    weight: Float[Tensor, "out in"], moment: Float[Tensor, "in in"], kept: Int[Tensor, " kept"]
) -> Float[Tensor, "out kept"]:
    """The kept columns with what they predict of the others added, ``W C[:, T] C[T, T]^-1``.

    Written as ``W_T + W_S C[S, T] (C[T, T] + e)^-1`` with S the others and a small ridge e, so that
    it stands where the moment is singular, and gives the weight back where all columns are kept.
    """
    wide, columns = moment.double(), weight.double()
    rest = torch.ones(len(wide), dtype=torch.bool, device=wide.device)
    rest[kept] = False
    inner = wide[kept][:, kept]
    ridge = 16 * torch.finfo(moment.dtype).eps * inner.diagonal().mean()
    while True:
        inner.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if not failed:
            break
        ridge = 10 * ridge
    if not bool(ridge > 0):  # inputs that are always zero predict nothing
        return columns[:, kept]
    known = torch.cholesky_solve(wide[kept][:, rest] @ columns[:, rest].mT, factor)
    return columns[:, kept] + known.mT


def output_error(change: Float[Tensor, "out in"], moment: Float[Tensor, "in in"]) -> float:
    """``E |change x|^2``, the trace of ``change C change^T``."""
    wide = change.double()
    return float(((wide @ moment.double()) * wide).sum().clamp_min(0.0))
