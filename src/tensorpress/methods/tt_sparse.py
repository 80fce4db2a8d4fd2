"""``tt_sparse``: a tensor train of the inliers, the largest entries exactly.

After Saten ("Sparse augmented tensor networks for post-training compression of large language
models", 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.errors import TensorpressError
from tensorpress.formats.coordinates import coordinate_bits
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.cost import Cost
from tensorpress.methods.factors import Factors, with_layouts
from tensorpress.methods.layout import Layout
from tensorpress.methods.super_weights import Coordinate, KeepsSuperWeights, require_inside
from tensorpress.methods.tt import TrainSpec, core_values, metric_of, stack_bounds, train_stack

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.formats.base import Format
    from tensorpress.linalg.weighted_train import Train
    from tensorpress.methods.tt import Metric

Places = tuple["Tensor", "Tensor"]
"""Rows and columns of entries."""


class Spec(KeepsSuperWeights, TrainSpec):
    """Which entries are kept: the largest ones, and any that are given.

    ``keep`` holds for every matrix, each of ``super_weights`` for the layer and module it names.
    Super weights are restored exactly, and with ``split: residual`` or ``alternate`` all kept
    entries are; with ``outliers`` what the train has there is added to the others.
    """

    approach: ClassVar[Approach] = "tensor format"

    method: Literal["tt_sparse"]
    outliers: float = Field(5e-7, gt=0, lt=1, description="share of entries kept, at least one")
    keep: tuple[Coordinate, ...] = Field((), description="(row, column) of entries always kept")
    split: Literal["outliers", "residual", "alternate"] = Field(
        "outliers",
        description="outliers: entries of the weights are set aside first; residual: the train is "
        "first, and entries are what it errs by most (Saten); alternate: both in turn",
    )
    sweeps: int = Field(10, ge=1, description="of alternate")

    def layouts(self, layer: LayerShape, group: str) -> list[Layout]:
        found = []
        for module, shape in layer.group(group).items():
            require_inside("keep", self.keep, shape, module)
            given = self.given(layer, module)
            count = self.kept(shape) + len(given)
            bits = sum(coordinate_bits(shape.out_features, shape.in_features))
            # a kept entry takes the space of its value and of its packed coordinates
            sparse = shape.slices * -(-count * (16 + bits) // 16)
            settings = self.train_settings(shape, module, shape.numel)
            if self.budget is not None:
                allowed = self.budget.allowed(shape.numel) - sparse
                saved = self.budget.model_copy(update={"kept": allowed / shape.numel})
                fitting = self.model_copy(update={"budget": saved})
                try:
                    settings = fitting.train_settings(shape, module, shape.numel)
                except TensorpressError as error:
                    raise TensorpressError(
                        f"outliers: {self.outliers} of {module}, with budget.saved: "
                        f"{self.budget.saved}, leaves no room for a train; allowed: less of either"
                    ) from error
            counts = [count] * shape.slices
            found.append(Layout((module,), "tt_sparse", {**settings, "outliers": counts}))
        return found

    @unkeyed
    def cost(self, layout: Layout, layer: LayerShape) -> Cost:
        cost = self.train_cost(layout.settings)
        # the inliers in float32 and, for their share, all in float64
        held = cost.held + 2 * layer.modules[layout.modules[0]].numel
        return replace(cost, stored=cost.stored + sum(layout.settings["outliers"]), held=held)

    def kept(self, shape: ModuleShape) -> int:
        """Entries of one matrix that are kept for their size."""
        return max(1, int(self.outliers * shape.out_features * shape.in_features))

    def given(self, layer: LayerShape, module: str) -> tuple[Coordinate, ...]:
        """Entries of a module of a layer that are kept whatever their size."""
        return tuple(dict.fromkeys([*self.keep, *self.exact(layer, module)]))


EXAMPLE = Spec(method="tt_sparse", order=3, rank=4, outliers=0.01)


def decompose(
    weights: Mapping[str, Tensor],
    layer: LayerShape,
    spec: Spec,
    moments: Mapping[str, Tensor] | None,
) -> list[Factors]:
    """A train and the entries that are added to it, in the order of ``spec.split``."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module = layout.modules[0]
        metric = metric_of(moments, module, spec)
        kept, given = spec.kept(layer.modules[module]), spec.given(layer, module)

        def largest(matrix: Tensor, kept: int = kept, given: Any = given) -> Places:
            return outlier_places(matrix, kept, given)

        if spec.split == "outliers":
            exact = spec.exact(layer, module)
            factors.append(_outliers_first(layout, stack, metric, largest, exact))
        else:
            sweeps = spec.sweeps if spec.split == "alternate" else 1
            store = _train_first(layout, stack, metric, largest, sweeps)
            factors.append(Factors(layout.modules, store))
    return factors


def _outliers_first(
    layout: Layout,
    stack: Tensor,
    metric: Metric | None,
    largest: Callable[[Tensor], Places],
    exact: tuple[Coordinate, ...],
) -> Factors:
    """The train of the matrix without its outliers; to these what it has there is added.

    Of the ``exact`` ones it is taken off again.
    """
    inliers, places = stack.clone(), [largest(matrix) for matrix in stack]
    for matrix, place in zip(inliers, places, strict=True):
        matrix[place] = 0
    values = [matrix[place] for matrix, place in zip(stack, places, strict=True)]
    trains = train_stack(inliers, layout.settings, metric)
    built = _store(layout, trains, places, values)
    for row, column in exact:
        for index, (rows, columns) in enumerate(places):
            here = (rows == row) & (columns == column)
            values[index] -= here * built.rebuild(index)[row, column]
    # added entries leave the error of the inliers' trains as it is
    upper = stack_bounds(trains, inliers)[1]
    share = float(inliers.double().norm() / stack.double().norm().clamp_min(1e-300))
    store = _store(layout, trains, places, values)
    return Factors(layout.modules, store, None, None if upper is None else upper * share)


def _train_first(
    layout: Layout,
    stack: Tensor,
    metric: Metric | None,
    largest: Callable[[Tensor], Places],
    sweeps: int,
) -> Format:
    """The train of what the entries leave, which are at first none, and the largest of its errors.

    So all kept entries are exact. Of several sweeps the best is kept.
    """
    import torch

    from tensorpress.methods.two_parts import weighed_square

    added, best, least = torch.zeros_like(stack), None, float("inf")
    for _ in range(sweeps):
        trains = train_stack(stack - added, layout.settings, metric)
        nowhere = stack.new_empty(0, dtype=torch.long)
        empty = [(nowhere, nowhere)] * len(stack)
        rest = stack - _store(layout, trains, empty, [stack.new_empty(0)] * len(stack)).stacked()
        places = [largest(matrix) for matrix in rest]
        added = torch.zeros_like(stack)
        for matrix, place, left in zip(added, places, rest, strict=True):
            matrix[place] = left[place]
        error = weighed_square(rest - added, metric)
        if best is None or error < least:
            values = [matrix[place] for matrix, place in zip(rest, places, strict=True)]
            best, least = _store(layout, trains, places, values), error
    assert best is not None, "there is a sweep"
    return best


def _store(
    layout: Layout, trains: Sequence[Train], places: Sequence[Places], values: Sequence[Tensor]
) -> Any:
    """Trains with entries added to each."""
    counts = [len(rows) for rows, _ in places]
    store: Any = Layout(
        layout.modules, layout.format, {**layout.settings, "outliers": counts}
    ).build()
    sparse = {f"outlier_{index}": value.clone() for index, value in enumerate(values)}
    sparse |= {f"place_{index}": store.pack(*place) for index, place in enumerate(places)}
    return store.fill(**core_values([train.cores for train in trains]), **sparse)


def outlier_places(matrix: Tensor, count: int, given: tuple[Coordinate, ...]) -> Places:
    """Rows and columns of the ``count`` largest entries and of those given, in reading order."""
    import torch

    largest = matrix.abs().flatten().topk(count).indices
    positions = [row * matrix.shape[1] + column for row, column in given]
    flat = torch.cat([largest, largest.new_tensor(positions)]).unique()
    return flat // matrix.shape[1], flat % matrix.shape[1]
