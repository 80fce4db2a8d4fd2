"""OLMoE: experts in every layer."""

from tensorpress.architectures.families.base import Family, every_layer
from tensorpress.architectures.families.llama import LINEARS
from tensorpress.architectures.families.qwen2_moe import EXPERTS, NORMS

FAMILY = Family(
    model_type="olmoe",
    linears=LINEARS,
    experts=EXPERTS,
    has_experts=every_layer,
    norms=NORMS,
    keys={"expert_inner": "intermediate_size"},
)
