"""Rule stream: second moments of what a model's norms hand on, for transforms that go by them."""

from __future__ import annotations

from pathlib import Path

import torch

from tensorpress.checkpoints.loading import load_model, load_reader
from tensorpress.checkpoints.tensorfile import save_tensors
from tensorpress.files.atomic import replacing
from tensorpress.planning.artifacts import StreamArtifact
from tensorpress.running.oom import CPU
from tensorpress.stages.calibration import calibration_rows
from tensorpress.stages.residual import norm_moments


def run(
    made: StreamArtifact,
    model: Path,
    corpus: Path,
    target: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Pass the text through the model and write the moments."""
    settings, architecture = made.settings, made.model.architecture
    text = corpus.read_text(encoding="utf-8")
    rows = calibration_rows(architecture.objective, load_reader(model), text, settings)
    network = load_model(model, CPU, dtype)
    moments = norm_moments(network, architecture, rows, settings.batch, device)
    tokens = len(rows) * settings.window
    with replacing(target) as temporary:
        save_tensors(moments, {"tokens": str(tokens)}, temporary)
