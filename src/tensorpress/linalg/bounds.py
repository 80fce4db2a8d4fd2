"""Relative errors of stacks, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tensorpress.linalg.gram import SAFE_TAIL

GRAM_ERROR = 5e-7
"""What tails from float32 Gram matrices are off by, of all energy; smaller ones than ``SAFE_TAIL``
come from float64 (``gram.py``), so that none is off by more than ``GRAM_ERROR / SAFE_TAIL`` of
itself."""
WIDE_ERROR = 1e-12
"""The same of float64."""
REBUILT_ERROR = 1e-6
"""Relative: factors are stored, and matrices rebuilt from them, in float32."""


def of_tails(tails: Sequence[float], total: float) -> tuple[float, float]:
    """Bounds of the relative error from squared tails of unfoldings and the energy of the whole.

    ``max_n tail_n <= error^2 <= sum_n tail_n`` (De Lathauwer et al. 2000), each moved by what
    rounding allows: the Gram matrix of a rank-deficient stack has tails that are nothing else.
    """
    if not total or not tails:
        return 0.0, 0.0
    lower, upper = max(tails), sum(tails)
    least = math.sqrt(max(lower - _rounding(lower, total), 0.0) / total)
    most = math.sqrt((upper + len(tails) * _rounding(upper, total)) / total)
    return max(least - REBUILT_ERROR, 0.0), most + REBUILT_ERROR


def _rounding(tail: float, total: float) -> float:
    return min(GRAM_ERROR / SAFE_TAIL * tail, GRAM_ERROR * total) + WIDE_ERROR * total


def certain(squares: Tensor) -> Tensor:
    """A spectrum ``(n,)`` from float32 products without what may be nothing but their rounding."""
    tails = squares.flip(-1).cumsum(-1).flip(-1)
    return squares * (tails >= SAFE_TAIL * squares.sum())


def of_spectra(spectra: Mapping[str, Tensor], ranks: Mapping[str, Any]) -> tuple[float, float]:
    """Bounds of the relative error of factors truncated in the modes that have a spectrum.

    ``spectra``: all squared singular values of a mode's unfolding, largest first, by the name of
    its rank. With one mode both are the error, but for rounding.
    """
    total = max((float(s.sum()) for s in spectra.values()), default=0.0)
    return of_tails([float(s[ranks[name] :].sum()) for name, s in spectra.items()], total)


def joint(relative: list[float | None], squared_norms: list[float]) -> float | None:
    """Relative error of a stack from those of its slices."""
    known = [r for r in relative if r is not None]
    if len(known) < len(relative):
        return None
    total = sum(squared_norms)
    error = sum(r * r * n for r, n in zip(known, squared_norms, strict=True))
    return (error / total) ** 0.5 if total else 0.0
