"""Settings of the task ``geometry``. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tensorpress.config.base_task import WindowsTask


class Spec(WindowsTask):
    """Where compression moves each layer's activations: cosine, angle, norms, differences."""

    entry: ClassVar[str] = "tensorpress.evaluation.tasks.geometry"
    keeps_logits: ClassVar[bool] = False
    needs_dense: ClassVar[bool] = True

    kind: Literal["geometry"]
    max_windows: int = Field(
        16, ge=1, description="each puts 20 * layers * hidden * window bytes on disk for a while"
    )
    batch: int = Field(4, ge=1, description="windows of one forward pass")
