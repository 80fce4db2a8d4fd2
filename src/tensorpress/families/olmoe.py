"""OLMoE: experts in every layer."""

from tensorpress.families.base import Family, every_layer
from tensorpress.families.llama import LINEARS
from tensorpress.families.qwen2_moe import EXPERTS, NORMS

FAMILY = Family(
    model_type="olmoe",
    linears=LINEARS,
    experts=EXPERTS,
    has_experts=every_layer,
    norms=NORMS,
    keys={"expert_inner": "intermediate_size"},
)
