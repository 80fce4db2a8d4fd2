"""Bases in which the values of an attention head are cut: ``left right`` is the projection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

RANGE = 1e-6
"""Least moment of a direction that values are known to have, relative to the largest."""


@dataclass(frozen=True)
class Turn:
    """Values ``x`` become ``right x`` and are read by ``left``; ``right left`` is the identity.

    ``gains`` are what each direction adds, of all that there are, largest first.
    """

    left: Float[Tensor, "width rank"]
    right: Float[Tensor, "rank width"]
    gains: Float[Tensor, " width"]


def principal_basis(
    weight: Float[Tensor, "width in"], inputs: Float[Tensor, "in in"] | None, rank: int
) -> Turn:
    """The principal axes of a head's outputs, as FLAT-LLM takes them; not centred."""
    wide = weight.double()
    moment = wide @ wide.mT if inputs is None else wide @ inputs.double() @ wide.mT
    values, directions = torch.linalg.eigh(moment)
    left = directions.flip(-1)[:, :rank]
    return Turn(left, left.mT, values.flip(-1))


def output_basis(
    readers: Float[Tensor, "heads out width"],
    context: Float[Tensor, "width width"] | None,
    gradient: Float[Tensor, "1 out"] | None,
    rank: int,
) -> Turn:
    """The projection of least ``sum_h |D O_h (1 - P) S|^2`` over the query heads that read values.

    ``context``: the mean moment ``S S^T`` of what they read; ``gradient``: the squares of ``D``.
    """
    weighed = readers.double()
    if gradient is not None:
        weighed = weighed * gradient.double().sqrt()[..., None]
    gram = (weighed.mT @ weighed).sum(0)
    if context is None or not bool(context.diagonal().any()):
        values, directions = torch.linalg.eigh(gram)
        left = directions.flip(-1)[:, :rank]
        return Turn(left, left.mT, values.flip(-1))
    squares, axes = torch.linalg.eigh(context.double())
    met = squares > RANGE * squares[-1]
    roots, inside, outside = squares[met].sqrt(), axes[:, met], axes[:, ~met]
    values, directions = torch.linalg.eigh((inside * roots).mT @ gram @ (inside * roots))
    best = directions.flip(-1)[:, :rank]
    # directions that no values have are as good as any others
    spare = outside[:, : rank - best.shape[1]]
    left = torch.cat([inside * roots @ best, spare], dim=1)
    right = torch.cat([inside / roots @ best, spare], dim=1).mT
    return Turn(left, right, torch.cat([values.flip(-1), values.new_zeros(outside.shape[1])]))
