"""Gemma 2: Llama's names, tied embeddings, a norm behind the attention too."""

from tensorpress.families.base import Family
from tensorpress.families.llama import LINEARS

FAMILY = Family(model_type="gemma2", linears=LINEARS, attention_norm="post_attention_layernorm")
