"""The ``config.json`` that a GGUF file's metadata stands for. Torch-free.

What a key means is as llama.cpp reads it (``src/llama-model.cpp``). A key that is not known here is
refused: transformers would leave it out, and run another model than the file's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorpress.errors import TensorpressError
from tensorpress.sources.gguf_files import Header
from tensorpress.sources.quantised import DECLARED

_NAMES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_HEAD_SIZES = ("rope.dimension_count", "attention.value_length")
"""Must be the size of a head: models where they are not are other ones."""
_ROPE = (
    "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
)  # fmt: skip
_IGNORED = ("vocab_size",)
"""What the rows of the embedding say."""
_SWA_BASE = 10000.0
"""Base of the rotations of Gemma 3's sliding windows, where a file does not say."""
_YARN = "rope.scaling.original_context_length"


@dataclass(frozen=True)
class _Kind:
    """One ``general.architecture``: the class that runs it, and what is its own."""

    model_type: str
    model_class: str
    names: Mapping[str, str] = field(default_factory=dict)
    """Further keys and their names in ``config.json``."""
    constant: Mapping[str, Any] = field(default_factory=dict)
    """What llama.cpp does without a key that says so."""
    large: int | None = None
    """Layers of the size whose queries are scaled by ``hidden_size / heads``, not by a head's."""


_SLIDING = {"attention.sliding_window": "sliding_window"}
_CAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_EXPERTS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
KINDS: dict[str, _Kind] = {
    "llama": _Kind("llama", "LlamaForCausalLM"),
    "qwen2": _Kind("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _Kind("qwen3", "Qwen3ForCausalLM"),
    "qwen3moe": _Kind("qwen3_moe", "Qwen3MoeForCausalLM", _EXPERTS, {"norm_topk_prob": True}),
    "gemma2": _Kind("gemma2", "Gemma2ForCausalLM", _SLIDING | _CAPS, large=46),
    "gemma3": _Kind("gemma3_text", "Gemma3ForCausalLM", _SLIDING, large=62),
}


def gguf_config(header: Header, where: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """A config of a file's model, which names it as quantised; ``given`` lies beside the file.

    An architecture, or a key of it, that is not understood raises ``TensorpressError``.
    """
    kind = header.metadata.get("general.architecture")
    if kind not in KINDS:
        raise TensorpressError(
            f"{where}: general.architecture: {kind!r} is not read of GGUF files; allowed: "
            f"{', '.join(KINDS)}, or the model in safetensors"
        )
    if header.metadata.get("split.count", 1) > 1:
        raise TensorpressError(
            f"{where}: split.count: {header.metadata['split.count']} is not allowed; allowed: one "
            "file (llama-gguf-split --merge)"
        )
    config = dict(given) if given is not None else _config(header, str(kind), where)
    return {**config, DECLARED: {"quant_method": "gguf", "kind": header.kind, "architecture": kind,
            "heads": config["num_attention_heads"],
            "kv_heads": config["num_key_value_heads"]}}  # fmt: skip


def _config(header: Header, name: str, where: str) -> dict[str, Any]:
    kind, prefix = KINDS[name], f"{name}."
    values = {k.removeprefix(prefix): v for k, v in header.metadata.items() if k.startswith(prefix)}
    names = {**_NAMES, **kind.names}
    unknown = values.keys() - names.keys() - {*_HEAD_SIZES, *_ROPE, *_IGNORED}
    lacking = {"block_count", "embedding_length", "attention.head_count"} - values.keys()
    if unknown or lacking:
        raise TensorpressError(
            f"{where}: {prefix}{min(unknown or lacking)} is {'not read' if unknown else 'missing'}"
            f" of GGUF files; allowed: the same file in a folder with the model's config.json, or "
            "the model in safetensors"
        )
    config = {names[key]: value for key, value in values.items() if key in names}
    heads = config["num_attention_heads"]
    config.setdefault("num_key_value_heads", heads)
    size = config.setdefault("head_dim", config["hidden_size"] // heads)
    for key in _HEAD_SIZES:
        if values.get(key, size) != size:
            raise TensorpressError(
                f"{where}: {prefix}{key}: {values[key]!r} is not allowed; allowed: {size}, the "
                "size of a head"
            )
    if "rope_freqs.weight" in header.tensors:
        raise TensorpressError(
            f"{where}: rope_freqs.weight, which scales rotations, is not read of GGUF files; "
            "allowed: the same file in a folder with the model's config.json"
        )
    tokens = {part: header.metadata.get(f"tokenizer.ggml.{key}_token_id") for part, key in (
        ("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"),
    )}  # fmt: skip
    if kind.large is not None:
        wide = config["num_hidden_layers"] == kind.large
        config["query_pre_attn_scalar"] = config["hidden_size"] // heads if wide else size
    if kind.model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    return {
        "model_type": kind.model_type,
        "architectures": [kind.model_class],
        **config,
        **kind.constant,
        "rope_parameters": _rope(values, name, where),
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in header.tensors,
        **tokens,
    }


def _rope(values: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    base = {"rope_type": "default", "rope_theta": values.get("rope.freq_base", 10000.0)}
    scaling = values.get("rope.scaling.type", "none")
    if scaling in ("linear", "yarn"):
        base |= {"rope_type": scaling, "factor": values["rope.scaling.factor"]}
        if _YARN in values and scaling == "yarn":
            base["original_max_position_embeddings"] = values[_YARN]
    elif scaling != "none":
        raise TensorpressError(
            f"{where}: {name}.rope.scaling.type: {scaling!r} is not read of GGUF files; allowed: "
            "none, linear, yarn"
        )
    if name != "gemma3":
        return base
    theta = values.get("rope.freq_base_swa", _SWA_BASE)
    sliding = {"rope_type": "default", "rope_theta": theta}
    return {"full_attention": base, "sliding_attention": sliding}
