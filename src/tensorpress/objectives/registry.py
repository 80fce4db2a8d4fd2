"""Objective names and the modules that define them: the one place where a new one is listed."""

from __future__ import annotations

from importlib import import_module

from tensorpress.objectives.base import Objective, Predicting

UNKEYED = "the objective of a model is an entry of its own in the keys (identities.py)"

OBJECTIVES: dict[str, str] = {
    "causal_lm": "tensorpress.objectives.causal_lm",
    "masked_lm": "tensorpress.objectives.masked_lm",
    "encoding": "tensorpress.objectives.encoding",
    "image_classification": "tensorpress.objectives.image_classification",
}


def load(name: str) -> Objective:
    """The objective of a registered name."""
    found: Objective = import_module(OBJECTIVES[name]).OBJECTIVE
    return found


def quality_metrics() -> tuple[str, ...]:
    """The metric of each objective that has one."""
    return tuple(each.metric for each in map(load, OBJECTIVES) if isinstance(each, Predicting))


PREDICTING = tuple(name for name in OBJECTIVES if isinstance(load(name), Predicting))
"""Those that predict tokens, or labels."""
