"""Settings of the task ``accuracy``. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WindowsTask
from tensorpress.objectives.base import Objective
from tensorpress.objectives.registry import PREDICTING


class Spec(WindowsTask):
    """Share of a corpus's predicted tokens, masked or next ones, that the model ranks first."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.accuracy"
    objectives: ClassVar[Collection[str]] = PREDICTING
    follows_objective: ClassVar[bool] = True

    kind: Literal["accuracy"]
    max_windows: int | None = Field(None, ge=1, description="windows read; null: all of them")
    batch: int = Field(16, ge=1, description="windows of one forward pass")

    def check_objective(self, where: str, objective: Objective) -> None:
        objective.check_window(f"{where}.window", self.window)
