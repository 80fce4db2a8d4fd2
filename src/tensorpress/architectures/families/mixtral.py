"""Mixtral: experts in every layer; hub checkpoints call the block block_sparse_moe."""

from tensorpress.architectures.families.base import Experts, Family, every_layer
from tensorpress.architectures.families.llama import LINEARS
from tensorpress.architectures.families.qwen2_moe import NORMS

FAMILY = Family(
    model_type="mixtral",
    linears=LINEARS,
    experts=Experts(
        module="mlp.experts",
        stored_module="block_sparse_moe.experts",
        per_expert={"gate": "w1", "up": "w3", "down": "w2"},
    ),
    has_experts=every_layer,
    norms=NORMS,
    narrows=True,
    keys={"experts": "num_local_experts", "expert_inner": "intermediate_size"},
    renames={".block_sparse_moe.": ".mlp."},
)
