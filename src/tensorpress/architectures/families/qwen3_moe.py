"""Qwen3 mixture of experts: Llama's names, routed experts in place of most FFNs."""

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.llama import LINEARS
from tensorpress.architectures.families.qwen2_moe import EXPERTS, NORMS, has_experts

FAMILY = Family(
    model_type="qwen3_moe",
    linears=LINEARS,
    experts=EXPERTS,
    has_experts=has_experts,
    norms=NORMS,
    narrows=True,
)
