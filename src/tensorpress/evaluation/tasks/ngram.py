"""Task ``ngram``: a Kneser-Ney n-gram over the model's tokens, as a baseline beside it."""

from __future__ import annotations

from tensorpress.evaluation import ngram
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.perplexity import token_windows
from tensorpress.evaluation.specs import Ngram
from tensorpress.loading import load_tokenizer
from tensorpress.rows import EvalRow


def evaluate(job: EvaluationJob, spec: Ngram) -> list[EvalRow]:
    """Bits per byte of the n-gram on the tokens that the task ``perplexity`` scores."""
    tokenizer = load_tokenizer(job.run_directory)
    training = tokenizer(job.text("training"), add_special_tokens=False)["input_ids"]
    windows = token_windows(tokenizer, job.text("text"), spec.window, None)
    value = ngram.bits_per_byte(tokenizer, training, windows, spec.order)
    version = f"interpolated modified Kneser-Ney, order {spec.order}"
    return [EvalRow("bits_per_byte", value, None, windows.numel(), version)]
