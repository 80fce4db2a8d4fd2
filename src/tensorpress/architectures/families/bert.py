"""BERT: encoder layers, norms behind attention and FFN; asked for masked tokens."""

from tensorpress.architectures.families.base import Family, slots

FAMILY = Family(
    model_type="bert",
    layer="bert.encoder.layer.{layer}",
    embedding="bert.embeddings.word_embeddings",
    head="cls.predictions.decoder",
    objective="masked_lm",
    head_bias="cls.predictions.bias",
    # other objectives' heads, which checkpoints of the first training hold too
    left_out=("bert.pooler", "cls.seq_relationship"),
    renames={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
    linears=slots(
        {
            "attention.q": "attention.self.query",
            "attention.k": "attention.self.key",
            "attention.v": "attention.self.value",
            "attention.o": "attention.output.dense",
            "ffn.up": "intermediate.dense",
            "ffn.down": "output.dense",
        }
    ),
)
