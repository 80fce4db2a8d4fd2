"""Task ``zero_shot``: a standard multiple-choice task of lm-eval."""

from __future__ import annotations

from pathlib import Path

from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.zero_shot import Spec
from tensorpress.evaluation.harness import run_task, standard_task
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.sources.local_tasks import standard_items


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Accuracy, and accuracy by likelihood per byte where the task has it, with stderr."""
    items = None
    if spec.path:
        items = standard_items(spec.task, Path(spec.path), spec.items, "path")
    # before the model: a missing dataset must not cost its loading
    task = standard_task(spec.task, items)
    return run_task(job, task, spec.batch, spec.items)
