"""Settings of the task ``sentence_fidelity``. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WindowsTask


class Spec(WindowsTask):
    """How far compression moves embeddings of sentences, and what it costs to find neighbours."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.sentence_fidelity"
    objectives: ClassVar[Collection[str]] = ("masked_lm", "encoding")
    needs_dense: ClassVar[bool] = True
    keeps_logits: ClassVar[bool] = False

    kind: Literal["sentence_fidelity"]
    window: int = Field(128, ge=3, description="tokens of a sentence at most; what is over is cut")
    pairs: int = Field(256, ge=2, description="pairs of sentences that follow each other, at most")
    least_words: int = Field(6, ge=1, description="shorter sentences are passed over")
    batch: int = Field(32, ge=1, description="sentences of one forward pass")
