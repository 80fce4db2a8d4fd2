"""The example of every method, which tests of all methods read."""

from __future__ import annotations

from typing import Any

from tensorpress.methods.base import MethodSpec
from tensorpress.methods.registry import METHODS, load

EXAMPLES: dict[str, MethodSpec] = {name: load(name).EXAMPLE for name in METHODS}
ALONE = {name: spec for name, spec in EXAMPLES.items() if not spec.needs_advice}
"""Without those that are made of the others, for a whole model: tests/unit/test_advice.py."""


def written(spec: MethodSpec) -> dict[str, Any]:
    """A method as params would have it."""
    return spec.model_dump(mode="json", exclude_unset=True)


def settings_of(spec: MethodSpec) -> dict[str, Any]:
    """What is written beside the method's name."""
    return spec.model_dump(mode="json", exclude_unset=True, exclude={"method"})
