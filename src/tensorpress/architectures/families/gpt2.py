"""GPT-2: Conv1D layers hold weights as ``(in, out)``; q, k and v are one of them."""

from tensorpress.architectures.families.base import Family, Norm, Slot, slots

FAMILY = Family(
    model_type="gpt2",
    layer="transformer.h.{layer}",
    embedding="transformer.wte",
    keys={
        "hidden": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "inner": "n_inner",
        "positions": "n_positions",
    },
    norms=(
        Norm("ln_1", ("attention.q", "attention.k", "attention.v")),
        Norm("ln_2", ("ffn.up",)),
    ),
    norms_have_biases=True,
    final_norm="transformer.ln_f",
    linears={
        "attention.q": Slot("attn.c_attn", 0, (1, 1, 1), transposed=True),
        "attention.k": Slot("attn.c_attn", 1, (1, 1, 1), transposed=True),
        "attention.v": Slot("attn.c_attn", 2, (1, 1, 1), transposed=True),
    }
    | slots(
        {"attention.o": "attn.c_proj", "ffn.up": "mlp.c_fc", "ffn.down": "mlp.c_proj"},
        transposed=True,
    ),
)
