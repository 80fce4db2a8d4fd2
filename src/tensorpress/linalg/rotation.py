"""Rotations of activations: the directions that hold most of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from tensorpress.linalg.gram import eigenpairs


def leading_directions(
    moments: Iterable[Float[Tensor, "d d"]], width: int
) -> Float[Tensor, "d width"]:
    """Orthonormal eigenvectors of the sum of moments, of the largest values first, in float64."""
    each = iter(moments)
    total = next(each).to(torch.float64, copy=True)
    for moment in each:
        total += moment
    _, vectors = eigenpairs(total)
    return vectors[:, -width:].flip(-1)
