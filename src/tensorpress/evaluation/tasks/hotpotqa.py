"""Task ``hotpotqa``: multi-hop questions answered without their paragraphs (TensorLLM).

Gu et al., "TensorLLM" (2025), after LASER (Sharma et al. 2024): greedy decoding of 15 tokens. The
published code looks for the answer in prompt and generation together; here the prompt is left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import lm_eval
from lm_eval.api.instance import Instance

from tensorpress.evaluation.answers import contains, token_f1
from tensorpress.evaluation.continuations import greedy_continuations
from tensorpress.evaluation.harness import language_model
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.local_tasks import question_items
from tensorpress.evaluation.specs import HotpotQA
from tensorpress.keys import key
from tensorpress.rows import EvalRow

NEW_TOKENS = 15
VERSION = f'"QUESTION The answer is", greedy, {NEW_TOKENS} tokens, float32'


def evaluate(job: EvaluationJob, spec: HotpotQA) -> list[EvalRow]:
    """Containment, token F1, and nats of the true answer after the prompt, as means over items."""
    items = question_items(Path(spec.path), spec.items, "path")
    prompts = [f"{item['question'].strip()} The answer is" for item in items]
    answers = [item["answer"].strip() for item in items]
    language = language_model(job, spec.batch)
    continuations = greedy_continuations(
        language.model, language.tokenizer, prompts, NEW_TOKENS, spec.batch, job.device
    )
    pairs = [(made.text, answer) for made, answer in zip(continuations, answers, strict=True)]
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {answer}"), 0)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    measured = {
        "contains": [float(contains(*pair)) for pair in pairs],
        "f1": [token_f1(*pair) for pair in pairs],
        "answer_log_probability": [nats for nats, _ in language.loglikelihood(requests)],
    }
    version = f"{VERSION}, lm-eval {lm_eval.__version__}"
    protocol = key(version=version, items=items)
    return [
        EvalRow(metric, statistics.fmean(values), _stderr(values), len(items), version, protocol)
        for metric, values in measured.items()
    ]


def _stderr(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
