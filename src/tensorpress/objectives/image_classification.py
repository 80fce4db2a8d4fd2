"""Image classification: the label of an image, one question and one loss an image.

Nothing is shifted and nothing is masked: all tokens of an image, its patches and the class token,
see each other, and the head reads the class token's last state (Dosovitskiy et al. 2021, arXiv
2010.11929).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tensorpress.errors import TensorpressError
from tensorpress.objectives.base import Predicting

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor
    from transformers import PreTrainedModel

    from tensorpress.objectives.images import Scaling
    from tensorpress.objectives.token_losses import Teacher


class ImageClassification(Predicting):
    """An image's label. Rows are images: the label, then the values of all channels.

    A window is an image, of as many tokens as the model makes of it.
    """

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    known_classes: ClassVar[str] = "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"
    described: ClassVar[str] = "an image classifier of transformers"
    reads: ClassVar[Literal["text", "images"]] = "images"
    metric: ClassVar[str] = "label_perplexity"
    question: ClassVar[str | None] = "the label of each image"

    def check_window(self, where: str, window: int, bos: bool = False) -> None:
        """How many tokens an image has is for its model to say (``checks.check_positions``)."""
        if bos:
            raise TensorpressError(
                f"{where}: a BOS before each window is not allowed; allowed: bos: false, for "
                f"{self.described} windows are images"
            )

    def check_reader(self, reader: Scaling, where: str) -> None:
        """Any will do that could be read."""

    def rows(
        self,
        reader: Scaling,
        text: str,
        window: int,
        max_windows: int | None = None,
        bos: bool = False,
    ) -> Float[Tensor, "images 1+values"]:
        self.check_window("window", window, bos)
        if window != reader.tokens:
            raise TensorpressError(
                f"window: {window} is not allowed; allowed: {reader.tokens}, the tokens of an image"
            )
        return reader.rows(text, max_windows)

    def answers(self, rows: Float[Tensor, "images 1+values"]) -> int:
        return len(rows)

    def losses(
        self,
        model: PreTrainedModel,
        rows: Float[Tensor, "images 1+values"],
        weight: float = 0.0,
        auxiliary: bool = False,
        chunk: int | None = None,
        teacher: Teacher | None = None,
    ) -> Float[Tensor, "images 1"]:
        """As ``Predicting`` says; logits are few, so ``chunk`` has no use."""
        import torch
        from torch.nn.functional import cross_entropy

        logits = _logits(model, rows)
        losses = cross_entropy(logits, _labels(rows), reduction="none")
        if weight:
            learnt = losses
            if teacher is not None:
                with torch.no_grad():
                    taught = _logits(teacher.model, rows)
                learnt = teacher.loss(logits, taught, losses)
            (weight * learnt.sum()).backward()
        return losses.detach()[:, None]

    def right(self, model: Any, rows: Float[Tensor, "images 1+values"]) -> Bool[Tensor, "images 1"]:
        import torch

        with torch.no_grad():
            return (_logits(model, rows).argmax(-1) == _labels(rows))[:, None]

    def run(self, model: Any, rows: Float[Tensor, "images 1+values"]) -> None:
        model.base_model(pixel_values=_pixels(model, rows))


def _labels(rows: Tensor) -> Tensor:
    return rows[:, 0].long()


def _pixels(model: Any, rows: Tensor) -> Tensor:
    from tensorpress.objectives.images import shape_of

    shape = shape_of(vars(model.config))
    return rows[:, 1:].view(len(rows), *shape).to(model.dtype)


def _logits(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model(pixel_values=_pixels(model, rows)).logits.float()
    return logits


OBJECTIVE = ImageClassification()
