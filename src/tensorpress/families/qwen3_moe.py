"""Qwen3 mixture of experts: Llama's names, routed experts in place of most FFNs."""

from tensorpress.families.base import Config, Experts, Family
from tensorpress.families.llama import LINEARS


def _has_experts(config: Config, layer: int) -> bool:
    step = int(config.get("decoder_sparse_step", 1))
    return layer not in (config.get("mlp_only_layers") or ()) and (layer + 1) % step == 0


FAMILY = Family(
    model_type="qwen3_moe",
    layer="model.layers.{layer}",
    linears=LINEARS,
    embeddings=("model.embed_tokens.weight",),
    experts=Experts(
        module="mlp.experts",
        gate_up="gate_up_proj",
        down="down_proj",
        per_expert={"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
    ),
    has_experts=_has_experts,
)
