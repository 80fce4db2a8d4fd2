"""Settings of the task ``expert_balance``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WindowsTask


class Spec(WindowsTask):
    """Effective number of experts per layer: exponential of the assignment entropy."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.expert_balance"
    needs_experts: ClassVar[bool] = True

    kind: Literal["expert_balance"]
    max_windows: int = Field(64, ge=1)
