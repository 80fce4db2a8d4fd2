"""ViT: encoder layers behind their norms; patches in place of tokens, a head for labels.

The projection of patches, a convolution, and the head are no modules: they are counted with the
class token, positions and norms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensorpress.architectures.families.base import Family, Norm, slots
from tensorpress.objectives.images import tokens_of


@dataclass(frozen=True)
class Patched(Family):
    """A family whose sequences are images, all of the same length."""

    def size(self, config: Mapping[str, Any], what: str) -> int | None:
        return tokens_of(config) if what == "positions" else super().size(config, what)


FAMILY = Patched(
    model_type="vit",
    layer="vit.layers.{layer}",
    embedding=None,
    head=None,
    final_norm="vit.layernorm",
    objective="image_classification",
    norms=(
        Norm("layernorm_before", ("attention.q", "attention.k", "attention.v")),
        Norm("layernorm_after", ("ffn.up",)),
    ),
    norms_have_biases=True,
    left_out=("vit.pooler",),
    # of checkpoints that transformers 4 wrote
    renames={
        "vit.encoder.layer.": "vit.layers.",
        "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
    },
    linears=slots(
        {
            "attention.q": "attention.q_proj",
            "attention.k": "attention.k_proj",
            "attention.v": "attention.v_proj",
            "attention.o": "attention.o_proj",
            "ffn.up": "mlp.fc1",
            "ffn.down": "mlp.fc2",
        }
    ),
)
