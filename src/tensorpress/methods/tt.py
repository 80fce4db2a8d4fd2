"""``tt``: each matrix as a TT-matrix of balanced or searched modes and one maximal rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tensorpress.errors import TensorpressError
from tensorpress.layers import LayerShape, ModuleShape
from tensorpress.linalg.tt_shapes import TTShape, tt_ranks
from tensorpress.methods.base import (
    Budget,
    Factors,
    Layout,
    WhitenedSpec,
    sizes_of,
    stacked,
    with_layouts,
)

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.linalg.weighted_train import Train


class TrainSpec(WhitenedSpec):
    """What every method made of tensor trains takes: order, and rank or budget."""

    sized_by: ClassVar[tuple[str, ...]] = ("rank", "budget")

    order: int = Field(12, ge=2, le=16, description="number of cores")
    rank: int | None = Field(None, ge=1, description="largest TT rank")
    budget: Budget | None = None

    def rank_of(self, shape: TTShape, dense: int, where: str, slices: int = 1) -> int:
        """The maximal rank of trains of ``shape``; ``slices`` of them replace ``dense`` values."""
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

    def train_settings(self, shape: ModuleShape, where: str, dense: int) -> dict[str, Any]:
        """Settings of the balanced ``TTMatrix`` that stores matrices of ``shape``."""
        modes = TTShape.balanced(shape.in_features, shape.out_features, self.order)
        return tt_settings(shape, modes, self.rank_of(modes, dense, where, shape.slices))


class Spec(TrainSpec):
    """``shape``: modes as equal as the primes allow, or the best found for the weights."""

    method: Literal["tt"]
    shape: Literal["balanced", "search"] = Field(
        "balanced", description="search: modes of least error at the size of the balanced ones"
    )

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        return [
            Layout((module,), "tt_matrix", self.train_settings(shape, module, shape.numel))
            for module, shape in layer.group(group).items()
        ]


def tt_settings(shape: ModuleShape, modes: TTShape, rank: int) -> dict[str, Any]:
    """Settings of the ``TTMatrix`` of these modes under one maximal rank."""
    return {
        **sizes_of(shape),
        "in_modes": list(modes.in_modes),
        "out_modes": list(modes.out_modes),
        "ranks": tt_ranks(modes.modes, rank),
    }


def decompose(
    weights: dict[str, Tensor], layer: LayerShape, spec: Spec, moments: dict[str, Tensor] | None
) -> list[Factors]:
    """TT-SVD of every matrix (Oseledets 2011) with the bounds of its unfoldings."""
    from tensorpress.linalg.shape_search import search_shape

    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module = layout.modules[0]
        moment = None if moments is None else stacked(moments[module])
        settings, gain = layout.settings, None
        if spec.shape == "search":
            found = search_shape(stack, modes_of(settings), max(settings["ranks"]))
            shape = layer.modules[module]
            settings, gain = tt_settings(shape, found.shape, found.rank), found.gain
            layout = Layout(layout.modules, layout.format, settings)
        trains = train_stack(stack, settings, moment)
        store = layout.build().fill(**core_values([train.cores for train in trains]))
        factors.append(Factors(layout.modules, store, *stack_bounds(trains, stack), gain))
    return factors


def modes_of(settings: dict[str, Any]) -> TTShape:
    """The modes in a ``TTMatrix``'s settings."""
    return TTShape(tuple(settings["in_modes"]), tuple(settings["out_modes"]))


def train_stack(stack: Tensor, settings: dict[str, Any], moment: Tensor | None) -> list[Train]:
    """The train of each matrix of ``stack (S, out, in)``."""
    from tensorpress.linalg.weighted_train import train_matrix

    shape, rank = modes_of(settings), max(settings["ranks"])
    return [
        train_matrix(matrix, shape, rank, None if moment is None else moment[index])
        for index, matrix in enumerate(stack)
    ]


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
