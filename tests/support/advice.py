"""The options of advice of a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.moments import load_moments, tokens_of
from tensorpress.files.paths import moments
from tensorpress.methods.advised import Choice
from tensorpress.running.oom import CPU
from tensorpress.stages.options import options


def found_in(directory: Path, folder: Path, layer: int, methods: tuple[str, ...]) -> list[Choice]:
    """The options of a layer of a checkpoint whose moments lie in a folder."""
    checkpoint = Checkpoint.open(directory)
    shape, file = checkpoint.architecture.shape(layer), moments(folder / "moments", layer)
    weights = dict(LayerWeights(checkpoint, layer, tuple(shape.modules), CPU))
    sites, tokens = load_moments(file, CPU), tokens_of(file)
    return list(options(weights, layer, shape, sites, tokens, 32, methods, 64))
