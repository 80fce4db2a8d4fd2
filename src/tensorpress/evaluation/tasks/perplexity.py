"""Task ``perplexity``: perplexity and bits per byte of a run on a corpus."""

from __future__ import annotations

from functools import partial

from tensorpress.checkpoints.loading import load_reader, objective_of
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.perplexity import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.perplexity import perplexity
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.evaluation.text_bytes import predicted_bytes
from tensorpress.objectives.base import PredictingTokens, predicting


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Spec, or the objective's own measure, and bits per byte of the same tokens, where it is of text."""
    objective = predicting(objective_of(job.run_directory), "task perplexity")
    protocol = text_protocol(
        job,
        "text",
        window=spec.window,
        dtype=job.dtype,
        max_windows=spec.max_windows,
        characters=spec.characters,
        bos=spec.bos,
        question=objective.question,
    )
    reader = load_reader(job.run_directory)
    text = job.text("text")[: spec.characters]
    rows = objective.rows(reader, text, spec.window, spec.max_windows, spec.bos)
    counted = None
    if isinstance(objective, PredictingTokens):
        counted = predicted_bytes(
            job,
            reader,
            text,
            objective.ids(rows),
            objective.text(spec.window, spec.bos),
            objective.predicted(spec.window, spec.bos),
        )
    result = job.with_fallback(
        "perplexity",
        job.model(job.run_directory),
        lambda model, device, batch: perplexity(model, objective, rows, batch, device, counted),
        spec.batch,
    )
    row = partial(EvalRow, version=protocol.words, protocol=protocol.id)
    found = [
        row(
            metric=objective.metric,
            value=result.perplexity,
            stderr=result.perplexity_stderr,
            stderr_samples=len(result.window_nats),
            samples=result.tokens,
            observations=result.window_nats,
        )
    ]
    if result.bits_per_byte is not None:
        found.append(row(metric="bits_per_byte", value=result.bits_per_byte, samples=result.bytes))
    return found
