"""Which model types are understood: all causal language models of transformers, looked at."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tensorpress.architectures.families.table import FAMILIES
from tensorpress.architectures.layers import GROUPS
from tensorpress.architectures.structure.search import find
from tensorpress.architectures.structure.small import small
from tensorpress.errors import TensorpressError

MIXTURE = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_experts_per_tok": 2,
}
ROTATED = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
COMPLETED: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": MIXTURE,
    "hunyuan_v1_dense": {**ROTATED, "head_dim": 128},
    "hunyuan_v1_moe": {**ROTATED, "head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "ministral": {**ROTATED, "head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
}
"""What a class's default config lacks, and every checkpoint's has."""
LAYERS = 4


def understood(model_type: str) -> str:
    """The groups that are compressed in a small model of a type, and in how many of its layers.

    Raises ``TensorpressError`` where its structure is not understood.
    """
    with warnings.catch_warnings(action="ignore"):
        found = find(_config(model_type), "models")
    layers = found.shapes[:-1]
    counts = {group: sum(bool(shape.group(group)) for shape in layers) for group in GROUPS}
    named = [
        group if count == len(layers) else f"{group} in {count} of {len(layers)} layers"
        for group, count in counts.items()
        if count
    ]
    return ", ".join(named)


def _config(model_type: str) -> dict[str, Any]:
    extra = COMPLETED.get(model_type, {})
    try:
        made = AutoConfig.for_model(model_type, num_hidden_layers=LAYERS, **extra)
    except Exception:  # a list in its defaults has another length
        try:
            made = AutoConfig.for_model(model_type, **extra)
        except Exception as error:
            raise TensorpressError(f"{model_type}: it has no default config") from error
    return {**small(made.to_dict()), "model_type": model_type}


COLUMNS = ("type", "understood", "what")


def rows(model_types: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Each type with whether it is understood, and what is compressed or why nothing is."""
    for model_type in model_types:
        if model_type in FAMILIES:
            yield model_type, "by a file", "see the file"
            continue
        try:
            yield model_type, "by structure", understood(model_type)
        except TensorpressError as error:
            yield model_type, "refused", _reason(str(error))


def _reason(said: str) -> str:
    """Why a type is refused; of what a class said to its config no more than the kind of error."""
    why = said.partition(" understood: ")[2].partition("; allowed")[0] or said
    kind, bracket, text = why.partition(" (")
    return f"{kind} ({text.partition(': ')[0]})" if bracket else kind


def page(found: Iterable[tuple[str, str, str]]) -> str:
    """``docs/families.md``: what ``rows`` found."""
    listed = list(found)
    known = [row for row in listed if row[1] != "refused"]
    lines = [
        "# Model types",
        "",
        f"Of {len(listed)} types of causal language models that transformers has, {len(known)} are",
        "understood. `tensorpress families > docs/families.md` looks at all of them: each is built",
        "small and random from its class's default config and run once. What is not compressed, as",
        "linear attention or shared experts, is left as it is and counted.",
        "",
        f"Of other types, by a file: {', '.join(f'`{name}`' for name in others())}.",
        "",
        "| model type | understood | compressed |",
        "| --- | --- | --- |",
        *(f"| `{name}` | {how} | {what} |" for name, how, what in known),
        "",
        "| refused | why |",
        "| --- | --- |",
        *(f"| `{name}` | {what} |" for name, how, what in listed if how == "refused"),
    ]
    return "\n".join(lines)


def others() -> list[str]:
    """Types with a file for which transformers has no causal language model."""
    return sorted(FAMILIES.keys() - MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys())


def all_types() -> list[str]:
    """Types of causal language models."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
