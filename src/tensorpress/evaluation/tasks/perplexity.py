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
    """Perplexity, or the objective's own measure; bits per byte of what is predicted of a text."""
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
    result = job.with_fallback(
        "perplexity",
        job.model(job.run_directory),
        lambda model, device, batch: perplexity(model, objective, rows, batch, device),
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
    if isinstance(objective, PredictingTokens):
        held, asked = (
            each(spec.window, spec.bos) for each in (objective.text, objective.predicted)
        )
        counted = predicted_bytes(job, reader, text, objective.ids(rows), held, asked)
        bits = result.bits_per_byte(counted)
        found.append(row(metric="bits_per_byte", value=bits, samples=counted))
    return found
