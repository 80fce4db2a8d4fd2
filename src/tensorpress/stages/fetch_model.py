"""Rule fetch_model: train, copy or download one model and verify it."""

from __future__ import annotations

from pathlib import Path

import torch

from tensorpress.planning.artifacts import ModelArtifact
from tensorpress.stages.fetching import fetch_model


def run(
    model: ModelArtifact, target: Path, threads: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Write the checkpoint; an embedded model is trained in ``dtype``."""
    stored = str(model.architecture.config.get("dtype"))
    fetch_model(model.name, model.spec, target, device, threads, dtype, stored)
