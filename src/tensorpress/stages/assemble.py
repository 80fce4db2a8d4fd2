"""Rule assemble: a compressed checkpoint out of a model and its factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tensorpress.checkpoints.manifest import write_manifest
from tensorpress.checkpoints.rows import StorageRow, write_rows
from tensorpress.files.atomic import replacing
from tensorpress.planning.artifacts import CheckpointArtifact
from tensorpress.stages.assembly import assemble


def run(
    made: CheckpointArtifact,
    model: Path,
    original: Path,
    factors: Sequence[Path],
    errors: Sequence[Path],
    checkpoint: Path,
    rows: Path,
) -> None:
    """Write the checkpoint, its manifest, and its bits; factors and errors in placements' order.

    ``original``: the fetched model that ``model`` is or was made of.
    """
    placements = [
        replace(placement, factors=file, rows=measured)
        for placement, file, measured in zip(made.placements, factors, errors, strict=True)
    ]
    with replacing(checkpoint) as target:
        storage, sets = assemble(model, placements, made.dtype, target, made.rounding, original)
        if sets:
            write_manifest(sets, made.dtype, target)
    write_rows([storage], StorageRow, rows)
