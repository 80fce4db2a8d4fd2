"""Task ``accuracy``: how often the likeliest token, or label, is the true one."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.checkpoints.loading import load_reader, objective_of
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.accuracy import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.evaluation.spread import standard_error
from tensorpress.objectives.base import predicting


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Share of all that is predicted, and of each window, with its standard error."""
    objective = predicting(objective_of(job.run_directory), "task accuracy")
    protocol = text_protocol(
        job,
        "text",
        window=spec.window,
        dtype=job.dtype,
        max_windows=spec.max_windows,
        question=objective.question,
    )
    reader = load_reader(job.run_directory)
    rows = objective.rows(reader, job.text("text"), spec.window, spec.max_windows)

    @torch.inference_mode()
    def answered(model: PreTrainedModel, device: torch.device, batch: int) -> Tensor:
        return torch.cat([objective.right(model, r.to(device)).cpu() for r in rows.split(batch)])

    right = job.with_fallback("accuracy", job.model(job.run_directory), answered, spec.batch)
    shares = tuple(right.double().mean(1).tolist())
    row = EvalRow(
        metric="accuracy",
        value=float(right.double().mean()),
        stderr=standard_error(shares),
        stderr_samples=len(shares),
        samples=right.numel(),
        observations=shares,
        version=protocol.words,
        protocol=protocol.id,
    )
    return [row]
