"""A model without its weights: names and sizes of every module, from ``config.json`` alone.

Torch-free: planning holds one for every model, and a checkpoint has one.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from tensorpress.architectures.families.base import Family, WeightSource
from tensorpress.architectures.layers import LayerShape, modules_of
from tensorpress.files.storage import StoredTensor
from tensorpress.objectives.base import Objective
from tensorpress.objectives.registry import load

COMPRESSED, COMPRESSED_CLASS = "tensorpress_", "Tensorpress"
"""Begin ``model_type`` and class of a compressed checkpoint, which no plain model is made of."""


class TellsLayersApart(Protocol):
    """Settings of a method, as far as they say whether equal layers are alike (``MethodSpec``)."""

    @property
    def depends_on_layer_index(self) -> bool:
        """Whether what is stored of a layer depends on which layer it is, beside its shape."""


@dataclass(frozen=True)
class Architecture:
    """The family of a model with the sizes that its ``config.json`` gives.

    Layers count from 0. The number after the last one stands for the *outer* layer, which has the
    embedding. A size that the config lacks raises ``TensorpressError`` when it is asked for.
    """

    family: Family
    config: Mapping[str, Any] = field(repr=False)

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        # without what was derived: every job is sent one
        return type(self), (self.family, self.config)

    @cached_property
    def _text(self) -> str:
        return json.dumps(self.config, sort_keys=True, default=str)

    def size(self, what: str) -> int | None:
        """A size by its canonical name (``CONFIG_KEYS``), ``None`` if the config does not say."""
        return self.family.size(self.config, what)

    @property
    def objective(self) -> Objective:
        """What the model is asked."""
        return load(self.family.objective)

    @cached_property
    def layers(self) -> int:
        """Number of transformer layers."""
        return self.family.layer_count(self.config)

    def all_replaced(self, shapes: Mapping[str, tuple[int, ...]]) -> list[StoredTensor]:
        """Tensors of a whole model, by their names and shapes, that another stands in place of."""
        return [
            StoredTensor(
                shape, self.family.layer_of(name), name == self.family.table, replaced=True
            )
            for name, shape in shapes.items()
        ]

    @property
    def outer(self) -> int:
        """Number of the outer layer."""
        return self.layers

    @cached_property
    def shapes(self) -> tuple[LayerShape, ...]:
        """Shapes of all layers, and last of the outer one."""
        return tuple(self.family.layer_shape(self.config, i) for i in range(self.outer + 1))

    def shape(self, layer: int) -> LayerShape:
        """Shapes of a layer's modules."""
        return self.shapes[layer]

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """Modules that at least one layer has."""
        return modules_of(self.shapes)

    @cached_property
    def expert_layers(self) -> tuple[int, ...]:
        """Layers that route their tokens to experts in place of one FFN."""
        return tuple(i for i in range(self.layers) if self.shape(i).experts)

    @cached_property
    def representatives(self) -> tuple[int, ...]:
        """For each layer the first one of equal shape: most layers are alike."""
        return tuple(self.shapes.index(shape) for shape in self.shapes)

    def representative(self, layer: int, spec: TellsLayersApart) -> int:
        """The first layer that a method cannot tell from this one."""
        return layer if spec.depends_on_layer_index else self.representatives[layer]

    @cached_property
    def tied(self) -> bool:
        """Whether no head has values beside the embedding's, also where the config is silent."""
        if self.family.head is None:
            return True
        if "tie_word_embeddings" in self.config:
            return bool(self.config["tie_word_embeddings"])
        # takes longer than all else here to import, and most configs say it
        from transformers import AutoConfig

        return bool(AutoConfig.for_model(**self.config).tie_word_embeddings)

    def weight_source(self, layer: int, module: str, stored: Container[str]) -> WeightSource:
        """Which tensors of a checkpoint (``stored`` names) hold the weight of a module."""
        return self.family.weight_source(layer, module, self.shape(layer), stored)
