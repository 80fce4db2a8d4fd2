"""Settings of the task ``heterogeneity``. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WeightsTask
from tensorpress.objectives.registry import OBJECTIVES


class Spec(WeightsTask):
    """Spectra, subspace overlaps and sharing penalties of an uncompressed model's weights."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.heterogeneity"
    objectives: ClassVar[Collection[str]] = OBJECTIVES

    kind: Literal["heterogeneity"]
    share: float = Field(
        0.25, gt=0, lt=1, description="subspaces compared: share of the smaller side of a matrix"
    )
    saved: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5,), min_length=1, description="share of the values to save, for each sharing penalty"
    )
