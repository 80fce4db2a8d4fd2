"""The setting of methods that keep super weights, each where it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.published import SuperWeight
from tensorpress.errors import TensorpressError
from tensorpress.methods.base import MethodSpec

Coordinate = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class KeepsSuperWeights(MethodSpec):
    """Settings with entries that stay as they are, each in the layer and module it names."""

    super_weights: tuple[SuperWeight, ...] = Field((), description="entries kept where they belong")

    @property
    def depends_on_layer_index(self) -> bool:
        return bool(self.super_weights)

    def exact(self, layer: LayerShape, module: str) -> tuple[Coordinate, ...]:
        """The super weights of a module; ``TensorpressError`` if it has no such entry."""
        here = (w for w in self.super_weights if (w.layer, w.module) == (layer.number, module))
        places = tuple(dict.fromkeys((w.row, w.column) for w in here))
        require_inside("super_weights", places, layer.modules[module], module)
        return places


def require_inside(
    field: str, places: Sequence[Coordinate], shape: ModuleShape, module: str
) -> None:
    """Raise ``TensorpressError`` if a place is outside of a module's matrices."""
    for row, column in places:
        if row >= shape.out_features or column >= shape.in_features:
            raise TensorpressError(
                f"{field}: ({row}, {column}) is outside of {module}; "
                f"allowed: up to ({shape.out_features - 1}, {shape.in_features - 1})"
            )
