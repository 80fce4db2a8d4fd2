"""Settings of the task ``hotpotqa``. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask
from tensorpress.sources.local_tasks import question_items


class Spec(BaseTask):
    """HotpotQA without its paragraphs, as TensorLLM measures it: greedy answers, closed book."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.hotpotqa"

    kind: Literal["hotpotqa"]
    path: str = Field(description="JSON lines with question and answer")
    items: int | None = Field(None, ge=2, description="leading questions; null: all")
    batch: int = Field(16, ge=1, description="questions answered at once")

    @property
    def files(self) -> dict[str, str]:
        return {"path": self.path}

    def check_files(self, where: str) -> None:
        question_items(Path(self.path), 1, f"{where}.path")
