"""``model_type`` -> family: the one place where a new family is listed."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tensorpress.architectures.architecture import COMPRESSED, COMPRESSED_CLASS, Architecture
from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.found import family_of
from tensorpress.architectures.shortcuts import SLICED
from tensorpress.errors import TensorpressError
from tensorpress.errors.refusals import line
from tensorpress.objectives.registry import load

UNKEYED = "the family of a model is an entry of its own in the keys (identities.py)"

NAMES = (
    "bert",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "llama",
    "mistral",
    "mixtral",
    "olmoe",
    "opt",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "roberta",
    "vit",
)
"""Of the families' files, which are named like their ``model_type``."""
COUNTED = ("hidden", "layers", "heads", "kv_heads", "inner")
"""Sizes that every layer's shapes are made of: where a config says them, they are at least 1."""

FAMILIES: dict[str, Family] = {
    name: import_module(f"tensorpress.architectures.families.{name}").FAMILY for name in NAMES
}


def plain_architecture(config: Mapping[str, Any], where: str) -> Architecture:
    """``architecture_of`` a plain checkpoint, or of the one that a compressed one was made of.

    One with shortcuts is of the family that it had before.
    """
    plain = str(config.get("model_type")).removeprefix(COMPRESSED).removeprefix(SLICED)
    return architecture_of({**config, "model_type": plain}, where)


def reads_images(config: Mapping[str, Any]) -> bool:
    """Whether models of a ``config.json`` are asked about images; families with a file may be."""
    written = FAMILIES.get(str(config.get("model_type")))
    return written is not None and load(written.objective).reads == "images"


def architecture_of(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture in a ``config.json``; ``where`` names the model in the error.

    A ``model_type`` without a file of its own is looked at (``found.family_of``). What is not
    understood, and a size that is none, raises ``TensorpressError``.
    """
    written = FAMILIES.get(str(config.get("model_type")))
    if written is None:
        return Architecture(family_of(config, where), config)
    named = str(next(iter(config.get("architectures") or ()), None))
    family = written.classes.get(named.removeprefix(COMPRESSED_CLASS), written)
    for key in map(family.key, COUNTED):
        size = config.get(key)
        if size is not None and not (isinstance(size, int) and size > 0):
            at = f"{where}: config.json: {key}"
            raise TensorpressError(line(at, size, "a whole number, 1 or more"))
    return Architecture(family, config)
