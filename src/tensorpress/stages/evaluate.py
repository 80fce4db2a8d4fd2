"""Rule evaluate: metrics of one task on one compressed checkpoint."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch

from tensorpress import paths
from tensorpress.artifacts import EvaluationArtifact
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.rows import EvalRow, write_rows


def run(
    made: EvaluationArtifact,
    checkpoint: Path,
    target: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Measure and write the rows."""
    task = EvaluationJob(
        run_directory=checkpoint,
        dense_directory=made.dense.checkpoint if made.dense else None,
        corpora={role: paths.corpus(corpus.id) for role, corpus in made.corpora.items()},
        device=device,
        moments_directory=made.moments[0] if made.moments else None,
        dtype=str(dtype).removeprefix("torch."),
        joined={role: corpus.spec.joined for role, corpus in made.corpora.items()},
    )
    rows = import_module(made.spec.entry).evaluate(task, made.spec)
    write_rows(task.noted(rows), EvalRow, target)
