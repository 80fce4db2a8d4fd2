"""Rule advise: which method and size for every module of a model."""

from __future__ import annotations

from pathlib import Path

import torch

from tensorpress.files.atomic import replacing
from tensorpress.planning.artifacts import AdviceArtifact
from tensorpress.running.oom import with_fallback
from tensorpress.stages.advice import advise


def run(
    made: AdviceArtifact, model: Path, moments: Path, target: Path, device: torch.device
) -> None:
    """Write the choices as JSON."""
    advice = with_fallback(
        "advise",
        lambda where, _: advise(model, moments, made.spec, made.dtype, where),
        device,
    )
    with replacing(target) as temporary:
        temporary.write_text(advice.model_dump_json(indent=1), encoding="utf-8")
