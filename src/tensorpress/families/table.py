"""``model_type`` -> family: the one place where a new family is listed."""

from collections.abc import Mapping
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.families import llama, qwen3_moe
from tensorpress.families.base import Family

FAMILIES: dict[str, Family] = {
    family.FAMILY.model_type: family.FAMILY for family in (llama, qwen3_moe)
}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a ``config.json``; ``where`` names the model in the error."""
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise TensorpressError(
            f"{where}: model_type {model_type!r} has no family file; "
            f"allowed: {', '.join(sorted(FAMILIES))} (docs/adding-a-family.md)"
        )
    return FAMILIES[model_type]
