"""``tt_sparse``: a tensor train of the inliers, the largest entries exactly.

After Saten ("Sparse augmented tensor networks for post-training compression of large language
models", 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.formats.coordinates import coordinate_bits
from tensorpress.keying.keys import unkeyed
from tensorpress.methods.approach import Approach
from tensorpress.methods.base import Factors, with_layouts
from tensorpress.methods.cost import Cost
from tensorpress.methods.layout import Layout
from tensorpress.methods.super_weights import Coordinate, KeepsSuperWeights, require_inside
from tensorpress.methods.tt import TrainSpec, core_values, metric_of, stack_bounds, train_stack

if TYPE_CHECKING:
    from torch import Tensor


class Spec(KeepsSuperWeights, TrainSpec):
    """Which entries are kept: the largest ones, and any that are given.

    ``keep`` holds for every matrix, each of ``super_weights`` for the layer and module it names.
    Super weights are restored exactly; to other kept entries what the train has there is added.
    """

    approach: ClassVar[Approach] = "tensor format"

    method: Literal["tt_sparse"]
    outliers: float = Field(5e-7, gt=0, lt=1, description="share of entries kept, at least one")
    keep: tuple[Coordinate, ...] = Field((), description="(row, column) of entries always kept")

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
                saved = self.budget.model_copy(update={"saved": 1 - allowed / shape.numel})
                fitting = self.model_copy(update={"budget": saved})
                settings = fitting.train_settings(shape, module, shape.numel)
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
    """Saten's split: TT-SVD of the matrix without its outliers, and these added to it."""
    factors = []
    for layout, (stack,) in with_layouts(weights, layer, spec):
        module = layout.modules[0]
        inliers, sparse, counts = stack.clone(), {}, []
        kept, given = spec.kept(layer.modules[module]), spec.given(layer, module)
        places = []
        for index, matrix in enumerate(stack):
            rows, columns = outlier_places(matrix, kept, given)
            inliers[index, rows, columns] = 0
            sparse[f"outlier_{index}"] = matrix[rows, columns]
            places.append((rows, columns))
            counts.append(len(rows))
        trains = train_stack(inliers, layout.settings, metric_of(moments, module, spec))
        settings = {**layout.settings, "outliers": counts}
        built: Any = Layout(layout.modules, layout.format, settings).build()
        for index, (rows, columns) in enumerate(places):
            sparse[f"place_{index}"] = built.pack(rows, columns)
        cores = core_values([train.cores for train in trains])
        built.fill(**cores, **sparse)
        for row, column in spec.exact(layer, module):
            for index, (rows, columns) in enumerate(places):
                here = (rows == row) & (columns == column)
                sparse[f"outlier_{index}"] -= here * built.rebuild(index)[row, column]
        built.fill(**cores, **sparse)
        # added entries leave the error of the inliers' trains as it is
        upper = stack_bounds(trains, inliers)[1]
        share = float(inliers.double().norm() / stack.double().norm().clamp_min(1e-300))
        factors.append(
            Factors(layout.modules, built, None, None if upper is None else upper * share)
        )
    return factors


def outlier_places(
    matrix: Tensor, count: int, given: tuple[Coordinate, ...]
) -> tuple[Tensor, Tensor]:
    """Rows and columns of the ``count`` largest entries and of those given, in reading order."""
    import torch

    largest = matrix.abs().flatten().topk(count).indices
    positions = [row * matrix.shape[1] + column for row, column in given]
    flat = torch.cat([largest, largest.new_tensor(positions)]).unique()
    return flat // matrix.shape[1], flat % matrix.shape[1]
