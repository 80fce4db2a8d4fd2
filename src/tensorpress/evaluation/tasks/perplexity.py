"""Task ``perplexity``: perplexity and bits per byte of a run on a corpus."""

from __future__ import annotations

from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.perplexity import perplexity, token_windows
from tensorpress.evaluation.specs import Perplexity
from tensorpress.loading import load_model, load_tokenizer
from tensorpress.rows import EvalRow


def evaluate(job: EvaluationJob, spec: Perplexity) -> list[EvalRow]:
    """Perplexity with its standard error over windows, and bits per byte of the same tokens."""
    tokenizer = load_tokenizer(job.run_directory)
    text = job.text("text")[: spec.characters]
    windows = token_windows(tokenizer, text, spec.window, spec.max_windows)
    model = load_model(job.run_directory, job.device)
    result = perplexity(model, tokenizer, windows, spec.batch, job.device)
    version = f"windows of {spec.window}, non-overlapping, float32"
    return [
        EvalRow("perplexity", result.perplexity, result.perplexity_stderr, result.tokens, version),
        EvalRow("bits_per_byte", result.bits_per_byte, None, result.bytes, version),
    ]
