"""Task ``moe``: experts and router of a mixture, before and after compression.

The models run one after the other (``evaluation.mixture``). Drift reads the dense experts from
their checkpoint, one projection of one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.analysis.moe import (
    agreement,
    assignment_kl_nats,
    divergence_nats,
    drift,
    entropy_nats,
    without_tokens,
)
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.moe import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.mixture import (
    LayerView,
    Matrices,
    expert_matrices,
    observe,
)
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.files.numbers import spans
from tensorpress.objectives.windows import token_windows


@torch.inference_mode()
def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Overlap, alignment, drift and routing of every layer that has experts.

    What is of one model, or what chance gives, says so by its ``state``.
    """
    checkpoint = Checkpoint.open(job.dense)
    architecture = checkpoint.architecture
    tokenizer = load_tokenizer(job.run_directory)
    windows = token_windows(tokenizer, job.text("text"), spec.window, spec.max_windows)

    def work(model: PreTrainedModel, device: torch.device, batch: int) -> list[LayerView]:
        return observe(model, architecture, windows, batch, device)

    # no name for the dense model: it is gone before the compressed one comes
    dense = job.with_fallback("moe", job.model(job.dense), work, spec.batch, spill=False)
    model = job.model(job.run_directory)
    compressed = job.with_fallback("moe", model, work, spec.batch, spill=False)
    protocol = text_protocol(
        job, "text", window=spec.window, dtype=job.dtype, max_windows=spec.max_windows
    )
    rows = []
    for layer, before, after in zip(architecture.expert_layers, dense, compressed, strict=True):
        matrices = expert_matrices(model, architecture, layer)
        rows += [
            replace(row, layer=layer, version=protocol.words, protocol=protocol.id)
            for row in (
                *_band_rows(before, after),
                *_routing_rows(before, after, architecture.shape(layer).experts),
                *_drift_rows(checkpoint, layer, matrices),
            )
        ]
    return rows


def _band_rows(before: LayerView, after: LayerView) -> Iterator[EvalRow]:
    """Mean and maximum over pairs or experts, in both models, and what chance gives."""
    for state, view in (("dense", before), ("compressed", after)):
        for band in view.bands:
            row = partial(
                EvalRow,
                metric=band.metric,
                module=band.module,
                state=state,
                samples=len(band.values),
            )
            yield row(value=float(band.values.mean()))
            yield row(value=float(band.values.max()), statistic="max")
    for band in before.bands:
        yield EvalRow(
            metric=band.metric, module=band.module, state="random", value=band.chance, samples=1
        )


def _routing_rows(before: LayerView, after: LayerView, experts: int) -> Iterator[EvalRow]:
    """Means over tokens, and which experts received none."""
    jaccard, exact = agreement(before.chosen, after.chosen)
    entropies = entropy_nats(before.probabilities), entropy_nats(after.probabilities)
    means: dict[tuple[str, str | None], Tensor] = {
        ("jaccard", None): jaccard,
        ("exact_agreement", None): exact.double(),
        ("jsd_nats", None): divergence_nats(before.probabilities, after.probabilities),
        ("entropy_nats", "dense"): entropies[0],
        ("entropy_nats", "compressed"): entropies[1],
        ("entropy_change_nats", None): entropies[1] - entropies[0],
    }
    row = partial(EvalRow, module="router")
    for (metric, state), values in means.items():
        yield row(metric=metric, state=state, value=float(values.mean()), samples=len(values))
    yield row(
        metric="assignment_kl_nats",
        value=assignment_kl_nats(before.chosen, after.chosen, experts),
        samples=before.chosen.numel(),
    )
    for state, view in (("dense", before), ("compressed", after)):
        idle = without_tokens(view.chosen, experts)
        yield row(
            metric="experts_without_tokens",
            state=state,
            value=len(idle),
            samples=len(view.chosen),
            text=spans(idle),
        )


def _drift_rows(checkpoint: Checkpoint, layer: int, matrices: Matrices) -> Iterator[EvalRow]:
    for module, matrix in matrices.items():
        dense = checkpoint.weight(layer, module)
        for expert, weight in enumerate(dense):
            value = drift(weight, matrix(expert).cpu())
            yield EvalRow(metric="drift", module=module, expert=expert, value=value, samples=1)
