"""A matrix as the sum of two parts, each fitted in turn to what the other leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format
    from tensorpress.methods.tt import Metric

Fit = Callable[["Tensor"], "Format"]
"""Matrices ``(S, out, in)`` -> the format that stands for them."""


def best_sum(
    stack: Tensor,
    metric: Metric | None,
    base: Fit,
    correction: Fit,
    starts: Sequence[Fit | None],
    sweeps: int,
) -> Format:
    """The ``sum`` of a base and a correction of ``stack (S, out, in)`` that errs least.

    From each of ``starts``, a first correction (none: zero), every sweep fits the base to what the
    correction leaves and the correction to what the base leaves (LoftQ, CALDERA, HASSLE-free). Of
    all pairs the best is kept, for a half that is not exact may make a pair worse. Errors are
    weighed by ``metric``.
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
            error = weighed_square(rest - added.to(stack), metric)
            if error < least or best is None:
                best, least = Sum(base=own, correction=other), error
    assert best is not None, "there is a start, and a sweep"
    return best


def weighed_square(change: Tensor, metric: Metric | None) -> float:
    """Sum over the slices of ``sum_o g_o (D C D^T)_oo``; without a metric of the squares."""
    if metric is None:
        return float(change.double().square().sum())
    total = 0.0
    for index, each in enumerate(change):
        outputs = ((each @ metric.moments[index].to(each)) * each).sum(1).double()
        if metric.gradients is not None:
            outputs = outputs * metric.gradients[index]
        total += float(outputs.sum())
    return total
