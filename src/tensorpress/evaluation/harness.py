"""Run one task made of local items through lm-eval's ``simple_evaluate``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval
from datasets import Dataset
from lm_eval.models.huggingface import HFLM

from tensorpress.evaluation.job import EvaluationJob
from tensorpress.loading import load_model, load_tokenizer
from tensorpress.rows import EvalRow

BATCH = 32
BOOTSTRAP_DRAWS = 1000


def run_task(
    job: EvaluationJob,
    name: str,
    version: str,
    items: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> list[EvalRow]:
    """Every metric that lm-eval reports for ``items``, with its standard error.

    ``settings`` are fields of lm-eval's task config; ``version`` is ours, recorded beside the
    harness version on every row.
    """
    config = {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list([dict(item) for item in items])},
        "test_split": "test",
        "metadata": {"version": version},
        **settings,
    }
    # its notes on models handed over ready-made say nothing to our user
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    language_model = HFLM(
        pretrained=load_model(job.run_directory, job.device),
        tokenizer=load_tokenizer(job.run_directory),
        batch_size=BATCH,
    )
    result = lm_eval.simple_evaluate(
        model=language_model,
        tasks=[config],
        bootstrap_iters=BOOTSTRAP_DRAWS,
        log_samples=False,
    )
    assert result is not None
    metrics = result["results"][name]
    label = f"lm-eval {lm_eval.__version__}, task version {version}"
    rows = []
    for composite, value in metrics.items():
        metric, _, filter_name = composite.partition(",")
        if filter_name and not metric.endswith("_stderr"):
            stderr = metrics.get(f"{metric}_stderr,{filter_name}")
            known = isinstance(stderr, int | float)
            rows.append(
                EvalRow(metric, float(value), float(stderr) if known else None, len(items), label)
            )
    return rows
