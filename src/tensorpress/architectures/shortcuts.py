"""Residual connections with matrices, as configs say them. Torch-free.

The stream of such a model is in another basis behind every block, so what passes a block by is
turned from the one into the next (SliceGPT). Its class is ours (``formats.shortcuts``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorpress.architectures.architecture import Architecture

SHORTCUTS = "shortcuts"
"""Key of the config, and the submodule of a layer that holds its matrices."""
SLICED = "sliced_"
"""Begins the ``model_type`` of such a checkpoint, which no plain model is loaded from."""


def described(architecture: Architecture, width: int) -> dict[str, Any]:
    """What the class is told: where layers are, and the norm that each block stands behind.

    Paths are within a layer.
    """
    family, groups = architecture.family, architecture.shape(0).modules
    layer = family.layer_path(0)
    last = "ffn" if "ffn.down" in groups else "experts"
    blocks = {"attention": family.block_path(0, "attention"), "ffn": family.block_path(0, last)}
    norms = {("attention" if "attention.q" in n.readers else "ffn"): n.path for n in family.norms}
    points = {name: [norms[name], path.removeprefix(f"{layer}.")] for name, path in blocks.items()}
    return {"width": width, "layers": layer.rpartition(".")[0], **points}


def values(architecture: Architecture) -> int:
    """Values of all matrices on residual connections: none of most models."""
    if SHORTCUTS not in architecture.config:
        return 0
    width: int = architecture.config[SHORTCUTS]["width"]
    return 2 * architecture.layers * width**2


def obstacle(architecture: Architecture) -> str | None:
    """Why a transform that knows plain residual connections cannot change a model."""
    if SHORTCUTS in architecture.config:
        return "what passes its blocks by is turned (slicegpt, rotations: blocks)"
    return None
