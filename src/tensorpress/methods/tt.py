"""``tt``: each matrix as a TT-matrix of balanced or searched modes, of given size or error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.keying.keys import unkeyed
from tensorpress.linalg.tt_shapes import EXACT_SIDE, TTShape, tt_ranks
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import WhitenedSpec
from tensorpress.methods.budget import Budget
from tensorpress.methods.cost import VECTORS, Cost
from tensorpress.methods.factors import Factors, by_layout, output_gradients, stacked, with_layouts
from tensorpress.methods.layout import Layout, sizes_of

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.linalg.weighted_train import ModeRoots, Train


class TrainSpec(WhitenedSpec):
    """What every method made of tensor trains takes: order, and rank or budget."""

    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    order: int = Field(12, ge=2, le=16, description="number of cores")
    rank: int | None = Field(None, ge=1, description="largest TT rank")
    budget: Budget | None = None

    def rank_of(self, shape: TTShape, dense: int, where: str, slices: int = 1) -> int:
        """The maximal rank of trains of ``shape``; ``slices`` of them replace ``dense`` values.

        ``TensorpressError`` if the given rank, or rank 1 under the budget, is too large for them.
        """
        limit = dense // slices
        if self.rank is not None:
            if self.rank > limit:
                raise TensorpressError(
                    f"rank: {self.rank} is above the limit at {where}; allowed: 1 to {limit}"
                )
            return self.rank
        assert self.budget is not None
        largest = max(tt_ranks(shape.modes, limit))
        return self.budget.largest(largest, lambda r: slices * shape.values(r), dense, where)

    def modes_for(self, shape: ModuleShape) -> TTShape:
        """The modes of the trains of a module: the study's."""
        return TTShape.balanced(shape.in_features, shape.out_features, self.order)

    def train_settings(self, shape: ModuleShape, where: str, dense: int) -> dict[str, Any]:
        """Settings of the ``TTMatrix`` that stores matrices of ``shape``."""
        modes = self.modes_for(shape)
        rank = self.rank_of(modes, dense, where, shape.slices)
        return tt_settings(shape, modes, tt_ranks(modes.modes, rank))

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        return self.train_cost(layout.settings)

    @unkeyed
    def train_cost(self, settings: dict[str, Any]) -> Cost:
        """What trains of the slices take, made one by one."""
        shape, rank = modes_of(settings), max(settings["ranks"])
        dense = math.prod(shape.modes)
        held = (6 if self.needs_moments else 4) * dense + 2 * EXACT_SIDE**2
        macs = settings["slices"] * dense * self.order * (6 * rank + EXACT_SIDE)
        return Cost(settings["slices"] * shape.values(rank), held, macs)


class Spec(TrainSpec):
    """``shape``: modes as equal as the primes allow, or the best found for the weights."""

    approach: ClassVar[Approach] = "tensor format"
    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget", "error")

    method: Literal["tt"]
    error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="largest relative error of each matrix; whitened: of the whitened one",
    )
    shape: Literal["balanced", "search"] = Field(
        "balanced",
        description="search: modes of least error at the balanced ones' size, "
        "or of fewest values at the given error",
    )
    modes: Literal["paired", "apart"] = Field(
        "paired",
        description="of a core: one of the inputs and one of the outputs, or one of either; apart, "
        "sides without small factors are padded, and an embedding is looked up by slices",
    )

    @model_validator(mode="after")
    def _searches_pairs(self) -> Self:
        if self.shape == "search" and self.modes == "apart":
            raise ValueError("shape: 'search' is not allowed with modes: apart; allowed: balanced")
        return self

    @property
    def sized_by_weights(self) -> bool:
        return self.error is not None

    def modes_for(self, shape: ModuleShape) -> TTShape:
        if self.modes == "paired":
            return super().modes_for(shape)
        return TTShape.apart(shape.in_features, shape.out_features, self.order)

    def rank_of(self, shape: TTShape, dense: int, where: str, slices: int = 1) -> int:
        if self.error is not None:
            return dense // slices
        return super().rank_of(shape, dense, where, slices)

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [
            Layout((module,), "tt_matrix", self.train_settings(shape, module, shape.numel))
            for module, shape in layer.group(group).items()
        ]

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        shape, cost = layer.modules[layout.modules[0]], super().cost(layout, layer)
        if self.error is not None:
            # all slices at once, and the eigenvectors of their most square unfoldings
            cost = Cost(shape.numel, int((6 + VECTORS) * shape.numel), 20 * cost.macs)
        return cost if self.shape == "balanced" else replace(cost, macs=100 * cost.macs)


EXAMPLE = Spec(method="tt", order=3, rank=4)


def tt_settings(shape: ModuleShape, modes: TTShape, ranks: Sequence[int]) -> dict[str, Any]:
    """Settings of the ``TTMatrix`` of these modes and ranks."""
    return {
        **sizes_of(shape),
        "in_modes": list(modes.in_modes),
        "out_modes": list(modes.out_modes),
        "ranks": list(ranks),
    }


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """TT-SVD of every matrix (Oseledets 2011) with the bounds of its unfoldings."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module = layout.modules[0]
        metric = metric_of(moments, module, spec)
        fitted = _of_size if spec.error is None else _within_error
        stack = padded(stack, modes_of(layout.settings))
        shape, trains, gain = fitted(stack, layout.settings, spec, metric)
        settings = tt_settings(layer.modules[module], shape, trains[0].ranks)
        store = Layout(layout.modules, layout.format, settings).build()
        store.fill(**core_values([train.cores for train in trains]))
        factors.append(Factors(layout.modules, store, *stack_bounds(trains, stack), gain))
    return factors


def sizes_up_to(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    largest: Spec,
    moments: Mapping[str, Tensor] | None,
) -> Callable[[Spec], list[Factors]]:
    """``decompose`` of any size of balanced modes up to the ``largest``, without bounds."""
    from tensorpress.linalg.weighted_train import trains_of_ranks

    def started(first: Layout, stacks: list[Tensor]) -> Callable[[Layout], Factors]:
        modules, shape = first.modules, modes_of(first.settings)
        metric = metric_of(moments, modules[0], largest)
        roots = None if metric is None else metric.roots(shape)
        trains_of = trains_of_ranks(padded(stacks[0], shape), shape, roots)

        def fit(layout: Layout) -> Factors:
            trains = trains_of(max(layout.settings["ranks"]))
            return Factors(modules, layout.build().fill(**core_values(trains)))

        return fit

    return by_layout(weights, layer, largest, started)


@dataclass(frozen=True)
class Metric:
    """What the errors of S matrices are weighed by: moments of inputs, gradients of outputs."""

    moments: Tensor
    """``(S, in, in)``"""
    gradients: Tensor | None
    """``(S, out)``"""

    def roots(self, shape: TTShape) -> list[ModeRoots]:
        """For each matrix as a train of these modes."""
        from tensorpress.linalg.weighted_train import ModeRoots

        gradients: Sequence[Tensor | None] = [None] * len(self.moments)
        if self.gradients is not None:
            gradients = list(padded(self.gradients[..., None], shape)[..., 0])
        pairs = zip(self.moments, gradients, strict=True)
        return [ModeRoots.of(shape, moment, gradient) for moment, gradient in pairs]


def padded(stack: Tensor, shape: TTShape) -> Tensor:
    """``stack (S, out, in)`` with rows of zeros behind the others, as many as ``shape`` has."""
    from torch.nn.functional import pad

    if shape.rows == stack.shape[1]:
        return stack
    return pad(stack, (0, 0, 0, shape.rows - stack.shape[1]))


def metric_of(
    moments: Mapping[str, Tensor] | None, module: str, spec: WhitenedSpec
) -> Metric | None:
    """What weighs the errors of a module, if anything does."""
    if moments is None:
        return None
    return Metric(stacked(moments[module]), output_gradients(moments, module, spec))


def _of_size(
    stack: Tensor, settings: dict[str, Any], spec: Spec, metric: Metric | None
) -> tuple[TTShape, list[Train], float | None]:
    """Modes and trains at most as large as the layout, and the searched modes' error ratio."""
    from tensorpress.linalg.shape_search import search_shape

    shape, rank, gain = modes_of(settings), max(settings["ranks"]), None
    if spec.shape == "search":
        found = search_shape(stack, shape, rank)
        shape, rank, gain = found.shape, found.rank, found.gain
    return shape, trains_of(stack, shape, rank, metric), gain


def _within_error(
    stack: Tensor, settings: dict[str, Any], spec: Spec, metric: Metric | None
) -> tuple[TTShape, list[Train], float | None]:
    """Modes and trains within the error, and the searched modes' size ratio."""
    from tensorpress.linalg.shape_search import search_smallest
    from tensorpress.linalg.weighted_train import train_targets, trains_within

    assert spec.error is not None
    balanced = modes_of(settings)

    def roots(shape: TTShape) -> list[ModeRoots] | None:
        return None if metric is None else metric.roots(shape)

    trains = trains_within(stack, balanced, spec.error, roots(balanced))
    if spec.shape == "balanced":
        return balanced, trains, None
    shape = search_smallest(lambda s: train_targets(stack, s, roots(s)), balanced, spec.error)
    searched = trains_within(stack, shape, spec.error, roots(shape))
    gain = searched[0].values / trains[0].values
    # evolving shapes are compared under one maximal rank, of which trains are then cut further
    return (shape, searched, gain) if gain < 1 else (balanced, trains, 1.0)


def modes_of(settings: dict[str, Any]) -> TTShape:
    """The modes in a ``TTMatrix``'s settings."""
    return TTShape(tuple(settings["in_modes"]), tuple(settings["out_modes"]))


def train_stack(stack: Tensor, settings: dict[str, Any], metric: Metric | None) -> list[Train]:
    """The train of each matrix of ``stack (S, out, in)``, of the modes and rank of ``settings``."""
    return trains_of(stack, modes_of(settings), max(settings["ranks"]), metric)


def trains_of(stack: Tensor, shape: TTShape, rank: int, metric: Metric | None) -> list[Train]:
    """The train of each matrix of ``stack (S, out, in)`` under one maximal rank."""
    from tensorpress.linalg.weighted_train import train_matrix

    roots = [None] * len(stack) if metric is None else metric.roots(shape)
    pairs = zip(stack, roots, strict=True)
    return [train_matrix(matrix, shape, rank, each) for matrix, each in pairs]


def core_values(trains: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Values of a ``TTMatrix``'s factors, from the cores of each slice."""
    import torch

    columns = zip(*trains, strict=True)
    return {f"core_{k}": torch.stack(list(cores)).float() for k, cores in enumerate(columns)}


def stack_bounds(trains: Sequence[Train], stack: Tensor) -> tuple[float | None, float | None]:
    """Bounds of the stack's relative error, from those of its slices."""
    from tensorpress.linalg.bounds import joint

    norms = [float(matrix.double().square().sum()) for matrix in stack]
    lower = joint([train.lower for train in trains], norms)
    return lower, joint([train.upper for train in trains], norms)
