"""Llama 1 to 3, and the names that most later models share with it."""

from tensorpress.architectures.families.base import Family, Norm, slots

LINEARS = slots(
    {
        "attention.q": "self_attn.q_proj",
        "attention.k": "self_attn.k_proj",
        "attention.v": "self_attn.v_proj",
        "attention.o": "self_attn.o_proj",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
    }
)

ATTENTION_NORM = Norm("input_layernorm", ("attention.q", "attention.k", "attention.v"))
NORMS = (ATTENTION_NORM, Norm("post_attention_layernorm", ("ffn.gate", "ffn.up")))

FAMILY = Family(model_type="llama", linears=LINEARS, norms=NORMS, narrows=True)
