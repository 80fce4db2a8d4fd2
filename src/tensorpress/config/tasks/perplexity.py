"""Settings of the task ``perplexity``. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WindowsTask
from tensorpress.files.storage import ComputeDtype
from tensorpress.objectives.base import Objective
from tensorpress.objectives.registry import PREDICTING


class Spec(WindowsTask):
    """Perplexity (of a masked model pseudo-perplexity) and bits per byte on windows of a corpus."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.perplexity"
    keeps_logits: ClassVar[bool] = False
    objectives: ClassVar[Collection[str]] = PREDICTING
    follows_objective: ClassVar[bool] = True

    kind: Literal["perplexity"]
    max_windows: int | None = Field(None, ge=1, description="windows read; null: all of them")
    batch: int = Field(16, ge=1, description="windows of one forward pass")
    characters: int | None = Field(None, ge=1, description="leading characters read; null: all")
    bos: bool = Field(False, description="each window begins with the BOS token")
    dtype: ComputeDtype | None = Field(
        None, description="of weights and activations; null: compute.dtype"
    )

    def runs_in(self, compute: str) -> str:
        return self.dtype or compute

    def check_objective(self, where: str, objective: Objective) -> None:
        objective.check_window(f"{where}.window", self.window, self.bos)
