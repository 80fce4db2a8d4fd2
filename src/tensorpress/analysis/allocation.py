"""How modules share a budget: ranks of least predicted damage, or shares by importance.

Every matrix has a curve, its damage at each number of values. Damages add up, so steps are taken in
the order of what they gain a value, along the lower convex hulls of the curves: that is the best
there is for as many values, but for what the last step, of one rank, leaves over.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tensorpress.errors import TensorpressError


@dataclass(frozen=True)
class Points:
    """Sizes of something that is sized as one: ``values``, growing, and ``damages`` of each."""

    values: NDArray
    damages: NDArray

    def hull(self, first: int, room: int) -> list[int]:
        """Points on the lower convex hull that lower the damage, of those in ``room`` more values.

        The first is the best of the size of ``first``.
        """
        last = int(np.searchsorted(self.values, self.values[first] + room, side="right"))
        kept: list[int] = []
        for point in range(first, last):
            if kept and self.damages[point] >= self.damages[kept[-1]]:
                continue
            if kept and self.values[point] == self.values[kept[-1]]:
                kept.pop()
            while len(kept) > 1 and self.gain(kept[-2], kept[-1]) <= self.gain(kept[-1], point):
                kept.pop()
            kept.append(point)
        return kept

    def gain(self, first: int, last: int) -> float:
        """Damage that going from one point to another saves, for each value that it takes."""
        saved = float(self.damages[first] - self.damages[last])
        return saved / self.cost(first, last)

    def cost(self, first: int, last: int) -> int:
        """Values that going from one point to another takes."""
        return int(self.values[last] - self.values[first])


@dataclass(frozen=True)
class Allocated:
    """The point of each curve, and what the first value would gain that there is no room for."""

    points: list[int]
    price: float


def allocate(curves: Sequence[Points], allowed: int) -> Allocated:
    """The points of least damage within ``allowed`` values in all.

    A step that there is no room for is replaced by the best ones that there is room for, on the
    hull of what the curve has within it.

    Raises:
        TensorpressError: the first points take more.
    """
    room = allowed - sum(int(curve.values[0]) for curve in curves)
    if room < 0:
        raise TensorpressError(
            f"budget.floor: the least ranks take {allowed - room} values, more than the {allowed} "
            "that budget.saved allows; allowed: a smaller floor"
        )
    # reversed, so that the next point is the last one
    ahead = [curve.hull(0, curve.cost(0, -1))[::-1] for curve in curves]
    points = [path.pop() for path in ahead]
    waiting: list[tuple[float, int]] = []

    def wait(item: int) -> None:
        if ahead[item]:
            heapq.heappush(waiting, (-curves[item].gain(points[item], ahead[item][-1]), item))

    for item in range(len(curves)):
        wait(item)
    price = None
    while waiting:
        negative, item = heapq.heappop(waiting)
        further = ahead[item][-1]
        cost = curves[item].cost(points[item], further)
        if cost > room:
            price = -negative if price is None else price
            ahead[item] = curves[item].hull(points[item], room)[:0:-1]
        else:
            points[item], room = ahead[item].pop(), room - cost
        wait(item)
    return Allocated(points, price or 0.0)


def shares_by_importance(importances: NDArray, values: NDArray, kept: float) -> NDArray:
    """Share of its values that each layer keeps, ``kept`` of all: in proportion, at most 1.

    FLAT-LLM's importance-preserving rank selection: shares above 1 become 1, and the others are
    scaled again until none is.
    """
    shares = np.zeros(len(values))
    free = np.ones(len(values), bool)
    left = kept * float(values.sum())
    while free.any():
        weighed = importances * values * free
        scale = left / weighed.sum() if weighed.any() else left / float((values * free).sum())
        wanted = scale * (importances if weighed.any() else np.ones(len(values)))
        over = free & (wanted > 1)
        if not over.any():
            shares[free] = wanted[free]
            break
        shares[over], free = 1.0, free & ~over
        left -= float(values[over].sum())
    return shares
