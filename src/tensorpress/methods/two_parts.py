"""A matrix as the sum of two parts, each fitted in turn to what the other leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format

Fit = Callable[["Tensor"], "Format"]
"""Matrices ``(S, out, in)`` -> the format that stands for them."""


def best_sum(
    stack: Tensor,
    moment: Tensor | None,
    base: Fit,
    correction: Fit,
    starts: Sequence[Fit | None],
    sweeps: int,
) -> Format:
    """The ``sum`` of a base and a correction of ``stack (S, out, in)`` that errs least.

    From each of ``starts``, a first correction (none: zero), every sweep fits the base to what the
    correction leaves and the correction to what the base leaves (LoftQ, CALDERA, HASSLE-free). Of
    all pairs the best is kept, for a half that is not exact may make a pair worse. ``moment
    (S, in, in)``: of the inputs, by which errors are weighed.
    """
    from tensorpress.formats.sum import Sum

    best, least = None, float("inf")
    for start in starts:
        added = None if start is None else start(stack).stacked()
        for _ in range(sweeps):
            own = base(stack if added is None else stack - added.to(stack))
            rest = stack - own.stacked().to(stack)
            other = correction(rest)
            added = other.stacked()
            error = weighed_square(rest - added.to(stack), moment)
            if error < least or best is None:
                best, least = Sum(base=own, correction=other), error
    assert best is not None, "there is a start, and a sweep"
    return best


def weighed_square(change: Tensor, moment: Tensor | None) -> float:
    """Sum over the slices of ``tr(D C D^T)``; without a moment of the squares."""
    import torch

    total = 0.0
    for index, each in enumerate(change):
        inputs = None if moment is None else moment[index]
        if inputs is None or not bool(inputs.diagonal().any()):
            total += float(each.double().square().sum())
        else:
            total += float(((each @ inputs.to(each)) * each).sum(dtype=torch.float64))
    return total
