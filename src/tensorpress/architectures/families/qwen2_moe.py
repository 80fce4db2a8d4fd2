"""Qwen2 mixture of experts: routed experts beside a shared one, which stays as it is."""

from tensorpress.architectures.families.base import Config, Experts, Family, Norm
from tensorpress.architectures.families.llama import ATTENTION_NORM, LINEARS

EXPERTS = Experts(
    module="mlp.experts",
    per_expert={"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
)
FFN_NORM = "post_attention_layernorm"
READERS = ("ffn.gate", "ffn.up", "experts.gate", "experts.up")
NORMS = (ATTENTION_NORM, Norm(FFN_NORM, READERS, beside_experts=("mlp.gate",)))
"""Norms of mixtures whose router is ``mlp.gate``."""


def has_experts(config: Config, layer: int) -> bool:
    """Every layer but the listed ones, or every so many layers."""
    step = int(config.get("decoder_sparse_step", 1))
    return layer not in (config.get("mlp_only_layers") or ()) and (layer + 1) % step == 0


SHARED = ("shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert_gate")

FAMILY = Family(
    model_type="qwen2_moe",
    linears=LINEARS,
    experts=EXPERTS,
    has_experts=has_experts,
    norms=(
        ATTENTION_NORM,
        Norm(FFN_NORM, READERS, ("mlp.gate", *(f"mlp.{path}" for path in SHARED))),
    ),
    writers_beside_experts=("mlp.shared_expert.down_proj",),
    narrows=True,
)
