"""How the modules of a step share one budget (``analysis.allocation``), from what layers may be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tensorpress.analysis.allocation import Points, allocate, shares_by_importance
from tensorpress.architectures.layers import ModuleShape
from tensorpress.methods.advised import Options
from tensorpress.methods.allocation import Allocation, Curve, LayerShare
from tensorpress.methods.budget import Budget, Ranked
from tensorpress.planning.artifacts import AdviceArtifact


def allocated(options: Sequence[Options], made: AdviceArtifact) -> Allocation:
    """What each module gets; ``options`` of the layers of ``made.scope``."""
    budget, shapes = made.spec.shared_budget, made.shapes
    assert budget is not None
    if budget.allocate == "importance":
        return by_importance([each.importance or 0.0 for each in options], shapes, budget)
    curves = (curve for each in options for curve in each.curves)
    return by_loss([each for each in curves if each.module in shapes[each.layer]], budget)


def by_loss(curves: Sequence[Curve], budget: Budget) -> Allocation:
    """Ranks of least predicted damage; what is sized together has the same share of its values."""
    groups: dict[tuple[object, ...], list[Curve]] = {}
    for curve in curves:
        own = (curve.layer, curve.module, curve.index)
        depth = {"layer": 1, "module": 2, "matrix": 3}[budget.granularity]
        groups.setdefault(own[:depth], []).append(curve)
    sized = [_Sized(tuple(each), budget.floor) for each in groups.values()]
    dense = sum(curve.whole_values for curve in curves)
    found = allocate([each.points for each in sized], budget.allowed(dense))
    ranks: dict[int, dict[str, list[int | None]]] = {}
    stored: Counter[int] = Counter()
    whole: Counter[int] = Counter()
    for each, point in zip(sized, found.points, strict=True):
        for curve, rank in zip(each.curves, each.ranks(point), strict=True):
            ranks.setdefault(curve.layer, {}).setdefault(curve.module, []).append(rank)
            whole[curve.layer] += curve.whole_values
            stored[curve.layer] += _values_at(curve, rank)
    return Allocation(
        saved=budget.saved,
        dense_values=dense,
        stored_values=stored.total(),
        damage=sum(float(e.points.damages[p]) for e, p in zip(sized, found.points, strict=True)),
        price=found.price,
        layers=tuple(
            LayerShare(
                layer=layer,
                kept=stored[layer] / whole[layer],
                ranks=tuple(Ranked(module=m, ranks=tuple(each)) for m, each in modules.items()),
            )
            for layer, modules in ranks.items()
        ),
    )


@dataclass(frozen=True)
class _Sized:
    """Matrices whose ranks are the same share of the most that each may have."""

    curves: tuple[Curve, ...]
    floor: int

    @property
    def steps(self) -> int:
        """Shares before the last, at which all matrices are whole."""
        return max(len(curve.damages) for curve in self.curves)

    def ranks(self, point: int) -> list[int | None]:
        """The rank of each matrix at a share."""
        if point == self.steps:
            return [None] * len(self.curves)
        most = (len(curve.damages) - 1 for curve in self.curves)
        return [max(self.floor, limit * point // max(self.steps - 1, 1)) for limit in most]

    @cached_property
    def points(self) -> Points:
        """Values and damage at every share."""
        at = [self.ranks(point) for point in range(self.steps + 1)]
        pairs = [list(zip(self.curves, ranks, strict=True)) for ranks in at]
        values = [sum(_values_at(curve, rank) for curve, rank in pair) for pair in pairs]
        damages = [
            sum(0.0 if rank is None else curve.damages[rank] for curve, rank in pair)
            for pair in pairs
        ]
        return Points(np.array(values, np.int64), np.array(damages))


def _values_at(curve: Curve, rank: int | None) -> int:
    return curve.whole_values if rank is None else rank * curve.rank_values


def by_importance(
    importances: Sequence[float], shapes: Mapping[int, Mapping[str, ModuleShape]], budget: Budget
) -> Allocation:
    """Shares of layers by how far they turn what they read; ``shapes`` by layer and module."""
    values = np.array([sum(each.numel for each in modules.values()) for modules in shapes.values()])
    shares = shares_by_importance(np.array(importances), values, 1.0 - budget.saved)
    return Allocation(
        saved=budget.saved,
        dense_values=int(values.sum()),
        stored_values=int((shares * values).sum()),
        layers=tuple(
            LayerShare(layer=layer, kept=float(share))
            for layer, share in zip(shapes, shares, strict=True)
        ),
    )
