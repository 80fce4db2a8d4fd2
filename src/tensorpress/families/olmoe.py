"""OLMoE: experts in every layer."""

from tensorpress.families.base import Family
from tensorpress.families.llama import LINEARS
from tensorpress.families.qwen2_moe import EXPERTS, NORMS

FAMILY = Family(
    model_type="olmoe",
    linears=LINEARS,
    experts=EXPERTS,
    has_experts=lambda config, layer: True,
    norms=NORMS,
    keys={"expert_inner": "intermediate_size"},
)
