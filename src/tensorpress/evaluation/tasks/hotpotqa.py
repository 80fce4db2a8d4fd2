"""Task ``hotpotqa``: multi-hop questions answered without their paragraphs (TensorLLM).

Gu et al., "TensorLLM" (2025), after LASER (Sharma et al. 2024): greedy decoding of 15 tokens. The
published code looks for the answer in prompt and generation together; here the prompt is left out.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import lm_eval
import torch
from lm_eval.api.instance import Instance
from transformers import PreTrainedModel

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.hotpotqa import Spec
from tensorpress.evaluation.answers import contains, token_f1
from tensorpress.evaluation.continuations import Continuation, greedy_continuations
from tensorpress.evaluation.harness import language_model
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.room import check_room
from tensorpress.evaluation.spread import standard_error
from tensorpress.keying.keys import key
from tensorpress.sources.local_tasks import question_items

NEW_TOKENS = 15
VERSION = f'"QUESTION The answer is", greedy, {NEW_TOKENS} tokens'


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Containment, token F1, and nats of the true answer after the prompt, as means over items."""
    items = question_items(Path(spec.path), spec.items, "path")
    prompts = [f"{item['question'].strip()} The answer is" for item in items]
    answers = [item["answer"].strip() for item in items]
    pairs = list(zip(prompts, answers, strict=True))
    tokenizer = load_tokenizer(job.run_directory)
    check_room(job.run_directory, tokenizer, prompts, NEW_TOKENS)
    check_room(job.run_directory, tokenizer, [f"{prompt} {answer}" for prompt, answer in pairs])
    requests = [
        Instance("loglikelihood", {}, (prompt, f" {answer}"), 0) for prompt, answer in pairs
    ]

    def work(
        model: PreTrainedModel, device: torch.device, batch: int
    ) -> tuple[list[Continuation], list[tuple[float, bool]]]:
        made = greedy_continuations(model, tokenizer, prompts, NEW_TOKENS, batch, device)
        return made, language_model(model, tokenizer, batch).loglikelihood(requests)

    continuations, likelihoods = job.with_fallback(
        "hotpotqa", job.model(job.run_directory), work, spec.batch
    )
    found = [(made.text, answer) for made, answer in zip(continuations, answers, strict=True)]
    measured = {
        "contains": [float(contains(*pair)) for pair in found],
        "f1": [token_f1(*pair) for pair in found],
        "answer_log_probability": [nats for nats, _ in likelihoods],
    }
    version = f"{VERSION}, {job.dtype}, lm-eval {lm_eval.__version__}"
    protocol = key(version=version, items=items)
    return [
        EvalRow(
            metric=metric,
            value=statistics.fmean(values),
            stderr=standard_error(values),
            samples=len(items),
            version=version,
            protocol=protocol,
            stderr_samples=len(items),
            observations=tuple(values),
        )
        for metric, values in measured.items()
    ]
