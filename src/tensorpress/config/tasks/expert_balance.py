"""Settings of the task ``expert_balance``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.architecture import Architecture
from tensorpress.config.base_task import WindowsTask
from tensorpress.errors import TensorpressError


class Spec(WindowsTask):
    """How each layer's router uses its experts: loads, and what an expert says of its tokens."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.expert_balance"
    keeps_logits: ClassVar[bool] = False
    needs_experts: ClassVar[bool] = True

    kind: Literal["expert_balance"]
    max_windows: int = Field(64, ge=1)
    groups: int | None = Field(
        None, ge=2, description="of experts that follow each other, measured too; null: none"
    )

    def check_architecture(self, where: str, architecture: Architecture) -> None:
        for layer in architecture.expert_layers:
            experts = architecture.shape(layer).experts
            if self.groups is not None and experts % self.groups:
                dividers = [n for n in range(2, experts + 1) if experts % n == 0]
                raise TensorpressError(
                    f"{where}.groups: {self.groups} is not allowed; allowed: "
                    f"{', '.join(map(str, dividers))}, which divide the {experts} experts of layer "
                    f"{layer}"
                )
