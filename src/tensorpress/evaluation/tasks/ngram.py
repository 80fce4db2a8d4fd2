"""Task ``ngram``: a Kneser-Ney n-gram over the model's tokens, as a baseline beside it."""

from __future__ import annotations

from functools import partial

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.ngram import Spec
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.ngram import window_nats
from tensorpress.evaluation.perplexity import PerplexityResult
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.evaluation.text_bytes import predicted_bytes
from tensorpress.objectives.windows import token_windows


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Perplexity and bits per byte of the n-gram on the tokens that ``perplexity`` scores."""
    protocol = text_protocol(job, "text", window=spec.window, dtype="float64")
    tokenizer = load_tokenizer(job.run_directory)
    training = tokenizer(job.text("training"), add_special_tokens=False, verbose=False)
    windows = token_windows(tokenizer, job.text("text"), spec.window)
    found = window_nats(training["input_ids"], windows.tolist(), spec.order, len(tokenizer))
    held, predicted = slice(0, spec.window), slice(1, spec.window)
    counted = predicted_bytes(job, tokenizer, job.text("text"), windows, held, predicted)
    result = PerplexityResult(tuple(found), spec.window - 1)
    words = f"interpolated modified Kneser-Ney, order {spec.order}; {protocol.words}"
    row = partial(EvalRow, version=words, protocol=protocol.id)
    return [
        row(
            metric="perplexity",
            value=result.perplexity,
            stderr=result.perplexity_stderr,
            stderr_samples=len(result.window_nats),
            samples=result.tokens,
            observations=result.window_nats,
        ),
        row(metric="bits_per_byte", value=result.bits_per_byte(counted), samples=counted),
    ]
