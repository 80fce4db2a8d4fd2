"""Task ``last_word``: the last word of a passage in which it stood before."""

from __future__ import annotations

from dataclasses import asdict

from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.last_word import Spec
from tensorpress.evaluation.harness import made_task, run_task
from tensorpress.evaluation.items import last_word_items
from tensorpress.evaluation.job import EvaluationJob

SETTINGS = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": " {{word}}",
    "target_delimiter": "",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
    ],
}


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Share of words that greedy decoding gets right, and perplexity per word."""
    items = last_word_items(job.text("text"), spec.items, spec.context_words, spec.seed)
    task = made_task("last_word", "1", [asdict(item) for item in items], SETTINGS)
    return run_task(job, task)
