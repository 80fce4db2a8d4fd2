"""Settings of the task ``super_weights``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import BaseTask


class SuperWeightSearch(BaseTask):
    """How super weights are looked for: on a prompt, one more with every forward pass."""

    prompt: str = Field("Apple Inc. is a worldwide tech company.", min_length=1)
    threshold: float = Field(50, gt=0, description="what |input| and |output| of ffn.down exceed")
    iterations: int = Field(16, ge=1, description="most super weights, each a forward pass")


class Spec(SuperWeightSearch):
    """Super weights by the iterative finder, beside the published ones of models of its sizes."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.super_weights"

    kind: Literal["super_weights"]
