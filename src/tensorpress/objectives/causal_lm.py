"""Causal language modelling: every token of a window but its first, given those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from tensorpress.objectives.base import PredictingTokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from tensorpress.objectives.token_losses import Teacher


class CausalLM(PredictingTokens):
    """The next token. Rows are windows of ids."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    known_classes: ClassVar[str] = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
    described: ClassVar[str] = "a causal language model of transformers"
    metric: ClassVar[str] = "perplexity"

    def check_window(self, where: str, window: int, bos: bool = False) -> None:
        """Any will do."""

    def check_reader(self, reader: PreTrainedTokenizerBase, where: str) -> None:
        """Any will do."""

    def rows(
        self,
        reader: PreTrainedTokenizerBase,
        text: str,
        window: int,
        max_windows: int | None = None,
        bos: bool = False,
    ) -> Int[Tensor, "windows window"]:
        from tensorpress.objectives.windows import token_windows

        return token_windows(reader, text, window, max_windows, bos)

    def ids(self, rows: Int[Tensor, "windows window"]) -> Int[Tensor, "windows window"]:
        return rows

    def text(self, window: int, bos: bool = False) -> slice:
        return slice(int(bos), window)

    def predicted(self, window: int, bos: bool = False) -> slice:
        return slice(1, window)

    def losses(
        self,
        model: PreTrainedModel,
        rows: Int[Tensor, "windows window"],
        weight: float = 0.0,
        auxiliary: bool = False,
        chunk: int | None = None,
        teacher: Teacher | None = None,
    ) -> Float[Tensor, "windows predicted"]:
        from tensorpress.objectives.token_losses import token_losses

        asked, targets = slice(0, -1), rows[:, 1:]
        return token_losses(model, rows, asked, targets, weight, auxiliary, chunk, teacher)

    def right(
        self, model: Any, rows: Int[Tensor, "windows window"]
    ) -> Bool[Tensor, "windows predicted"]:
        from tensorpress.objectives.token_losses import likeliest

        return likeliest(model, rows, slice(0, -1)) == rows[:, 1:]

    def run(self, model: Any, rows: Int[Tensor, "windows window"]) -> None:
        model.base_model(input_ids=rows, use_cache=False)


OBJECTIVE = CausalLM()
