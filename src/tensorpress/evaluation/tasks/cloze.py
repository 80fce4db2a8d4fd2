"""Task ``cloze``: choose the passage that goes on from a context, among four."""

from __future__ import annotations

from dataclasses import asdict

from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.cloze import Spec
from tensorpress.evaluation.harness import made_task, run_task
from tensorpress.evaluation.items import cloze_items
from tensorpress.evaluation.job import EvaluationJob

SETTINGS = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{label}}",
    "doc_to_choice": "{{choices}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Accuracy by likelihood and by likelihood per byte; chance is a quarter."""
    items = cloze_items(
        job.text("text"), spec.items, spec.context_words, spec.answer_words, spec.seed
    )
    task = made_task("cloze", "1", [asdict(item) for item in items], SETTINGS)
    return run_task(job, task)
