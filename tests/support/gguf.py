"""GGUF files of tiny models, written by the ``gguf`` package as llama.cpp's converter would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from support.families import SIZES, auto_class

Q8 = GGMLQuantizationType.Q8_0
_EXPERTS = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(\w+)_proj")


def network(model_type: str, **config: object) -> PreTrainedModel:
    """A tiny model of a type, with random biases where it has any."""
    torch.manual_seed(0)
    sizes = {**SIZES[model_type], "vocab_size": 300, "max_position_embeddings": 128, **config}
    made = auto_class(model_type).from_config(AutoConfig.for_model(model_type, **sizes))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def write_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    target: Path,
    architecture: str,
    add_bos: bool | None = None,
    **extra: object,
) -> dict[str, Tensor]:
    """Write a model; returns the weights that the file stands for, by the model's names.

    Matrices are Q8_0 where their rows allow it, the rest is float32.
    """
    config = model.config
    writer = GGUFWriter(target, architecture)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    adds = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
    for key, value in extra.items():
        adds[type(value)](f"{architecture}.{key}", value)
    _add_tokenizer(writer, tokenizer)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names, expected = get_tensor_name_map(kind, config.num_hidden_layers), {}
    for name, weight in _tensors(model):
        changed = _changed(name, weight, architecture, config).numpy()
        kept = changed.shape[-1] % 32 == 0 and changed.ndim > 1
        data = quantize(changed, Q8) if kept else changed
        given = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if experts := _EXPERTS.fullmatch(name):
            given = f"blk.{experts[1]}.ffn_{experts[2]}_exps.weight"
        writer.add_tensor(given, data, raw_dtype=Q8 if kept else None)
        values = torch.from_numpy(dequantize(data, Q8).copy() if kept else changed)
        expected[name] = _unchanged(name, values, architecture, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    """A byte-level vocabulary, as that of GPT-2."""
    vocabulary = tokenizer.get_vocab()
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    kinds = [gguf.TokenType.NORMAL] * len(vocabulary)
    kinds[tokenizer.eos_token_id] = gguf.TokenType.CONTROL
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Weights once; of experts the gates and the others apart, as files have them."""
    for name, weight in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            for part, own in zip(("gate_proj", "up_proj"), weight.chunk(2, 1), strict=True):
                yield name.replace("gate_up_proj", part), own
        elif name != "lm_head.weight" or not model.config.tie_word_embeddings:
            yield name, weight


def _merges(tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def _heads(name: str, config: object) -> int | None:
    if "q_proj" in name:
        return config.num_attention_heads
    return config.num_key_value_heads if "k_proj" in name else None


def _changed(name: str, weight: Tensor, architecture: str, config: object) -> Tensor:
    """``LlamaModel.permute`` and the shift of Gemma's norms, of convert_hf_to_gguf.py."""
    heads = _heads(name, config)
    if architecture == "llama" and heads is not None:
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    return weight


def _unchanged(name: str, values: Tensor, architecture: str, config: object) -> Tensor:
    heads = _heads(name, config)
    if architecture == "llama" and heads is not None:
        pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return values - 1
    return values
