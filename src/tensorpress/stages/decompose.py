"""Rule decompose: factors of one module group of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tensorpress.checkpoints.factorfile import save_factors
from tensorpress.checkpoints.rows import DecompositionRow, write_rows
from tensorpress.files import paths
from tensorpress.methods.factors import Factors
from tensorpress.methods.registry import spec_class
from tensorpress.planning.artifacts import DecompositionArtifact
from tensorpress.running.oom import with_fallback
from tensorpress.stages.decomposition import decompose_layer, measure


def run(
    made: DecompositionArtifact,
    layer: int,
    model: Path,
    moments: Sequence[Path],
    advice: Sequence[Path],
    larger: Sequence[Path],
    factors: Path,
    rows: Path,
    device: torch.device,
) -> None:
    """Write factors and their errors; ``moments``, ``advice``, ``larger``: one or none."""
    spec = made.spec.completed(advice, layer)
    made = replace(made, spec=spec_class("dense")(method="dense") if spec.keeps_all else spec)
    shapes = made.model.architecture.shape(layer).modules

    def work(where: torch.device, _: int) -> tuple[list[Factors], list[DecompositionRow]]:
        """Factors and rows, from the weights on."""
        file = paths.moments(moments[0], layer) if moments else None
        found, seconds, weights = decompose_layer(
            model,
            made.spec,
            made.group,
            layer,
            file,
            where,
            larger[0] if larger else None,
        )
        return found, measure(found, weights.matrices, shapes, made, layer, seconds, file)

    found, measured = with_fallback("decompose", work, device)
    save_factors(found, factors)
    write_rows(measured, DecompositionRow, rows)
