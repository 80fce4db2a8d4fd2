"""Square roots of second moments, whole or as Kronecker products over modes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CLIP = 1e-3


def roots(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric ``S`` and ``S^-1`` with ``S S = moment``, float64, shape ``(n, n)``.

    Eigenvalues are clipped at ``CLIP`` of their mean (TD-MoE), so a moment of few tokens, or of
    none, can be undone; of a zero moment both are the identity.
    """
    wide = moment.double()
    squares, vectors = torch.linalg.eigh(wide)
    mean = float(squares.mean())
    if mean <= 0:
        identity = torch.eye(wide.shape[0], dtype=wide.dtype, device=wide.device)
        return identity, identity
    values = squares.clamp_min(CLIP * mean).sqrt()
    return (vectors * values) @ vectors.mT, (vectors / values) @ vectors.mT


def mode_roots(moment: Tensor, modes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """``roots`` of one factor a mode, whose Kronecker product stands for ``moment (n, n)``.

    Factor k is the partial trace of the moment over all other modes, scaled to mean one: exact
    where the moment is a Kronecker product, the best separate description of each mode where
    it is not. A tensor train whitened so keeps its ranks when the roots are undone.
    """
    order = len(modes)
    wide = moment.double().reshape(*modes, *modes)
    found = []
    for k in range(order):
        others = [m for m in range(order) if m != k]
        labels = list(range(order)) + [order if m == k else m for m in range(order)]
        factor = torch.einsum(wide, labels, [k, order]) if others else wide
        mean = factor.diagonal().mean().clamp_min(1e-300)
        found.append(roots(factor / mean))
    return found
