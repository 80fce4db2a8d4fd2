"""GPT-Neo: separate projections, no gate in the FFN."""

from tensorpress.architectures.families.base import Family, Norm, slots

FAMILY = Family(
    model_type="gpt_neo",
    layer="transformer.h.{layer}",
    embedding="transformer.wte",
    keys={"layers": "num_layers", "heads": "num_heads"},
    norms=(
        Norm("ln_1", ("attention.q", "attention.k", "attention.v")),
        Norm("ln_2", ("ffn.up",)),
    ),
    norms_have_biases=True,
    without_bias=("attention.q", "attention.k", "attention.v"),
    final_norm="transformer.ln_f",
    linears=slots(
        {
            "attention.q": "attn.attention.q_proj",
            "attention.k": "attn.attention.k_proj",
            "attention.v": "attn.attention.v_proj",
            "attention.o": "attn.attention.out_proj",
            "ffn.up": "mlp.c_fc",
            "ffn.down": "mlp.c_proj",
        }
    ),
)
