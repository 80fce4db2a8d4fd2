"""Rule transform: a model made of a model, with an architecture of its own."""

from __future__ import annotations

from pathlib import Path

from tensorpress.files.atomic import replacing
from tensorpress.planning.artifacts import TransformedArtifact
from tensorpress.stages.transformation import write_transformed
from tensorpress.transforms.registry import load


def run(made: TransformedArtifact, model: Path, target: Path) -> None:
    """Write the checkpoint."""
    with replacing(target) as temporary:
        write_transformed(model, load(made.transform), temporary)
