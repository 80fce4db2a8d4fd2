"""Settings of the task ``moe``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WindowsTask


class Spec(WindowsTask):
    """Subspaces, drift and routing of a mixture's experts, before and after compression."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.moe"
    keeps_logits: ClassVar[bool] = False
    needs_dense: ClassVar[bool] = True
    needs_experts: ClassVar[bool] = True

    kind: Literal["moe"]
    max_windows: int = Field(32, ge=1)
    batch: int = Field(8, ge=1, description="windows of one forward pass")
