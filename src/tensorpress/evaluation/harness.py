"""Run one task through lm-eval: its own standard ones, or tasks made of local items."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lm_eval
import lm_eval.tasks
import torch
from datasets import Dataset
from lm_eval.api.metrics import mean
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tensorpress.checkpoints.loading import load_tokenizer
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.keying.keys import key
from tensorpress.sources.hub_datasets import explained
from tensorpress.sources.local_tasks import STANDARD

BATCH = 32
"""Requests of one forward pass."""
BOOTSTRAP_DRAWS = 1000
"""Resamples by which lm-eval takes the standard error of what is no mean."""
TASKS = Path(lm_eval.tasks.__file__).parent


def made_task(
    name: str, version: str, items: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Any:
    """A task of our own: ``settings`` are fields of lm-eval's task config, ``version`` is ours."""
    return _task({"task": name, "metadata": {"version": version}, **settings, **_local(items)})


def standard_task(name: str, items: Sequence[Mapping[str, Any]] | None) -> Any:
    """A task of lm-eval by its own file, over local items or over the dataset of the hub."""
    standard = STANDARD[name]
    config = load_yaml(TASKS / standard.yaml)
    if items is not None:
        return _task({**config, **_local(items)})
    with explained(standard.dataset, f"zero_shot {name}"):
        return _task(config)


def run_task(
    job: EvaluationJob, task: Any, batch: int = BATCH, limit: int | None = None
) -> list[EvalRow]:
    """Every metric that lm-eval reports for the first ``limit`` items, with its standard error.

    The version names harness and task; the protocol is the hash of both and of the items.
    """
    name, tokenizer = task.config.task, load_tokenizer(job.run_directory)
    if _lacks_prefix(tokenizer):
        _check_contexts(task, limit)

    def work(
        model: PreTrainedModel, device: torch.device, size: int
    ) -> tuple[dict[str, Any], LanguageModel]:
        asked = language_model(model, tokenizer, size)
        found = lm_eval.simple_evaluate(
            model=asked,
            tasks=[task],
            limit=limit,
            bootstrap_iters=BOOTSTRAP_DRAWS,
            log_samples=True,
            task_manager=_manager(),
        )
        assert found is not None
        return found, asked

    result, asked = job.with_fallback(name, job.model(job.run_directory), work, batch)
    if asked.cut:
        job.say(
            f"{name}: {asked.cut} requests are longer than the {asked.max_length} positions of the "
            "model, lm-eval left out their beginning"
        )
    metrics = result["results"][name]
    version = f"lm-eval {lm_eval.__version__}, task version {task.VERSION}"
    protocol = key(task=name, version=version, items=list(islice(task.eval_docs, limit)))
    samples = result["n-samples"][name]["effective"]
    items = sorted(result["samples"][name], key=lambda item: item["doc_id"])
    means = {metric for metric, made in task.aggregation().items() if made is mean}
    rows = []
    for composite, value in metrics.items():
        metric, _, filter_name = composite.partition(",")
        if filter_name and not metric.endswith("_stderr"):
            stderr = metrics.get(f"{metric}_stderr,{filter_name}")
            # of one item lm-eval gives zero or no number
            told = isinstance(stderr, int | float) and samples > 1 and math.isfinite(stderr)
            known = float(stderr) if told else None
            rows.append(
                EvalRow(
                    metric=metric,
                    value=float(value),
                    stderr=known,
                    stderr_samples=samples,
                    samples=samples,
                    version=version,
                    protocol=protocol,
                    observations=tuple(
                        float(item[metric]) for item in items if item["filter"] == filter_name
                    )
                    if metric in means
                    else None,
                )
            )
    return rows


class LanguageModel(HFLM):  # type: ignore[misc]
    """lm-eval's, which counts the requests that it cuts: it does so without a word at our level."""

    cut = 0

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **options: Any
    ) -> list[tuple[float, bool]]:
        for (_, text), context, continuation in requests:
            if len(continuation) > self.max_length:
                raise TensorpressError(
                    f"the answer {text[:60]!r} has {len(continuation)} tokens; allowed: up to "
                    f"{self.max_length}, the positions of the model"
                )
            # the last token is predicted, not read
            self.cut += len(context) + len(continuation) - 1 > self.max_length
        scores: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **options)
        return scores


def language_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: int
) -> LanguageModel:
    """A model as lm-eval drives it, where it is and in its own dtype.

    Of a tokenizer without BOS and EOS no context may be empty.
    """
    _quiet()
    # lm-eval scores what has no context behind the BOS or EOS; it asks for the token in any case,
    # and where no context is empty nothing depends on which it is
    prefix = 0 if _lacks_prefix(tokenizer) else None
    return LanguageModel(
        pretrained=model, tokenizer=tokenizer, batch_size=batch, prefix_token_id=prefix
    )


def _lacks_prefix(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.bos_token_id is None and tokenizer.eos_token_id is None


def _check_contexts(task: Any, limit: int | None) -> None:
    """Refuse a task with an empty context, which must begin with a BOS or EOS."""
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    for instance in task.instances:
        if not instance.args[0].strip():
            raise TensorpressError(
                f"{task.config.task}: an empty context before {instance.args[1][:60]!r} is not "
                "allowed: the tokenizer has neither BOS nor EOS to score it behind; allowed: items "
                "with a context, or a bos_token in tokenizer_config.json"
            )


def _task(config: Mapping[str, Any]) -> Any:
    _quiet()
    (task,) = _manager().load([dict(config)])["tasks"].values()
    return task


def _quiet() -> None:
    # lm-eval's notes on models and data handed over ready-made say nothing to our user
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _manager() -> TaskManager:
    # without the default tasks, whose ten thousand files take seconds to scan
    return TaskManager(include_defaults=False)


def _local(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    split = "validation"
    return {
        "custom_dataset": lambda **_: {split: Dataset.from_list([dict(item) for item in items])},
        "training_split": None,
        "validation_split": split,
        "test_split": None,
    }
