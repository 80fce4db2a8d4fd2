"""Settings of the task ``generation``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask


class Spec(BaseTask):
    """Greedy continuations of five fixed prompts."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.generation"

    kind: Literal["generation"]
    new_tokens: int = Field(40, ge=1)

    @property
    def positions(self) -> dict[str, int]:
        return {"new_tokens": self.new_tokens}
