"""Which entries of a weight go: by magnitude, by Wanda, or by SparseGPT, which mends the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tensorpress.linalg.compensation import compensated, corrections


@dataclass(frozen=True)
class Pattern:
    """How many entries of a matrix go, and from where.

    ``gone``: of the whole matrix. ``group``: N of every M adjacent inputs are kept, else the rule
    says where entries are compared: Wanda in rows, SparseGPT in blocks. Of equal scores the first
    in reading order goes. ``published``: all go that are no larger than the first that should stay,
    as in the code of SparseGPT and of Wanda's magnitude pruning: one more than asked for at least.
    """

    gone: int
    group: tuple[int, int] | None = None
    published: bool = False


def by_magnitude(
    weight: Float[Tensor, "out in"], pattern: Pattern, kept: Bool[Tensor, "out in"] | None = None
) -> Bool[Tensor, "out in"]:
    """The mask of the largest entries, and of those of ``kept`` whatever their size."""
    scores = _guarded(weight.abs(), kept)
    if pattern.group:
        return _of_groups(scores, pattern.group)
    return _largest(scores, pattern.gone, pattern.published)


def by_wanda(
    weight: Float[Tensor, "out in"],
    moment: Float[Tensor, "in in"],
    pattern: Pattern,
    kept: Bool[Tensor, "out in"] | None = None,
) -> Bool[Tensor, "out in"]:
    """The mask of the largest ``|W_ij| sqrt(C_jj)`` of each row (Sun et al. 2024).

    Inputs that no token had, as of an expert that saw none, tell nothing: then by magnitude.
    """
    scales = moment.diagonal().clamp_min(0.0).sqrt().to(weight.dtype)
    if not bool(scales.any()):
        return by_magnitude(weight, pattern, kept)
    scores = _guarded(weight.abs() * scales, kept)
    if pattern.group:
        return _of_groups(scores, pattern.group)
    places = scores.argsort(dim=-1, stable=True)
    each = pattern.gone // len(weight)
    return torch.ones_like(scores, dtype=torch.bool).scatter(-1, places[:, :each], False)


def by_sparsegpt(
    weight: Float[Tensor, "out in"],
    moment: Float[Tensor, "in in"],
    pattern: Pattern,
    block: int,
    damping: float,
    kept: Bool[Tensor, "out in"] | None = None,
) -> tuple[Float[Tensor, "out in"], Bool[Tensor, "out in"]]:
    """The mended weight, zero where the mask is false, and the mask (Frantar and Alistarh 2023).

    Columns are pruned from left to right. At the start of each ``block`` of them, or of each group,
    the smallest ``w^2 / U_jj^2`` are chosen, with ``U^T U`` the inverse of the damped moment and U
    upper triangular; what a column loses is made up for by those to its right. Entries of ``kept``
    end at the values they had. Without a moment, as of an expert without tokens: by magnitude.
    """
    if not bool(moment.diagonal().any()):
        mask = by_magnitude(weight, pattern, kept)
        return weight * mask, mask
    count = weight.shape[1]
    # from the last to the first, for the columns that make up for an error stand before it
    order = torch.arange(count - 1, -1, -1, device=weight.device)
    pull, scale = corrections(moment, order, damping)
    columns = weight.mT[order].contiguous()
    own = columns.clone() if kept is not None else None
    guarded = None if kept is None else kept.mT[order]
    scale = scale.square()[:, None].to(weight.dtype)
    mask = torch.ones_like(columns, dtype=torch.bool)

    def scores(start: int, stop: int) -> Tensor:
        some = None if guarded is None else guarded[start:stop]
        return _guarded(columns[start:stop].square() / scale[start:stop], some)

    def begin(start: int, stop: int) -> None:
        if pattern.group is None:
            # so many in all, as evenly as whole numbers go; published: rounded in each block
            before = 0 if pattern.published else pattern.gone * (count - stop) // count
            until = stop - start if pattern.published else count - start
            gone = pattern.gone * until // count - before
            mask[start:stop] = _largest(scores(start, stop), gone, pattern.published)

    def replaced(k: int, column: Tensor) -> Tensor:
        if pattern.group and (count - 1 - k) % pattern.group[1] == 0:
            some = slice(k + 1 - pattern.group[1], k + 1)
            mask[some] = _of_groups(scores(some.start, some.stop).mT, pattern.group).mT
        pruned = column * mask[k]
        if guarded is None or own is None:
            return pruned
        return torch.where(guarded[k], own[k], pruned)

    columns = compensated(columns, pull, block, replaced, begin)
    return columns.flip(0).mT.contiguous(), mask.flip(0).mT.contiguous()


def _guarded(scores: Tensor, kept: Tensor | None) -> Tensor:
    return scores if kept is None else scores.masked_fill(kept, torch.inf)


def _largest(scores: Tensor, gone: int, published: bool) -> Tensor:
    """The mask of all but the ``gone`` smallest of all scores."""
    flat = scores.flatten()
    if published:
        return scores > flat.kthvalue(min(gone + 1, len(flat))).values
    smallest = flat.argsort(stable=True)[:gone]
    return torch.ones_like(flat, dtype=torch.bool).scatter(0, smallest, False).view(scores.shape)


def _of_groups(scores: Tensor, group: tuple[int, int]) -> Tensor:
    """The mask of the N largest of every M adjacent scores."""
    few, many = group
    groups = scores.unflatten(-1, (-1, many))
    smallest = groups.argsort(dim=-1, stable=True)[..., : many - few]
    return torch.ones_like(groups, dtype=torch.bool).scatter(-1, smallest, False).flatten(-2)
