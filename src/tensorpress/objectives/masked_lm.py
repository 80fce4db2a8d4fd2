"""Masked language modelling: tokens behind a mask, given all others of a window.

The measure is the pseudo-perplexity of Salazar et al. 2020 (arXiv 1910.14659) with one change: they
mask one token at a time, here every ``STRIDE``-th is masked at once. So a window takes ``STRIDE``
passes in place of one a token, each with about the share of masks (15 %) that models are trained
with, nothing is left to chance, and each token is predicted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tensorpress.objectives.base import PredictingTokens
from tensorpress.objectives.frame import NEEDED, Framed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from tensorpress.objectives.token_losses import Teacher

STRIDE = 7
"""Tokens from one mask to the next, and passes over a window."""


class MaskedLM(Framed, PredictingTokens):
    """Masked tokens. Rows ``(2, window)`` hold a window's ids, and under them the masked ones.

    A window begins with CLS and ends with SEP, as in training. Of the text between them so many
    tokens are predicted as ``STRIDE`` divides; the few after them are only read.
    """

    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    known_classes: ClassVar[str] = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
    described: ClassVar[str] = "a masked language model of transformers"
    metric: ClassVar[str] = "pseudo_perplexity"
    question: ClassVar[str | None] = (
        f"between CLS and SEP, every {STRIDE}th token masked, in {STRIDE} passes"
    )
    passes: ClassVar[int] = STRIDE
    needed: ClassVar[Sequence[str]] = ("mask_token", *NEEDED)
    least: ClassVar[int] = STRIDE

    def asked(
        self, tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, "windows text"]
    ) -> Int[Tensor, "windows 2 text"]:
        import torch

        return torch.stack([ids, torch.full_like(ids, tokenizer.mask_token_id)], dim=1)

    def ids(self, rows: Int[Tensor, "windows 2 window"]) -> Int[Tensor, "windows window"]:
        return rows[:, 0]

    def text(self, window: int, bos: bool = False) -> slice:
        return slice(1, window - 1)

    def predicted(self, window: int, bos: bool = False) -> slice:
        return slice(1, 1 + (window - 2) // STRIDE * STRIDE)

    def losses(
        self,
        model: PreTrainedModel,
        rows: Int[Tensor, "windows 2 window"],
        weight: float = 0.0,
        auxiliary: bool = False,
        chunk: int | None = None,
        teacher: Teacher | None = None,
    ) -> Float[Tensor, "windows predicted"]:
        import torch

        from tensorpress.objectives.token_losses import token_losses

        found = [
            token_losses(model, ids, asked, rows[:, 0, asked], weight, auxiliary, chunk, teacher)
            for asked, ids in self._passes(rows)
        ]
        return torch.stack(found, dim=2).flatten(1)

    def right(
        self, model: Any, rows: Int[Tensor, "windows 2 window"]
    ) -> Bool[Tensor, "windows predicted"]:
        import torch

        from tensorpress.objectives.token_losses import likeliest

        found = [
            likeliest(model, ids, asked) == rows[:, 0, asked] for asked, ids in self._passes(rows)
        ]
        return torch.stack(found, dim=2).flatten(1)

    def run(self, model: Any, rows: Int[Tensor, "windows 2 window"]) -> None:
        for _, ids in self._passes(rows):
            model.base_model(input_ids=ids)

    def _passes(self, rows: Int[Tensor, "windows 2 window"]) -> list[tuple[slice, Tensor]]:
        """Positions that are asked for and ids that the model is given, pass by pass."""
        predicted = self.predicted(rows.shape[2])
        found = []
        for first in range(predicted.start, predicted.start + STRIDE):
            asked = slice(first, predicted.stop, STRIDE)
            ids = rows[:, 0].clone()
            ids[:, asked] = rows[:, 1, asked]
            found.append((asked, ids))
        return found


OBJECTIVE = MaskedLM()
