"""A model on the meta device, from its ``config.json``: its tensors and factors without values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families.table import architecture_of
from tensorpress.architectures.shortcuts import SHORTCUTS
from tensorpress.checkpoints.completeness import contents
from tensorpress.errors import TensorpressError
from tensorpress.formats.base import Format
from tensorpress.formats.shortcuts import add_shortcuts
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.layout import Layout
from tensorpress.methods.rounding import Rounding
from tensorpress.sources.weightfiles import has_weights, held_tensors


class MetaModel:
    """The tensors of a model that has no weights.

    ``weights``: a folder that may have them all the same. Where head and embedding differ though
    the config ties them, the model has both, as when it is fetched. ``original``: the model that
    it was made of, with which sizes are compared.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        weights: Path | None = None,
        original: MetaModel | None = None,
    ) -> None:
        self.name, self.architecture = name, architecture_of(config, name)
        network = _built(self.architecture)
        ties = bool(network.all_tied_weights_keys) and not config.get("quantization_config")
        if ties and weights is not None and has_weights(weights):
            stored = held_tensors(weights, f"models.{name}")
            if contents(name, network, self.architecture, stored).untied:
                self.architecture = architecture_of({**config, "tie_word_embeddings": False}, name)
                network = _built(self.architecture)
        held = network.state_dict()
        beside = ((n, b) for n, b in network.named_buffers() if n in held)  # what a router adds
        self.tensors = {n: tuple(p.shape) for n, p in (*network.named_parameters(), *beside)}
        differs = original is not None and original.tensors != self.tensors
        self.original = original if differs else None
        """``None`` where all tensors are as large as they were."""
        self._built: dict[tuple[Any, ...], list[tuple[Layout, Format]]] = {}

    def home(self, layer: int, module: str) -> str:
        """Name of the tensor that holds a module's weight in the running model."""
        return self.architecture.weight_source(layer, module, self.tensors).names[0]

    def stores(
        self, name: str, spec: MethodSpec, rounding: Rounding | None, group: str, layer: int
    ) -> list[tuple[Layout, Format]]:
        """Layouts and empty factors of a group; equal layers share them.

        ``TensorpressError`` if the settings of method ``name`` do not fit the shapes.
        """
        shape = self.architecture.shape(layer)
        key = (name, rounding, group, self.architecture.representative(layer, spec))
        if key not in self._built:
            try:
                spec.check(shape, group)
                layouts = spec.layouts(shape, group)
            except TensorpressError as error:
                raise TensorpressError(f"methods.{name}.{error}") from error
            with torch.device("meta"):
                empty = [(layout, layout.build()) for layout in layouts]
                if rounding is not None:
                    empty = [
                        (layout, rounding.applied(store, torch.float32)) for layout, store in empty
                    ]
            self._built[key] = empty
        return self._built[key]


def _built(architecture: Architecture) -> PreTrainedModel:
    auto_class = getattr(transformers, architecture.objective.auto_class)
    with torch.device("meta"):
        known = AutoConfig.for_model(**architecture.config)
        network: PreTrainedModel = auto_class.from_config(known, trust_remote_code=False)
        if SHORTCUTS in architecture.config:
            add_shortcuts(network, architecture.config[SHORTCUTS])
    return network
