"""GPT-J: no gate in the FFN, biases in the FFN only."""

from tensorpress.architectures.families.base import Family, Norm, slots

FAMILY = Family(
    model_type="gptj",
    layer="transformer.h.{layer}",
    embedding="transformer.wte",
    keys={
        "hidden": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "inner": "n_inner",
        "positions": "n_positions",
    },
    norms=(Norm("ln_1", ("attention.q", "attention.k", "attention.v", "ffn.up")),),
    norms_have_biases=True,
    without_bias=("attention.q", "attention.k", "attention.v", "attention.o"),
    final_norm="transformer.ln_f",
    linears=slots(
        {
            "attention.q": "attn.q_proj",
            "attention.k": "attn.k_proj",
            "attention.v": "attn.v_proj",
            "attention.o": "attn.out_proj",
            "ffn.up": "mlp.fc_in",
            "ffn.down": "mlp.fc_out",
        }
    ),
)
