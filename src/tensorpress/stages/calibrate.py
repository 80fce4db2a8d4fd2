"""Rule calibrate: second moments of every module's inputs, one file a layer."""

from __future__ import annotations

from pathlib import Path

import torch

from tensorpress.artifacts import CalibrationArtifact
from tensorpress.calibration import calibrate, calibration_rows
from tensorpress.loading import load_model, load_tokenizer
from tensorpress.moments import save_moments
from tensorpress.objectives import registry
from tensorpress.oom import CPU


def run(
    made: CalibrationArtifact,
    model: Path,
    corpus: Path,
    target: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Pass the text through the model and write the moments."""
    settings = made.settings
    text = corpus.read_text(encoding="utf-8")
    objective = registry.load(made.model.family.objective)
    rows = calibration_rows(objective, load_tokenizer(model), text, settings)
    shapes = made.model.shapes[:-1]  # the outer one has no inputs
    # calibration brings it to the device, after it has replaced modules
    network = load_model(model, CPU, dtype)
    layers = calibrate(
        network, made.model.family, shapes, rows, settings.batch, device, settings.gradients
    )
    save_moments(layers, objective.ids(rows).numel(), target)
