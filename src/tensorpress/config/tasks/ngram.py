"""Settings of the task ``ngram``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WeightsTask


class Spec(WeightsTask):
    """Kneser-Ney n-gram over the model's own tokens: what a model must beat."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.ngram"

    kind: Literal["ngram"]
    training: str
    corpus: str
    order: int = Field(5, ge=1, le=8)
    window: int = Field(256, ge=2)

    @property
    def corpora(self) -> dict[str, str]:
        return {"training": self.training, "text": self.corpus}
