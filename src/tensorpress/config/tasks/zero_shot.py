"""Settings of the task ``zero_shot``. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask
from tensorpress.sources.hub_datasets import HubDataset
from tensorpress.sources.local_tasks import STANDARD, standard_items


class Spec(BaseTask):
    """A standard multiple-choice task as lm-eval has it, from a local file or from the hub."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.zero_shot"

    kind: Literal["zero_shot"]
    task: Literal[
        "arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande"
    ]
    path: str | None = Field(None, description="JSON lines; null: dataset cache or hub")
    items: int | None = Field(None, ge=2, description="leading items; null: all")
    batch: int = Field(16, ge=1, description="requests of one forward pass")

    @property
    def files(self) -> dict[str, str]:
        return {"path": self.path} if self.path else {}

    @property
    def dataset(self) -> HubDataset | None:
        return None if self.path else STANDARD[self.task].dataset

    def check_files(self, where: str) -> None:
        if self.path:
            standard_items(self.task, Path(self.path), 1, f"{where}.path")
