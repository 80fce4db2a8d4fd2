"""Task ``zero_shot``: a standard multiple-choice task of lm-eval."""

from __future__ import annotations

from pathlib import Path

from tensorpress.evaluation.harness import run_task, standard_task
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.local_tasks import standard_items
from tensorpress.evaluation.specs import ZeroShot
from tensorpress.rows import EvalRow


def evaluate(job: EvaluationJob, spec: ZeroShot) -> list[EvalRow]:
    """Accuracy, and accuracy by likelihood per byte where the task has it, with stderr."""
    items = None
    if spec.path:
        items = standard_items(spec.task, Path(spec.path), spec.items, "path")
    # before the model: a missing dataset must not cost its loading
    task = standard_task(spec.task, items)
    return run_task(job, task, spec.batch, spec.items)
