"""What a model is asked: how a text becomes batches, what is predicted, what measures the answers.

Torch-free at the top, as method files are: planning reads classes and names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from tensorpress.errors import TensorpressError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from tensorpress.objectives.token_losses import Teacher


class Objective(ABC):
    """One kind of question.

    A text becomes *rows*, one a window, whose last dimension are the window's tokens. Whoever
    splits, shuffles or moves rows need not know what stands in them.
    """

    auto_class: ClassVar[str]
    """The class of transformers that builds and loads such models."""
    known_classes: ClassVar[str]
    """The mapping of transformers from ``model_type`` to the classes that ``auto_class`` knows."""
    described: ClassVar[str]
    """Such a model in an error's words."""
    passes: ClassVar[int] = 1
    """Forward passes over a row."""

    @abstractmethod
    def check_window(self, where: str, window: int, bos: bool = False) -> None:
        """Refuse windows that nothing can be asked of; ``where`` begins the error."""

    @abstractmethod
    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
        """Refuse a tokenizer without the tokens that questions need; ``where`` begins the error."""

    @abstractmethod
    def rows(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        window: int,
        max_windows: int | None = None,
        bos: bool = False,
    ) -> Int[Tensor, "windows ..."]:
        """A text as rows of whole windows, without overlap; ``bos``: a BOS begins each of them.

        ``TensorpressError`` if the text is too short for one, or the tokenizer lacks a token.
        """

    @abstractmethod
    def ids(self, rows: Int[Tensor, "windows ..."]) -> Int[Tensor, "windows window"]:
        """The tokens of the windows, as they are."""

    @abstractmethod
    def run(self, model: Any, rows: Int[Tensor, "windows ..."]) -> None:
        """The passes over rows without head and losses, for those who watch layers."""

    @abstractmethod
    def backpropagate(self, model: Any, rows: Int[Tensor, "windows ..."]) -> None:
        """Backpropagate to every output what its changes are weighed by (``analysis.damage``)."""


class Predicting(Objective):
    """Questions for tokens, each of which has a loss: what models are trained and measured by."""

    metric: ClassVar[str]
    """What tells how well a model answers: the exponential of the mean loss, so less is better."""
    question: ClassVar[str | None] = None
    """How a text is asked, for the protocol of a measurement; ``None``: as that says anyway."""

    @abstractmethod
    def text(self, window: int, bos: bool = False) -> slice:
        """The positions of a window that hold text."""

    @abstractmethod
    def predicted(self, window: int, bos: bool = False) -> slice:
        """The positions of a window whose tokens are predicted."""

    @abstractmethod
    def losses(
        self,
        model: PreTrainedModel,
        rows: Int[Tensor, "windows ..."],
        weight: float = 0.0,
        auxiliary: bool = False,
        chunk: int | None = None,
        teacher: Teacher | None = None,
    ) -> Float[Tensor, "windows predicted"]:
        """Loss in nats, float32, of every predicted token; none has a graph.

        ``weight``, ``auxiliary``, ``chunk``, ``teacher``: as in ``token_losses.token_losses``.
        """

    @abstractmethod
    def right(
        self, model: Any, rows: Int[Tensor, "windows ..."]
    ) -> Bool[Tensor, "windows predicted"]:
        """Which of the predicted tokens the model ranks first."""

    def backpropagate(self, model: Any, rows: Int[Tensor, "windows ..."]) -> None:
        self.losses(model, rows, weight=1.0)


def predicting(objective: Objective, where: str) -> Predicting:
    """An objective that has losses; another is refused, ``where`` begins the error."""
    if not isinstance(objective, Predicting):
        raise TensorpressError(
            f"{where} is not allowed for {objective.described}, which predicts nothing; allowed: "
            "models with a head"
        )
    return objective
