"""Relative errors of stacks, and their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def of_spectra(spectra: Mapping[str, Tensor], ranks: Mapping[str, Any]) -> tuple[float, float]:
    """Bounds of the relative error of factors truncated in the modes that have a spectrum.

    ``spectra``: all squared singular values of a mode's unfolding, largest first, by the name of
    its rank. ``max_n tail_n <= error^2 <= sum_n tail_n`` (De Lathauwer et al. 2000); with one mode
    both are the error.
    """
    total = max((float(s.sum()) for s in spectra.values()), default=0.0)
    if not total:
        return 0.0, 0.0
    tails = [float(squares[ranks[name] :].sum()) for name, squares in spectra.items()]
    return math.sqrt(max(tails) / total), math.sqrt(sum(tails) / total)


def joint(relative: list[float | None], squared_norms: list[float]) -> float | None:
    """Relative error of a stack from those of its slices."""
    known = [r for r in relative if r is not None]
    if len(known) < len(relative):
        return None
    total = sum(squared_norms)
    error = sum(r * r * n for r, n in zip(known, squared_norms, strict=True))
    return (error / total) ** 0.5 if total else 0.0
