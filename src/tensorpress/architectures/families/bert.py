"""BERT: encoder layers, norms behind attention and FFN; with a head asked for masked tokens."""

from tensorpress.architectures.families.base import Family, slots

LINEARS = slots(
    {
        "attention.q": "attention.self.query",
        "attention.k": "attention.self.key",
        "attention.v": "attention.self.value",
        "attention.o": "attention.output.dense",
        "ffn.up": "intermediate.dense",
        "ffn.down": "output.dense",
    }
)
RENAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
ENCODER = Family(
    model_type="bert",
    layer="encoder.layer.{layer}",
    embedding="embeddings.word_embeddings",
    head=None,
    objective="encoding",
    left_out=("cls",),
    renames=RENAMES,
    linears=LINEARS,
)
FAMILY = Family(
    model_type="bert",
    layer="bert.encoder.layer.{layer}",
    embedding="bert.embeddings.word_embeddings",
    head="cls.predictions.decoder",
    objective="masked_lm",
    head_bias="cls.predictions.bias",
    # other objectives' heads, which checkpoints of the first training hold too
    left_out=("bert.pooler", "cls.seq_relationship"),
    classes={"BertModel": ENCODER},
    renames=RENAMES,
    linears=LINEARS,
)
