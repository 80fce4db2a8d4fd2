"""Task ``perplexity``: perplexity and bits per byte of a run on a corpus."""

from __future__ import annotations

from functools import partial

from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.perplexity import perplexity
from tensorpress.evaluation.protocols import text_protocol
from tensorpress.evaluation.specs import Perplexity
from tensorpress.evaluation.text_bytes import predicted_bytes
from tensorpress.evaluation.windows import token_windows
from tensorpress.loading import load_tokenizer
from tensorpress.rows import EvalRow


def evaluate(job: EvaluationJob, spec: Perplexity) -> list[EvalRow]:
    """Perplexity with its standard error over windows, and bits per byte of the same tokens."""
    protocol = text_protocol(
        job,
        "text",
        window=spec.window,
        dtype=job.dtype,
        max_windows=spec.max_windows,
        characters=spec.characters,
        bos=spec.bos,
    )
    tokenizer = load_tokenizer(job.run_directory)
    text = job.text("text")[: spec.characters]
    windows = token_windows(tokenizer, text, spec.window, spec.max_windows, spec.bos)
    counted = predicted_bytes(job, tokenizer, text, windows, spec.bos)
    result = job.run(
        "perplexity",
        job.model(job.run_directory),
        lambda model, device, batch: perplexity(model, windows, batch, device, counted),
        spec.batch,
    )
    row = partial(EvalRow, version=protocol.words, protocol=protocol.id)
    return [
        row(
            metric="perplexity",
            value=result.perplexity,
            stderr=result.perplexity_stderr,
            stderr_samples=result.windows,
            samples=result.tokens,
        ),
        row(metric="bits_per_byte", value=result.bits_per_byte, samples=result.bytes),
    ]
