"""What a model is asked: how a text becomes batches, what is predicted, what measures the answers.

Torch-free at the top, as method files are: planning reads classes and names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tensorpress.errors import TensorpressError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num
    from torch import Tensor
    from transformers import PreTrainedModel

    from tensorpress.objectives.token_losses import Teacher


class Objective(ABC):
    """One kind of question.

    A corpus becomes *rows*, one a window of a text or an image. Whoever splits, shuffles or moves
    rows need not know what stands in them. A model folder has a *reader* for them, a tokenizer or
    what scales pixels (``checkpoints.loading.load_reader``).
    """

    auto_class: ClassVar[str]
    """The class of transformers that builds and loads such models."""
    known_classes: ClassVar[str]
    """The mapping of transformers from ``model_type`` to the classes that ``auto_class`` knows."""
    described: ClassVar[str]
    """Such a model in an error's words."""
    passes: ClassVar[int] = 1
    """Forward passes over a row."""
    reads: ClassVar[Literal["text", "images"]] = "text"
    """What corpora hold that it asks about."""

    @abstractmethod
    def check_window(self, where: str, window: int, bos: bool = False) -> None:
        """Refuse windows that nothing can be asked of; ``where`` begins the error."""

    @abstractmethod
    def check_reader(self, reader: Any, where: str) -> None:
        """Refuse a tokenizer without the tokens that questions need; ``where`` begins the error."""

    @abstractmethod
    def rows(
        self,
        reader: Any,
        text: str,
        window: int,
        max_windows: int | None = None,
        bos: bool = False,
    ) -> Num[Tensor, "windows ..."]:
        """A corpus as rows of whole windows, without overlap; ``bos``: a BOS begins each of them.

        ``TensorpressError`` if it is too short for one, or the tokenizer lacks a token.
        """

    @abstractmethod
    def run(self, model: Any, rows: Num[Tensor, "windows ..."]) -> None:
        """The passes over rows without head and losses, for those who watch layers."""

    @abstractmethod
    def backpropagate(self, model: Any, rows: Num[Tensor, "windows ..."]) -> None:
        """Backpropagate to every output what its changes are weighed by (``analysis.damage``)."""


class Predicting(Objective):
    """Questions with answers, each of which has a loss: what models are trained and measured by."""

    metric: ClassVar[str]
    """What tells how well a model answers: the exponential of the mean loss, so less is better."""
    question: ClassVar[str | None] = None
    """How a text is asked, for the protocol of a measurement; ``None``: as that says anyway."""

    @abstractmethod
    def answers(self, rows: Num[Tensor, "windows ..."]) -> int:
        """How many losses rows have."""

    @abstractmethod
    def losses(
        self,
        model: PreTrainedModel,
        rows: Num[Tensor, "windows ..."],
        weight: float = 0.0,
        auxiliary: bool = False,
        chunk: int | None = None,
        teacher: Teacher | None = None,
    ) -> Float[Tensor, "windows predicted"]:
        """Loss in nats, float32, of every answer; none has a graph.

        ``weight``, ``auxiliary``, ``chunk``, ``teacher``: as in ``token_losses.token_losses``.
        """

    @abstractmethod
    def right(
        self, model: Any, rows: Num[Tensor, "windows ..."]
    ) -> Bool[Tensor, "windows predicted"]:
        """Which of the true answers the model ranks first."""

    def backpropagate(self, model: Any, rows: Num[Tensor, "windows ..."]) -> None:
        self.losses(model, rows, weight=1.0)


class PredictingTokens(Predicting):
    """Questions for tokens of a text."""

    @abstractmethod
    def ids(self, rows: Int[Tensor, "windows ..."]) -> Int[Tensor, "windows window"]:
        """The tokens of the windows, as they are."""

    @abstractmethod
    def text(self, window: int, bos: bool = False) -> slice:
        """The positions of a window that hold text."""

    @abstractmethod
    def predicted(self, window: int, bos: bool = False) -> slice:
        """The positions of a window whose tokens are predicted."""

    def answers(self, rows: Int[Tensor, "windows ..."]) -> int:
        ids = self.ids(rows)
        return ids[:, self.predicted(ids.shape[1])].numel()


def predicting(objective: Objective, where: str) -> Predicting:
    """An objective that has losses; another is refused, ``where`` begins the error."""
    if not isinstance(objective, Predicting):
        raise TensorpressError(
            f"{where} is not allowed for {objective.described}, which predicts nothing; allowed: "
            "models with a head"
        )
    return objective
