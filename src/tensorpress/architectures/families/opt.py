"""OPT: the layers lie in a decoder, the FFN has no gate."""

from tensorpress.architectures.families.base import Config, Family, Norm, slots


def norms_first(config: Config) -> bool:
    """All but the 350M model, where the residual stream reads them."""
    return bool(config.get("do_layer_norm_before", True))


FAMILY = Family(
    model_type="opt",
    layer="model.decoder.layers.{layer}",
    embedding="model.decoder.embed_tokens",
    keys={"inner": "ffn_dim"},
    norms=(
        Norm("self_attn_layer_norm", ("attention.q", "attention.k", "attention.v")),
        Norm("final_layer_norm", ("ffn.up",)),
    ),
    norms_have_biases=True,
    norms_first=norms_first,
    final_norm="model.decoder.final_layer_norm",
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
