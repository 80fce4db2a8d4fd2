"""Task ``geometry``: where and how far compression moves the activations of every layer.

The models run one after the other: the dense one first, its activations go to a temporary file
(``tokens x layers x 5 x hidden`` float32 values), then the compressed one, whose activations meet
the dense ones layer by layer and batch by batch. So memory holds the weights of one model, one
layer of one batch of both, and a few numbers a token; the price is disk, which ``max_windows``
bounds. Two resident models in lockstep would need no disk but twice the memory of weights, which
is what a big model lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.analysis.geometry import (
    DELTAS,
    MEASURES,
    POINTS,
    compare,
    summarise,
    with_deltas,
)
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.geometry import Spec
from tensorpress.evaluation.activations import Points, scratch, stream_points
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.protocols import Protocol, text_protocol
from tensorpress.objectives.windows import token_windows

PLACES = (*POINTS, *DELTAS)


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Mean, median and deviation of each measure at each point of each layer.

    ``samples`` counts the tokens with a meaningful value; a measure that has none (the cosine of a
    dropped module's output) has no row.
    """
    tokenizer = load_tokenizer(job.run_directory)
    windows = token_windows(tokenizer, job.text("text"), spec.window, spec.max_windows)
    protocol = text_protocol(
        job, "text", window=spec.window, dtype=job.dtype, max_windows=spec.max_windows
    )
    measured = _measure(job, spec, windows)
    rows = []
    for layer, points in enumerate(measured):
        for point, measures in zip(PLACES, points, strict=True):
            for measure, values in zip(MEASURES, measures, strict=True):
                rows += _rows(layer, point, measure, values, protocol)
    return rows


def _measure(job: EvaluationJob, spec: Spec, windows: Tensor) -> Tensor:
    """``(layers, points, measures, tokens)`` in float64."""
    architecture = Checkpoint.open(job.dense).architecture
    layers, hidden = architecture.layers, architecture.shape(0).hidden_size
    tokens = windows.numel()
    measured = torch.empty(layers, len(PLACES), len(MEASURES), tokens, dtype=torch.float64)
    with scratch(layers, len(POINTS), tokens, hidden) as stored:

        def record(places: slice, layer: int, points: Points) -> None:
            for index, name in enumerate(POINTS):
                stored[layer, index, places] = points[name]

        def meet(places: slice, layer: int, points: Points) -> None:
            dense = stored[layer, :, places].to(points["layer_input"].device)
            before = with_deltas(dict(zip(POINTS, dense, strict=True)))
            after = with_deltas(points)
            for index, name in enumerate(PLACES):
                measured[layer, index, :, places] = compare(before[name], after[name])

        for directory, consume in ((job.dense, record), (job.run_directory, meet)):

            def work(model: PreTrainedModel, device: torch.device, batch: int) -> None:
                stream_points(model, architecture, windows, batch, device, consume)  # noqa: B023

            # no name for the model: the first is gone before the second comes
            job.with_fallback("geometry", job.model(directory), work, spec.batch)
    return measured


def _rows(
    layer: int, point: str, measure: str, values: Tensor, protocol: Protocol
) -> list[EvalRow]:
    summary = summarise(values)
    if summary is None:
        return []
    statistics = {
        "mean": summary.mean,
        "median": summary.median,
        "deviation": summary.deviation,
    }
    return [
        EvalRow(
            metric=measure,
            value=value,
            statistic=name,
            samples=summary.tokens,
            version=protocol.words,
            protocol=protocol.id,
            layer=layer,
            point=point,
        )
        for name, value in statistics.items()
    ]
