"""GPT-NeoX and Pythia: q, k and v in one linear layer, interleaved head by head."""

from tensorpress.architectures.families.base import Family, Norm, Slot, slots

FUSED = "attention.query_key_value"

FAMILY = Family(
    model_type="gpt_neox",
    layer="gpt_neox.layers.{layer}",
    embedding="gpt_neox.embed_in",
    renames={"embed_out.": "lm_head."},
    norms=(
        Norm("input_layernorm", ("attention.q", "attention.k", "attention.v")),
        Norm("post_attention_layernorm", ("ffn.up",)),
    ),
    norms_have_biases=True,
    final_norm="gpt_neox.final_layer_norm",
    linears={
        "attention.q": Slot(FUSED, 0, (1, 1, 1), "heads"),
        "attention.k": Slot(FUSED, 1, (1, 1, 1), "heads"),
        "attention.v": Slot(FUSED, 2, (1, 1, 1), "heads"),
    }
    | slots(
        {
            "attention.o": "attention.dense",
            "ffn.up": "mlp.dense_h_to_4h",
            "ffn.down": "mlp.dense_4h_to_h",
        }
    ),
)
