"""Settings of the task ``prediction``. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from tensorpress.config.base_task import WeightsTask
from tensorpress.objectives.registry import OBJECTIVES


class Spec(WeightsTask):
    """The loss that moments and gradients predict for a run, without evaluating it."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.prediction"
    objectives: ClassVar[Collection[str]] = OBJECTIVES
    needs_dense: ClassVar[bool] = True
    needs_moments: ClassVar[bool] = True

    kind: Literal["prediction"]
