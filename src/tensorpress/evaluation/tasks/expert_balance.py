"""Task ``expert_balance``: how the routers of a mixture use its experts."""

from __future__ import annotations

from functools import partial

import torch
from transformers import PreTrainedModel

from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.expert_balance import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.evaluation.routing import LayerRouting, routing
from tensorpress.objectives.windows import token_windows

BATCH = 16
"""Windows of one forward pass."""


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Every measure of each layer, and the least of the effective numbers of experts."""
    architecture = Checkpoint.open(job.run_directory).architecture
    tokenizer = load_tokenizer(job.run_directory)
    windows = token_windows(tokenizer, job.text("text"), spec.window, spec.max_windows)

    def work(model: PreTrainedModel, device: torch.device, batch: int) -> dict[int, LayerRouting]:
        return routing(model, architecture, windows, spec.groups, device, batch)

    model = job.model(job.run_directory)
    layers = job.with_fallback("expert_balance", model, work, BATCH, spill=spec.groups is None)
    protocol = text_protocol(
        job, "text", window=spec.window, dtype=job.dtype, max_windows=spec.max_windows
    )
    row = partial(EvalRow, samples=windows.numel(), version=protocol.words, protocol=protocol.id)
    rows = [
        row(metric=metric, value=value, layer=layer)
        for layer, found in layers.items()
        for metric, value in found.measures(windows.flatten())
    ]
    least = min(each.value for each in rows if each.metric == "effective_experts")
    return [row(metric="effective_experts_min", value=least), *rows]
