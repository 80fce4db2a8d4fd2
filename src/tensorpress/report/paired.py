"""Differences of runs that read the same windows or items, each by itself the other's control.

Two such runs lose most at the same places, so the spread of their difference is far below that of
either. Observations that differ in number belong to different texts and cannot be paired, nor can
those that are unknown.

Neighbours in a text are alike, so that means of blocks of them are taken for independent, not they
themselves (batch means; Schmeiser 1982 finds 10 to 30 batches enough). Of the embedded prose's 161
windows blocks give intervals 1.4 times as wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, stdtr, stdtrit

LEVEL = 0.95
"""Of every interval."""
BLOCKS = 20
"""That many observations are put into; fewer than twice as many are blocks of one."""

Observations = Sequence[float] | Sequence[float | None] | None


@dataclass(frozen=True)
class Difference:
    """A mean difference with half the width of its interval, by Student's t."""

    mean: float
    half_width: float
    degrees: int


def difference(one: Observations, other: Observations) -> Difference | None:
    """``other - one``, paired; of fewer than two pairs there is no interval, so nothing."""
    found = _differences(one, other)
    if found is None or len(found) < 2:
        return None
    mean = float(found.mean())
    return Difference(mean, *_half_width(found - mean, fitted=1))


def mean_half_width(observations: Observations) -> float | None:
    """Half the interval of the mean of one run's observations; of one alone there is none."""
    found = difference([0.0] * len(observations or ()), observations)
    return None if found is None else found.half_width


def difference_of_best(
    even_one: Observations,
    even_other: Observations,
    odd_one: Observations,
    odd_other: Observations,
) -> Difference | None:
    """``other - one`` of two runs that are each the best of several, whoever these are.

    The first two are those that are best on the even observations (the second, the fourth), the
    last two those on the odd ones. Each pair is compared where it was not chosen, and the two
    differences averaged: to choose and to estimate on the same text flatters the winner. Nothing
    of fewer than two observations a half.
    """
    chosen_on_even, chosen_on_odd = (
        _differences(even_one, even_other),
        _differences(odd_one, odd_other),
    )
    if chosen_on_even is None or chosen_on_odd is None:
        return None
    halves = [chosen_on_even[1::2], chosen_on_odd[::2]]
    if min(map(len, halves)) < 2:
        return None
    residuals = np.empty_like(chosen_on_even)
    for start, half in zip((1, 0), halves, strict=True):
        residuals[start::2] = half - half.mean()
    mean = float(sum(half.mean() for half in halves)) / 2
    return Difference(mean, *_half_width(residuals, fitted=2))


def two_sided(difference: float, half_width: float, degrees: int | None) -> float:
    """The p-value of no difference by its interval; by the normal law where degrees are unknown."""
    if not half_width:
        return 1.0 if not difference else 0.0
    bound = math.inf if degrees is None else degrees
    return 2 * float(stdtr(bound, -abs(difference) / half_width * t_quantile(bound)))


def mcnemar(one: Observations, other: Observations) -> float | None:
    """Exact p-value of no difference between right and wrong answers (1 and 0) to the same items.

    McNemar (1947): of the items on which the two differ, each is as likely to go either way.
    """
    found = _differences(one, other)
    if found is None or not set(np.unique(found)) <= {-1.0, 0.0, 1.0}:
        return None
    better, worse = int((found > 0).sum()), int((found < 0).sum())
    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))


def t_quantile(degrees: float) -> float:
    """Student's t beyond which lies half of what an interval leaves out."""
    return float(stdtrit(degrees, (1 + LEVEL) / 2))


def _differences(one: Observations, other: Observations) -> np.ndarray | None:
    if one is None or other is None or len(one) != len(other) or None in (*one, *other):
        return None
    return np.asarray(other) - np.asarray(one)


def _half_width(residuals: np.ndarray, fitted: int) -> tuple[float, int]:
    """Of the interval of a mean, and its degrees; residuals are over so many ``fitted`` means."""
    count = len(residuals)
    blocks = np.array_split(residuals, count if count < 2 * BLOCKS else BLOCKS)
    degrees = len(blocks) - fitted
    spread = sum(float(block.sum()) ** 2 for block in blocks) * len(blocks) / degrees
    return t_quantile(degrees) * math.sqrt(spread) / count, degrees
