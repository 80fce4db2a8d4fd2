"""A tiny model of every family: its sizes, by its config's names, and the class of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel

from tensorpress.architectures.families.table import FAMILIES
from tensorpress.checkpoints.loading import objective_of
from tensorpress.objectives import registry

NAMES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA = {**NAMES, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
SIZES = {
    "bert": {**NAMES, "intermediate_size": 64, "max_position_embeddings": 64},
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt2": GPT,
    "gpt_neo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": {**NAMES, "intermediate_size": 64},
    "opt": {**NAMES, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "mixtral": {**LLAMA, "num_local_experts": 4},
    "qwen2_moe": {
        **LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {
        **LLAMA, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24
    },
    "olmoe": {**LLAMA, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        **LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2,
        "layer_types": ["full_attention", "full_attention"],
    },
}  # fmt: skip
CAUSAL = sorted(name for name, family in FAMILIES.items() if family.objective == "causal_lm")


def auto_class(model_type: str) -> Any:
    """The class that builds and loads models of a family."""
    return getattr(transformers, registry.load(FAMILIES[model_type].objective).auto_class)


def loaded(model: Path) -> PreTrainedModel:
    """A model without tensorpress."""
    return getattr(transformers, objective_of(model).auto_class).from_pretrained(model)
