"""Kind of a task -> module of its settings: the one place where a new task is listed. Torch-free.

The settings name the module that does the work (``entry``): it lies above them and needs torch.
"""

from __future__ import annotations

from importlib import import_module

from tensorpress.config.base_task import BaseTask

UNKEYED = "the tasks of a study are entries of their own in the keys (identities.py)"

TASKS: dict[str, str] = {
    "perplexity": "tensorpress.config.tasks.perplexity",
    "accuracy": "tensorpress.config.tasks.accuracy",
    "cloze": "tensorpress.config.tasks.cloze",
    "last_word": "tensorpress.config.tasks.last_word",
    "zero_shot": "tensorpress.config.tasks.zero_shot",
    "hotpotqa": "tensorpress.config.tasks.hotpotqa",
    "generation": "tensorpress.config.tasks.generation",
    "speed": "tensorpress.config.tasks.speed",
    "ngram": "tensorpress.config.tasks.ngram",
    "expert_balance": "tensorpress.config.tasks.expert_balance",
    "sentence_fidelity": "tensorpress.config.tasks.sentence_fidelity",
    "geometry": "tensorpress.config.tasks.geometry",
    "moe": "tensorpress.config.tasks.moe",
    "super_weights": "tensorpress.config.tasks.super_weights",
    "restoration": "tensorpress.config.tasks.restoration",
    "heterogeneity": "tensorpress.config.tasks.heterogeneity",
    "prediction": "tensorpress.config.tasks.prediction",
    "best_of_family": "tensorpress.config.tasks.best_of_family",
}


def spec_class(kind: str) -> type[BaseTask]:
    """The settings class of a task."""
    spec: type[BaseTask] = import_module(TASKS[kind]).Spec
    return spec


def kinds_for(objective: str) -> list[str]:
    """The tasks that models of an objective can run."""
    return [kind for kind in TASKS if objective in spec_class(kind).objectives]
