"""Task ``generation``: what a run says after five fixed prompts, to be read by people."""

from __future__ import annotations

import statistics

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.generation import Spec
from tensorpress.evaluation.continuations import greedy_continuations
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.room import check_room
from tensorpress.keying.keys import key

PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was a little girl who",
    "To make a good cup of tea, first",
    "The main difference between cats and dogs is",
    "If it rains tomorrow, we will",
)


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """New tokens and their mean log-probability in nats: per prompt, with the text, and of all.

    The continuation is the row's ``text``.
    """
    tokenizer = load_tokenizer(job.run_directory)
    check_room(job.run_directory, tokenizer, PROMPTS, spec.new_tokens)
    continuations = job.with_fallback(
        "generation",
        job.model(job.run_directory),
        lambda model, device, batch: greedy_continuations(
            model, tokenizer, PROMPTS, spec.new_tokens, batch, device
        ),
        len(PROMPTS),
    )
    version = f"greedy, up to {spec.new_tokens} tokens, {job.dtype}"
    protocol = key(version=version, prompts=PROMPTS)
    rows = []
    for prompt, made in zip(PROMPTS, continuations, strict=True):
        nats = made.log_probabilities
        values = {"tokens": len(nats), "mean_log_probability": statistics.fmean(nats)}
        rows += [
            EvalRow(
                metric=metric,
                value=float(value),
                samples=len(nats),
                version=version,
                protocol=protocol,
                prompt=prompt,
                text=made.text,
            )
            for metric, value in values.items()
        ]
    every = [nats for made in continuations for nats in made.log_probabilities]
    mean = statistics.fmean(every)
    whole = EvalRow(
        metric="mean_log_probability",
        value=mean,
        samples=len(every),
        version=version,
        protocol=protocol,
    )
    return [whole, *rows]
