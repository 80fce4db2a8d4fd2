"""Llama 1 to 3 and models of the same layout."""

from tensorpress.families.base import Family

LINEARS = {
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}

FAMILY = Family(
    model_type="llama",
    layer="model.layers.{layer}",
    linears=LINEARS,
    embeddings=("model.embed_tokens.weight",),
)
