"""Objective names and the modules that define them: the one place where a new one is listed."""

from __future__ import annotations

from importlib import import_module

from tensorpress.objectives.base import Objective

UNKEYED = "the objective of a model is an entry of its own in the keys (identities.py)"

OBJECTIVES: dict[str, str] = {
    "causal_lm": "tensorpress.objectives.causal_lm",
    "masked_lm": "tensorpress.objectives.masked_lm",
}


def quality_metrics() -> tuple[str, ...]:
    """The metric of each objective."""
    return tuple(load(name).metric for name in OBJECTIVES)


def load(name: str) -> Objective:
    """The objective of a registered name."""
    found: Objective = import_module(OBJECTIVES[name]).OBJECTIVE
    return found
