"""OPT: the layers lie in a decoder, the FFN has no gate."""

from tensorpress.families.base import Family, slots

FAMILY = Family(
    model_type="opt",
    layer="model.decoder.layers.{layer}",
    embedding="model.decoder.embed_tokens",
    keys={"inner": "ffn_dim"},
    linears=slots(
        {
            "attention.q": "self_attn.q_proj",
            "attention.k": "self_attn.k_proj",
            "attention.v": "self_attn.v_proj",
            "attention.o": "self_attn.out_proj",
            "ffn.up": "fc1",
            "ffn.down": "fc2",
        }
    ),
)
