"""How many values a model and its parts have, and in how many bytes. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from tensorpress.architectures import shortcuts
from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.files.storage import VALUE_BITS
from tensorpress.objectives.images import classes_of


@cache
def values_of(architecture: Architecture) -> int:
    """Values of a whole model, all but its vectors if nobody counted, an untied head assumed."""
    if (counted := architecture.family.values()) is not None:
        return counted
    shapes = [module for shape in architecture.shapes for module in shape.modules.values()]
    routers = sum(shape.hidden_size * shape.experts for shape in architecture.shapes)
    matrices = sum(module.numel for module in shapes) + table_values(architecture)
    return matrices + routers + shortcuts.values(architecture)


def held_values(architecture: Architecture) -> int:
    """Values that a checkpoint holds: a tied head is no second matrix."""
    return values_of(architecture) - (table_values(architecture) if architecture.tied else 0)


def held_bytes(architecture: Architecture) -> int:
    """Bytes of these."""
    return value_bytes(architecture.config) * held_values(architecture)


def value_bytes(config: Mapping[str, Any]) -> int:
    """Bytes of a value in a checkpoint, as far as its config says so."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return VALUE_BITS.get(name.removeprefix("torch."), 32) // 8


def embedding(architecture: Architecture) -> ModuleShape | None:
    """The table of tokens, if there is one."""
    return architecture.shape(architecture.outer).modules.get("embedding")


def table_values(architecture: Architecture) -> int:
    """Values of the table of tokens, 0 if there is none."""
    table = embedding(architecture)
    return table.numel if table else 0


def answers(architecture: Architecture) -> int:
    """Logits of a token, as many as the table has rows, or of an image, one a class."""
    table = embedding(architecture)
    return table.out_features if table else classes_of(architecture.config)


def largest_matrix(architecture: Architecture) -> int:
    """Values of the largest matrix that is compressed."""
    modules = [module for shape in architecture.shapes for module in shape.modules.values()]
    return max(each.out_features * each.in_features for each in modules)


def stream_values(architecture: Architecture) -> int:
    """Values of the second moments of all norms that read the stream, the last one too."""
    norms = len(architecture.family.norms) * architecture.layers + 1
    return norms * architecture.shape(0).hidden_size ** 2


@cache
def largest_tensor(architecture: Architecture) -> int:
    """Values of the embedding, or of attention's matrices where they are one tensor."""
    modules = [module for shape in architecture.shapes[:-1] for module in shape.modules.values()]
    matrix = max(3 * each.out_features * each.in_features for each in modules if each.slices == 1)
    return max(table_values(architecture), matrix, *map(gate_and_up, architecture.shapes))


def gate_and_up(shape: LayerShape) -> int:
    """Values of the experts' fused matrices."""
    experts = shape.modules.get("experts.up")
    return 2 * experts.numel if experts else 0
