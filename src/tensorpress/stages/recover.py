"""Rule recover: a compressed checkpoint that was trained on a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tensorpress.checkpoints.loading import load_model, load_reader
from tensorpress.checkpoints.rows import StorageRow, read_rows, write_rows
from tensorpress.config.recovery import Adapters, Distillation, Factors
from tensorpress.files.atomic import replacing
from tensorpress.objectives.token_losses import Teacher
from tensorpress.planning.artifacts import RecoveryArtifact
from tensorpress.running.oom import with_fallback
from tensorpress.stages.healed_checkpoint import write_healed
from tensorpress.stages.healing import heal
from tensorpress.stages.recovery import recover
from tensorpress.stages.recovery_checkpoint import write_recovered


def run(
    made: RecoveryArtifact,
    source: Path,
    dense: Sequence[Path],
    storage: Path,
    corpus: Path,
    checkpoint: Path,
    rows: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Train ``source``, whose bits are in ``storage``, and write what that makes.

    ``dense``: the model that it learns from, if it does.
    """
    text, spec, kind = corpus.read_text(encoding="utf-8"), made.spec, _KINDS[type(made.spec)]
    architecture = made.model.architecture
    asked = architecture.objective.rows(load_reader(source), text, spec.window, bos=spec.bos)

    def work(where: torch.device, batch: int) -> Mapping[str, Any]:
        """What is trained, of a model of its own: training uses it up."""
        model = load_model(source, where, kind.weights or dtype, spill=False)
        teacher = _teacher(dense, spec.distil, model.device, dtype)
        return kind.train(
            model, architecture, asked, spec, made.seed, model.device, batch, teacher, dtype
        )

    trained = with_fallback("recover", work, device, spec.batch)
    (compressed,) = read_rows([storage], StorageRow)
    with replacing(checkpoint) as target:
        row = kind.write(source, trained, spec, made.assembled.dtype, compressed, target)
    write_rows([row], StorageRow, rows)


@dataclass(frozen=True)
class _Kind:
    """How one kind of recovery trains, and writes what it trained."""

    train: Callable[..., Mapping[str, Any]]
    write: Callable[..., StorageRow]
    weights: torch.dtype | None = None
    """Of the model while it is trained; none: that in which models run."""


_KINDS = {
    Adapters: _Kind(recover, write_recovered),
    # a step of a factor is smaller than what bfloat16 tells apart
    Factors: _Kind(heal, write_healed, weights=torch.float32),
}


def _teacher(
    dense: Sequence[Path], spec: Distillation | None, where: torch.device, dtype: torch.dtype
) -> Teacher | None:
    if spec is None:
        return None
    (directory,) = dense
    return Teacher(load_model(directory, where, dtype, spill=False), spec.temperature, spec.share)
