"""GPT-OSS: experts stored as ``(E, in, out)`` with biases, gate and up interleaved."""

from tensorpress.architectures.families.base import Experts, Family, Norm, every_layer
from tensorpress.architectures.families.llama import ATTENTION_NORM, LINEARS
from tensorpress.architectures.families.qwen2_moe import FFN_NORM, READERS

FAMILY = Family(
    model_type="gpt_oss",
    linears=LINEARS,
    experts=Experts(
        module="mlp.experts",
        per_expert={},
        interleaved=True,
        transposed=True,
        biases=True,
        clamp=(("swiglu_alpha", 1.702), ("swiglu_limit", 7.0)),
    ),
    has_experts=every_layer,
    norms=(ATTENTION_NORM, Norm(FFN_NORM, READERS, beside_experts=("mlp.router",))),
    narrows=True,
    keys={"experts": "num_local_experts", "expert_inner": "intermediate_size"},
)
