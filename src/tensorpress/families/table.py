"""``model_type`` -> family: the one place where a new family is listed."""

from collections.abc import Mapping
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.families import (
    bert,
    gemma2,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    llama,
    mistral,
    mixtral,
    olmoe,
    opt,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
)
from tensorpress.families.base import Family

PREFIX = "tensorpress_"
"""Of the ``model_type`` of a compressed checkpoint (``formats.model.factored_class``)."""

FAMILIES: dict[str, Family] = {
    module.FAMILY.model_type: module.FAMILY
    for module in (
        bert,
        gemma2,
        gpt2,
        gpt_neo,
        gpt_neox,
        gpt_oss,
        gptj,
        llama,
        mistral,
        mixtral,
        olmoe,
        opt,
        qwen2,
        qwen2_moe,
        qwen3,
        qwen3_moe,
    )
}


def family_run(config: Mapping[str, Any], where: str) -> Family:
    """The family of a plain or a compressed checkpoint, whose ``model_type`` has ``PREFIX``."""
    model_type = str(config.get("model_type")).removeprefix(PREFIX)
    return family_of({"model_type": model_type}, where)


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a ``config.json``; ``where`` names the model in the error."""
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise TensorpressError(
            f"{where}: model_type {model_type!r} has no family file; "
            f"allowed: {', '.join(sorted(FAMILIES))} (docs/adding-a-family.md)"
        )
    return FAMILIES[model_type]
