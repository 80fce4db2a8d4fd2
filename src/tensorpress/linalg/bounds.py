"""Relative errors of stacks."""

from __future__ import annotations


def joint(relative: list[float | None], squared_norms: list[float]) -> float | None:
    """Relative error of a stack from those of its slices."""
    known = [r for r in relative if r is not None]
    if len(known) < len(relative):
        return None
    total = sum(squared_norms)
    error = sum(r * r * n for r, n in zip(known, squared_norms, strict=True))
    return (error / total) ** 0.5 if total else 0.0
