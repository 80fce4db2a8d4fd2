"""Task ``expert_balance``: how evenly the router uses the experts of each layer."""

from __future__ import annotations

from functools import partial

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.expert_balance import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.routing import BATCH, effective_experts
from tensorpress.objectives.windows import token_windows


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Effective experts (exponential of the assignment entropy) per layer, and the least."""
    tokenizer = load_tokenizer(job.run_directory)
    windows = token_windows(tokenizer, job.text("text"), spec.window, spec.max_windows)
    counts = job.with_fallback(
        "expert_balance",
        job.model(job.run_directory),
        lambda model, device, batch: effective_experts(model, windows, device, batch),
        BATCH,
    )
    row = partial(EvalRow, samples=windows.numel())
    rows = [
        row(metric="effective_experts", value=count, layer=layer)
        for layer, count in enumerate(counts)
    ]
    return [row(metric="effective_experts_min", value=min(counts)), *rows]
