"""Evaluation tasks as written in ``params.yaml``: one settings class per kind.

Torch-free. ``entry`` names the module whose ``evaluate`` does the work; a new kind is one class
here, listed in ``TaskSpec``, and one such module.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class BaseTask(BaseModel):
    """Fields and facts that every kind of task has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entry: ClassVar[str]
    needs_dense: ClassVar[bool] = False
    """Whether the uncompressed model is measured beside the compressed one, in the same job."""
    needs_experts: ClassVar[bool] = False
    """Whether only mixture-of-experts models can run it."""

    @property
    def corpora(self) -> dict[str, str]:
        """Role -> name of each corpus that the task reads."""
        return {}


class Perplexity(BaseTask):
    """Perplexity and bits per byte on non-overlapping windows of a corpus."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.perplexity"

    kind: Literal["perplexity"]
    corpus: str
    window: int = Field(256, ge=2, description="tokens of one window")
    max_windows: int | None = Field(None, ge=1, description="windows read; null: all of them")
    batch: int = Field(16, ge=1, description="windows of one forward pass")
    characters: int | None = Field(None, ge=1, description="leading characters read; null: all")

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}


class Cloze(BaseTask):
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


class LastWord(BaseTask):
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


class Speed(BaseTask):
    """Tokens per second and peak memory, dense against compressed in the same job."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.speed"
    needs_dense: ClassVar[bool] = True

    kind: Literal["speed"]
    batch: int = Field(4, ge=1)
    prompt_tokens: int = Field(256, ge=2)
    new_tokens: int = Field(16, ge=1)
    repeats: int = Field(5, ge=1, description="rounds of dense then compressed; medians count")


class Ngram(BaseTask):
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


class ExpertBalance(BaseTask):
    """Effective number of experts per layer: exponential of the assignment entropy."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.expert_balance"
    needs_experts: ClassVar[bool] = True

    kind: Literal["expert_balance"]
    corpus: str
    window: int = Field(256, ge=2)
    max_windows: int = Field(64, ge=1)

    @property
    def corpora(self) -> dict[str, str]:
        return {"text": self.corpus}


TaskSpec = Annotated[
    Perplexity | Cloze | LastWord | Speed | Ngram | ExpertBalance, Field(discriminator="kind")
]
