"""Rule transform: a model made of a model, with an architecture of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from tensorpress.checkpoints.moments import NormMoments
from tensorpress.files.atomic import replacing
from tensorpress.planning.artifacts import TransformedArtifact
from tensorpress.stages.transformation import write_transformed


def run(made: TransformedArtifact, model: Path, moments: Sequence[Path], target: Path) -> None:
    """Write the checkpoint; ``moments``: one file, where the transform goes by its norms'."""
    stream: Mapping[str, Tensor] = NormMoments(*moments) if moments else {}
    with replacing(target) as temporary:
        write_transformed(model, made.transform, stream, temporary)
