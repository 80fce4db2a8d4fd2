"""Task ``ngram``: a Kneser-Ney n-gram over the model's tokens, as a baseline beside it."""

from __future__ import annotations

from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.ngram import nll_nats
from tensorpress.evaluation.perplexity import PerplexityResult, byte_count, token_windows
from tensorpress.evaluation.specs import Ngram
from tensorpress.loading import load_tokenizer
from tensorpress.rows import EvalRow


def evaluate(job: EvaluationJob, spec: Ngram) -> list[EvalRow]:
    """Perplexity and bits per byte of the n-gram on the tokens that ``perplexity`` scores."""
    tokenizer = load_tokenizer(job.run_directory)
    training = tokenizer(job.text("training"), add_special_tokens=False, verbose=False)
    windows = token_windows(tokenizer, job.text("text"), spec.window)
    nll = nll_nats(training["input_ids"], windows.tolist(), spec.order, len(tokenizer))
    tokens = windows[:, 1:].numel()
    result = PerplexityResult(nll, tokens, byte_count(tokenizer, windows), 0.0)
    version = f"interpolated modified Kneser-Ney, order {spec.order}"
    return [
        EvalRow("perplexity", result.perplexity, None, tokens, version),
        EvalRow("bits_per_byte", result.bits_per_byte, None, result.bytes, version),
    ]
