"""Encoding: texts as vectors, by encoders that have no head and predict nothing.

A text's embedding is the mean of its tokens' last states, CLS and SEP among them, of length one
(Reimers & Gurevych 2019, arXiv 1908.10084: made to be compared by cosines). Where models with a
head are calibrated by gradients of their loss, here they are of ``u . e``, the embedding e along a
random direction u, another for every window. Over all u the mean square of what a change of outputs
does to that is how far it moves e (Hutchinson 1990), and half a squared distance of unit vectors is
one minus their cosine, in which damage so is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from tensorpress.objectives.frame import Framed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class Encoding(Framed):
    """A text's embedding. Rows are windows of ids, which begin with CLS and end with SEP."""

    auto_class: ClassVar[str] = "AutoModel"
    known_classes: ClassVar[str] = "MODEL_MAPPING_NAMES"
    described: ClassVar[str] = "an encoder of transformers without a head"

    def run(self, model: Any, rows: Int[Tensor, "windows window"]) -> None:
        model.base_model(input_ids=rows)

    def backpropagate(self, model: Any, rows: Int[Tensor, "windows window"]) -> None:
        import torch

        embedded = embeddings(model, rows, torch.ones_like(rows, dtype=torch.bool))
        # by the text, so that neither batches nor devices are told apart
        seeds = rows.sum(1).tolist()
        directions = torch.stack(
            [
                torch.randn(embedded.shape[1], generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
        )
        # gradients are averaged over tokens: so many of them make the change of one window
        scale = rows.shape[1] ** 0.5
        (scale * directions.to(embedded) * embedded).sum().backward()


def embeddings(
    model: Any, ids: Int[Tensor, "texts tokens"], real: Bool[Tensor, "texts tokens"]
) -> Float[Tensor, "texts hidden"]:
    """Embeddings of length one, float32; ``real``: which of the tokens are no padding."""
    from torch.nn.functional import normalize

    states = model.base_model(input_ids=ids, attention_mask=real.long()).last_hidden_state
    return normalize((states.float() * real[..., None]).sum(1), dim=-1)


OBJECTIVE = Encoding()
