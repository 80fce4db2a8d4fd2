"""Settings of the task ``last_word``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask


class Spec(BaseTask):
    """The last word of a passage, by greedy decoding and by probability (lm-eval)."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.last_word"

    kind: Literal["last_word"]
    corpus: str
    items: int = Field(200, ge=4)
    context_words: int = Field(60, ge=2)
    seed: int = Field(0, ge=0)

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}
