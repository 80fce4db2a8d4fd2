"""A small model of the kind that a config describes: equal layers of equal kinds, other widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS, HEAD_DIM, KV_HEADS = 8, 8, 2
HIDDEN = HEADS * HEAD_DIM
POSITIONS = 64
VOCABULARY = 96
SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "attention_hidden_size"), HIDDEN
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "num_heads",
            "decoder_attention_heads",
            "encoder_attention_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(
        ("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "global_head_dim"),
        HEAD_DIM,
    ),
    "qk_head_dim": 2 * HEAD_DIM,
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "n_inner",
            "ffn_hidden_size",
            "dense_intermediate_size",
            "decoder_ffn_dim",
            "encoder_ffn_dim",
        ),
        80,
    ),
    "intermediate_size_mlp": 88,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "shared_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 40,
    "shared_expert_dim": 40,
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_groups"), 1),
    "q_lora_rank": 20,
    "kv_lora_rank": 28,
    "rotary_dim": 4,
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    # wider than the text that is looked at
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), POSITIONS),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "hidden_size_per_layer_input": 10,
}
"""Widths by what configs call them: no two that a matrix has are equal."""
WIDEST = 16 * HIDDEN
MOST_VALUES = 3 * 10**7
"""Of a matrix's side, and of a model: above these it is not small, and is not looked at."""
_KV = ("num_key_value_heads", "num_kv_heads", "num_global_key_value_heads")
_ROTARY = ("partial_rotary_factor", "rotary_pct", "rope_pct")
_LEFT_OUT = ("rope_scaling", "dtype", "torch_dtype", "quantization_config", "auto_map")


def small(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with small widths; layers stay as many, and of the kinds that they are.

    Few heads of keys and values stay few, so that what is fused lies as it does in the large model.
    """
    heads = next(
        (config[k] for k in ("num_attention_heads", "n_head", "n_heads") if k in config), 0
    )
    found = {}
    for name, value in config.items():
        if name in _LEFT_OUT:
            continue
        if name in _KV and isinstance(value, int):
            value = HEADS if value == heads else min(value, KV_HEADS)
        elif name.endswith("_token_id") and isinstance(value, int):
            value = min(value, VOCABULARY - 1)
        elif name.endswith("_token_id") and isinstance(value, list):
            value = [min(each, VOCABULARY - 1) for each in value]
        elif name in _ROTARY and isinstance(value, float) and value < 1:
            value = 0.5
        elif name == "rope_parameters" and isinstance(value, Mapping):
            value = _plain_rope(value)
        elif name in SIZES and isinstance(value, int) and value > 0:
            value = SIZES[name]
        elif isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            value = small(value)
        found[name] = value
    return found


def _plain_rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Positions without what stretches them, whose lists are as long as a head is wide."""
    if any(isinstance(value, Mapping) for value in settings.values()):
        return {k: _plain_rope(v) if isinstance(v, Mapping) else v for k, v in settings.items()}
    plain = {name: value for name, value in settings.items() if not isinstance(value, list)}
    if float(settings.get("partial_rotary_factor") or 1) < 1:
        plain["partial_rotary_factor"] = 0.5
    return {**plain, "rope_type": "default"}
