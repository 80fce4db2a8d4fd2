"""Qwen2 mixture of experts: routed experts beside a shared one, which stays as it is."""

from tensorpress.families.base import Config, Experts, Family
from tensorpress.families.llama import LINEARS

EXPERTS = Experts(
    module="mlp.experts",
    per_expert={"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
)


def has_experts(config: Config, layer: int) -> bool:
    """Every layer but the listed ones, or every so many layers."""
    step = int(config.get("decoder_sparse_step", 1))
    return layer not in (config.get("mlp_only_layers") or ()) and (layer + 1) % step == 0


FAMILY = Family(model_type="qwen2_moe", linears=LINEARS, experts=EXPERTS, has_experts=has_experts)
