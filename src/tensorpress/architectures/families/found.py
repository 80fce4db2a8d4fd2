"""Families without a file: what the search in a class found, kept for the next time. Torch-free.

The search takes seconds and torch, so what it found is kept in ``results/.families``, one file for
each config; a plan that knows all of its models by files, written or kept, needs neither.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tensorpress.architectures.families.base import Config, Experts, Family, Slot
from tensorpress.architectures.layers import LayerShape
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import replacing
from tensorpress.keying.keys import file_fingerprint, key

SEARCH = "tensorpress.architectures.structure.search:find"
_SEARCHED = Path(__file__).parents[1] / "structure"
_KEPT = paths.RESULTS / ".families"
_WITHOUT_MEANING = frozenset(
    {
        "_name_or_path", "architectures", "auto_map", "dtype", "tensorpress",
        "quantization_config", "tie_word_embeddings", "torch_dtype", "transformers_version",
    }
)  # fmt: skip
"""Config keys that say nothing of a structure, and that differ between checkpoints of one."""


@dataclass(frozen=True)
class Structure:
    """What a search found in a model: paths, layouts, and the shapes of every layer."""

    model_type: str
    layer: str
    embedding: str
    head: str
    linears: dict[str, Slot]
    experts: Experts | None
    shapes: tuple[LayerShape, ...]
    """Of all layers, and last of the outer one."""
    sizes: dict[str, int]
    """By canonical name (``CONFIG_KEYS``), as far as the config has them."""
    renames: tuple[tuple[str, str], ...]
    """Patterns in names of the hub's checkpoints, and what the running model has for them."""
    values: int
    """Of the whole model, an untied head assumed."""


_STRUCTURE = TypeAdapter(Structure)


@dataclass(frozen=True)
class FoundFamily(Family):
    """The family of one config; it knows of no norm what reads it."""

    structure: Structure | None = None

    @property
    def found(self) -> Structure:
        """What the search found."""
        assert self.structure is not None
        return self.structure

    @property
    def code(self) -> str:
        return SEARCH

    @property
    def knows_stream(self) -> bool:
        return False

    def values(self) -> int | None:
        return self.found.values

    def size(self, config: Config, what: str) -> int | None:
        return self.found.sizes.get(what)

    def layer_count(self, config: Config) -> int:
        return len(self.found.shapes) - 1

    def layer_shape(self, config: Config, layer: int) -> LayerShape:
        return self.found.shapes[layer]

    def running_name(self, stored: str) -> str:
        for old, new in self.found.renames:
            stored = re.sub(old, new, stored)
        return stored


def family_of(config: Mapping[str, Any], where: str) -> FoundFamily:
    """The family of a model whose ``model_type`` has no file, by the structure of its class.

    Raises ``TensorpressError`` where that is not understood; ``where`` names the model.
    """
    meant = {name: value for name, value in config.items() if name not in _WITHOUT_MEANING}
    return _family(json.dumps(meant, sort_keys=True, default=str), where)


@cache
def _family(config: str, where: str) -> FoundFamily:
    identity = key(
        config=json.loads(config),
        transformers=version("transformers"),
        search=file_fingerprint(*sorted(_SEARCHED.glob("*.py"))),
    )
    file = _KEPT / f"{identity}.json"
    found = None
    with suppress(OSError, ValidationError):
        found = _STRUCTURE.validate_json(file.read_bytes())
    if found is None:
        from tensorpress.architectures.structure.search import find

        found = find(json.loads(config), where)
        # planning works without, also where nothing can be written
        with suppress(OSError, TensorpressError), replacing(file) as temporary:
            temporary.write_bytes(_STRUCTURE.dump_json(found))
    return FoundFamily(
        model_type=found.model_type,
        linears=found.linears,
        layer=found.layer,
        embedding=found.embedding,
        head=found.head,
        experts=found.experts,
        structure=found,
    )
