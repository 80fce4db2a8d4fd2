"""A tiny model of every family: its sizes, by its config's names, and the class of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from tensorpress.architectures.families.table import FAMILIES
from tensorpress.checkpoints.loading import objective_of
from tensorpress.objectives import registry
from tensorpress.objectives.images import shape_of

NAMES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA = {**NAMES, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
SIZES = {
    "bert": {**NAMES, "intermediate_size": 64, "max_position_embeddings": 64},
    "roberta": {**NAMES, "intermediate_size": 64, "max_position_embeddings": 66},
    "vit": {
        **NAMES, "intermediate_size": 64, "image_size": 8, "patch_size": 2, "num_channels": 1,
        "num_labels": 10,
    },
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
MIXTURE = {**LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FOUND: dict[str, dict[str, Any]] = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "cohere": {**LLAMA, **SPECIAL},
    "deepseek_v3": {
        **MIXTURE, "n_routed_experts": 4, "first_k_dense_replace": 1, "q_lora_rank": 12,
        "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
        "num_key_value_heads": 4, "n_group": 1, "topk_group": 1,
    },
    "ernie4_5": LLAMA,
    "falcon": {**NAMES, "new_decoder_architecture": True, "num_kv_heads": 2},
    "gemma3": {
        "text_config": {**LLAMA, "vocab_size": 300}, "mm_tokens_per_image": 4,
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
    },
    "glm4": {**LLAMA, **SPECIAL},
    "glm4_moe": {
        **MIXTURE, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    },
    "granite": LLAMA,
    "llama4_text": {
        **LLAMA, "intermediate_size_mlp": 56, "num_local_experts": 4, "moe_layers": [0],
        "layer_types": ["chunked_attention", "full_attention"],
    },
    "ministral": {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "olmo2": {**LLAMA, **SPECIAL},
    "olmo3": {**LLAMA, **SPECIAL},
    "phi3": {**LLAMA, **SPECIAL},
    "qwen3_5_text": {**LLAMA, **LINEAR},
    "qwen3_next": {
        **MIXTURE, **LINEAR, "num_experts": 4, "shared_expert_intermediate_size": 16,
    },
    "smollm3": {**LLAMA, **SPECIAL},
    "starcoder2": LLAMA,
}  # fmt: skip
"""Sizes of types without a file, whose families are found by their structure."""
RENAMED = ("gemma3", "vit")
"""Types whose tensors have other names on the hub, which the fetch changes."""
TEXTS = sorted(name for name, family in FAMILIES.items() if family.embedding is not None)
CAUSAL = sorted(name for name, family in FAMILIES.items() if family.objective == "causal_lm")


def auto_class(model_type: str) -> Any:
    """The class that builds and loads models of a family."""
    written = FAMILIES.get(model_type)
    objective = written.objective if written else "causal_lm"
    return getattr(transformers, registry.load(objective).auto_class)


def inputs(model: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    """What a model is given: tokens, or as many random images as there are windows of them."""
    if model.main_input_name == "input_ids":
        return {"input_ids": ids}
    generator = torch.Generator().manual_seed(0)
    shape = shape_of(vars(model.config))
    return {model.main_input_name: torch.randn(len(ids), *shape, generator=generator)}


def loaded(model: Path) -> PreTrainedModel:
    """A model without tensorpress."""
    return getattr(transformers, objective_of(model).auto_class).from_pretrained(model)
