"""Rule calibrate: second moments of every module's inputs, one file a layer."""

from __future__ import annotations

from pathlib import Path

import torch

from tensorpress.checkpoints.loading import load_model, load_reader
from tensorpress.checkpoints.moments import save_moments
from tensorpress.planning.artifacts import CalibrationArtifact
from tensorpress.running.oom import CPU
from tensorpress.stages.calibration import calibrate, calibration_rows


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
    architecture = made.model.architecture
    rows = calibration_rows(architecture.objective, load_reader(model), text, settings)
    # calibration brings it to the device, after it has replaced modules
    network = load_model(model, CPU, dtype)
    layers = calibrate(network, architecture, rows, settings.batch, device, settings.gradients)
    save_moments(layers, len(rows) * settings.window, target)
