"""Settings of the task ``cloze``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask


class Spec(BaseTask):
    """Multiple choice: which of four passages goes on from the context (lm-eval)."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.cloze"

    kind: Literal["cloze"]
    corpus: str
    items: int = Field(200, ge=4)
    context_words: int = Field(40, ge=1)
    answer_words: int = Field(12, ge=1)
    seed: int = Field(0, ge=0)

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}
