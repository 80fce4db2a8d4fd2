"""Rule recover: a compressed checkpoint with adapters trained on a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tensorpress.checkpoints.loading import load_model, load_tokenizer
from tensorpress.checkpoints.rows import StorageRow, read_rows, write_rows
from tensorpress.files.atomic import replacing
from tensorpress.formats.base import Format
from tensorpress.planning.artifacts import RecoveryArtifact
from tensorpress.running.oom import with_fallback
from tensorpress.stages.recovery import recover
from tensorpress.stages.recovery_checkpoint import write_recovered


def run(
    made: RecoveryArtifact,
    source: Path,
    storage: Path,
    corpus: Path,
    checkpoint: Path,
    rows: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Train the adapters of ``source``, whose bits are in ``storage``; write what that makes."""
    text = corpus.read_text(encoding="utf-8")
    architecture = made.model.architecture
    asked = architecture.objective.rows(load_tokenizer(source), text, made.spec.window)

    def work(where: torch.device, batch: int) -> Mapping[str, Format]:
        """Adapters of a model of its own: training uses it up."""
        model = load_model(source, where, dtype, spill=False)
        return recover(model, architecture, asked, made.spec, made.seed, model.device, batch)

    adapters = with_fallback("recover", work, device, made.spec.batch)
    (compressed,) = read_rows([storage], StorageRow)
    with replacing(checkpoint) as target:
        row = write_recovered(source, adapters, made.spec, made.assembled.dtype, compressed, target)
    write_rows([row], StorageRow, rows)
