"""Settings of the task ``best_of_family``. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WeightsTask
from tensorpress.objectives.registry import OBJECTIVES


class Spec(WeightsTask):
    """Every tensor format against SVD at equal values, true and scrambled, with its bounds."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.best_of_family"
    objectives: ClassVar[Collection[str]] = OBJECTIVES

    kind: Literal["best_of_family"]
    saved: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (0.5,)
    orders: Annotated[tuple[Annotated[int, Field(ge=2, le=16)], ...], Field(min_length=1)] = Field(
        (2, 3, 4), description="of tensor trains, each of whose mode shapes the best is searched"
    )
    scramblings: int = Field(5, ge=2, description="random orders of rows and columns")
    seed: int = Field(0, ge=0)
