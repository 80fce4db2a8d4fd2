"""Rule assemble: a compressed checkpoint out of a model and its factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tensorpress.artifacts import RunArtifact
from tensorpress.assembly import LayerFactors, assemble
from tensorpress.atomic import replacing
from tensorpress.manifest import Provenance, write_manifest
from tensorpress.rows import StorageRow, write_rows


def run(
    made: RunArtifact,
    model: Path,
    factors: Sequence[Path],
    errors: Sequence[Path],
    checkpoint: Path,
    rows: Path,
) -> None:
    """Write the checkpoint, its manifest, and its bits; factors and errors in placements' order."""
    placed = list(zip(made.placements, factors, errors, strict=True))
    placements = [LayerFactors(p.layer, p.modules, file) for p, file, _ in placed]
    with replacing(checkpoint) as target:
        storage = assemble(model, made.model.family, placements, made.dtype, target, made.rounding)
        if made.placements:
            origins = [
                Provenance(
                    p.layer,
                    p.modules,
                    p.decomposition.spec.method,
                    p.decomposition.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
                    file,
                    measured,
                )
                for p, file, measured in placed
            ]
            write_manifest(origins, made.dtype, target, made.rounding)
    write_rows([storage], StorageRow, rows)
