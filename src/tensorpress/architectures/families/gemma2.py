"""Gemma 2: Llama's names, tied embeddings, norms behind attention and FFN too, which add one."""

from tensorpress.architectures.families.base import Family, Norm
from tensorpress.architectures.families.llama import ATTENTION_NORM, LINEARS

FAMILY = Family(
    model_type="gemma2",
    linears=LINEARS,
    attention_norm="post_attention_layernorm",
    norms=(ATTENTION_NORM, Norm("pre_feedforward_layernorm", ("ffn.gate", "ffn.up"))),
    norm_unit=0.0,
)
