"""Settings of the task ``restoration``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.architectures.published import SuperWeight
from tensorpress.config.tasks.super_weights import SuperWeightSearch


class Spec(SuperWeightSearch):
    """Errors of a run's factors at super weights, at the next 64 and at 64 random entries."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.restoration"
    needs_dense: ClassVar[bool] = True

    kind: Literal["restoration"]
    super_weights: tuple[SuperWeight, ...] | None = Field(
        None, description="null: those that the finder sees in the dense model"
    )
    seed: int = Field(0, ge=0, description="of the random entries")
