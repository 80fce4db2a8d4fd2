"""Rule evaluate: metrics of one task on one compressed checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from tensorpress.checkpoints.rows import EvalRow, write_rows
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.files.storage import dtype_name
from tensorpress.planning.artifacts import EvaluationArtifact


def run(
    made: EvaluationArtifact,
    checkpoint: Path,
    dense: Sequence[Path],
    moments: Sequence[Path],
    corpora: Sequence[Path],
    target: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Write the rows; ``dense``, ``moments``: one or none, ``corpora`` in the order of roles."""
    task = EvaluationJob(
        run_directory=checkpoint,
        dense_directory=dense[0] if dense else None,
        corpora=dict(zip(made.corpora, corpora, strict=True)),
        device=device,
        moments_directory=moments[0] if moments else None,
        dtype=dtype_name(dtype),
        joined={role: corpus.spec.joined for role, corpus in made.corpora.items()},
    )
    rows = import_module(made.spec.entry).evaluate(task, made.spec)
    write_rows(task.noted(rows), EvalRow, target)
