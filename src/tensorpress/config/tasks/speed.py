"""Settings of the task ``speed``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask


class Spec(BaseTask):
    """Tokens per second and peak memory, dense against compressed in the same job."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.speed"
    needs_dense: ClassVar[bool] = True
    measures_time: ClassVar[bool] = True

    kind: Literal["speed"]
    batch: int = Field(4, ge=1)
    prompt_tokens: int = Field(256, ge=2)
    new_tokens: int = Field(16, ge=1)
    repeats: int = Field(5, ge=1, description="rounds of dense then compressed; medians count")

    @property
    def positions(self) -> dict[str, int]:
        return {"prompt_tokens + new_tokens": self.prompt_tokens + self.new_tokens}
