"""RoBERTa: BERT's layers; another head, and positions that begin behind that of padding."""

from dataclasses import replace

from tensorpress.architectures.families import bert

POSITIONS = 2
ENCODER = replace(
    bert.ENCODER, model_type="roberta", left_out=("lm_head",), first_position=POSITIONS
)
FAMILY = replace(
    bert.FAMILY,
    model_type="roberta",
    layer="roberta.encoder.layer.{layer}",
    embedding="roberta.embeddings.word_embeddings",
    head="lm_head.decoder",
    head_bias="lm_head.bias",
    left_out=("roberta.pooler",),
    classes={"RobertaModel": ENCODER},
    first_position=POSITIONS,
)
