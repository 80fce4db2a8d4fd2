"""Task ``moe``: experts and router of a mixture, before and after compression.

The models run one after the other (``evaluation.mixture``). Drift reads the dense experts from
their checkpoint, one projection of one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

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
from tensorpress.checkpoint import Checkpoint
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.mixture import (
    LayerView,
    Matrices,
    expert_matrices,
    observe,
)
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.evaluation.specs import MoeDiagnostics
from tensorpress.evaluation.windows import token_windows
from tensorpress.loading import load_tokenizer
from tensorpress.numbers import spans
from tensorpress.rows import EvalRow


@torch.inference_mode()
def evaluate(job: EvaluationJob, spec: MoeDiagnostics) -> list[EvalRow]:
    """Overlap, alignment, drift and routing of every layer that has experts.

    Metrics of one model end in ``_dense`` or ``_compressed``, what chance gives in ``_random``.
    """
    checkpoint = Checkpoint.open(job.dense)
    architecture = checkpoint.architecture
    tokenizer = load_tokenizer(job.run_directory)
    windows = token_windows(tokenizer, job.text("text"), spec.window, spec.max_windows)

    def work(model: PreTrainedModel, device: torch.device, batch: int) -> list[LayerView]:
        return observe(model, architecture, windows, batch, device)

    # no name for the dense model: it is gone before the compressed one comes
    dense = job.run("moe", job.model(job.dense), work, spec.batch, spill=False)
    model = job.model(job.run_directory)
    compressed = job.run("moe", model, work, spec.batch, spill=False)
    protocol = text_protocol(
        job, "text", window=spec.window, dtype=job.dtype, max_windows=spec.max_windows
    )
    rows = []
    for layer, before, after in zip(architecture.expert_layers, dense, compressed, strict=True):
        matrices = expert_matrices(model, architecture, layer)
        experts = architecture.shape(layer).experts
        for metric, subject, value, samples in (
            *_band_metrics(before, after),
            *_routing_metrics(before, after, experts),
            *_drifts(checkpoint, layer, matrices),
        ):
            words, same = protocol.words, protocol.id
            rows.append(EvalRow(metric, value, None, samples, words, same, layer, subject))
        for state, view in (("dense", before), ("compressed", after)):
            idle = without_tokens(view.chosen, experts)
            rows.append(
                EvalRow(
                    f"experts_without_tokens_{state}",
                    len(idle),
                    None,
                    len(view.chosen),
                    protocol.words,
                    protocol.id,
                    layer,
                    "router",
                    spans(idle),
                )
            )
    return rows


Metric = tuple[str, str, float, int]
"""Metric, subject, value, and how many values it is the mean of."""


def _band_metrics(before: LayerView, after: LayerView) -> Iterator[Metric]:
    for state, view in (("dense", before), ("compressed", after)):
        for band in view.bands:
            values, count = band.values, len(band.values)
            yield f"{band.metric}_{state}", band.subject, float(values.mean()), count
            yield f"{band.metric}_max_{state}", band.subject, float(values.max()), count
    for band in before.bands:
        yield f"{band.metric}_random", band.subject, band.chance, 1


def _routing_metrics(before: LayerView, after: LayerView, experts: int) -> Iterator[Metric]:
    jaccard, exact = agreement(before.chosen, after.chosen)
    entropies = entropy_nats(before.probabilities), entropy_nats(after.probabilities)
    means: dict[str, Tensor] = {
        "jaccard": jaccard,
        "exact_agreement": exact.double(),
        "jsd_nats": divergence_nats(before.probabilities, after.probabilities),
        "entropy_nats_dense": entropies[0],
        "entropy_nats_compressed": entropies[1],
        "entropy_change_nats": entropies[1] - entropies[0],
    }
    for metric, values in means.items():
        yield metric, "router", float(values.mean()), len(values)
    divergence = assignment_kl_nats(before.chosen, after.chosen, experts)
    yield "assignment_kl_nats", "router", divergence, before.chosen.numel()


def _drifts(checkpoint: Checkpoint, layer: int, matrices: Matrices) -> Iterator[Metric]:
    for module, matrix in matrices.items():
        dense = checkpoint.weight(layer, module)
        for expert, weight in enumerate(dense):
            yield "drift", f"{module}.{expert}", drift(weight, matrix(expert).cpu()), 1
