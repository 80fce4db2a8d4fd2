"""GGUF: blocks of ggml's types, which the ``gguf`` package dequantises, under the file's own names.

Names and what llama.cpp changed when it wrote the file are undone as its convert_hf_to_gguf.py
does them: rows of Llama's queries and keys are in another order, Gemma's norms have one added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Weight, bytes_of, rows
from tensorpress.sources.headers import Stored

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
_GEMMA = {
    **_INNER,
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_EXPERTS = re.compile(r"ffn_(gate|up|down)_exps")
_FREQUENCIES = "rope_freqs.weight"
"""What a config states; without one, planning refuses it."""


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights by the names of transformers; experts one by one."""
    found: dict[str, Weight] = {}
    held.take_if_there(_FREQUENCIES)
    names = _GEMMA if str(settings["architecture"]).startswith("gemma") else _INNER
    for name in held.ending(""):
        stored = held.take(name)
        _check_type(name, stored, held)
        outer, _, part = name.rpartition(".")
        if outer in _OUTER:
            found[f"{_OUTER[outer]}.{part}"] = _weight(name, stored, settings)
            continue
        place = _BLOCK.fullmatch(name)
        if place is None or not (place[2] in names or _EXPERTS.fullmatch(place[2])):
            raise held.refused(
                f"tensor {name} is not known of {settings['architecture']}",
                "the tensors that llama.cpp writes of such a model",
            )
        layer = f"model.layers.{place[1]}"
        if experts := _EXPERTS.fullmatch(place[2]):
            for number, own in enumerate(_slices(stored)):
                made = _weight(name, own, settings)
                found[f"{layer}.mlp.experts.{number}.{experts[1]}_proj.weight"] = made
        else:
            found[f"{layer}.{names[place[2]]}.{place[3]}"] = _weight(name, stored, settings)
    return found


def _check_type(name: str, stored: Stored, held: Held) -> None:
    """Refuse a type that the package cannot dequantise."""
    kind = GGMLQuantizationType[stored.dtype]
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except NotImplementedError as error:
        raise held.refused(
            f"tensor {name} is of type {stored.dtype}, which the gguf package does not read",
            "types that its gguf.quants.dequantize reads",
        ) from error


def _slices(stored: Stored) -> Iterator[Stored]:
    """The experts of a tensor of all."""
    count, *shape = stored.shape
    size = (stored.end - stored.begin) // count
    for begin in range(stored.begin, stored.end, size):
        yield Stored(stored.path, stored.dtype, tuple(shape), begin, begin + size)


def _weight(name: str, stored: Stored, settings: Mapping[str, Any]) -> Weight:
    undo, multiple = _undone(name, stored, settings)

    def blocks() -> Iterator[Tensor]:
        for begin, end in rows(stored.shape, multiple):
            yield undo(_values(stored, begin, end))

    return Weight(stored.shape, (stored,), blocks)


def _undone(
    name: str, stored: Stored, settings: Mapping[str, Any]
) -> tuple[Callable[[Tensor], Tensor], int]:
    """What takes back llama.cpp's change of some rows, and of how many at a time."""
    architecture = str(settings["architecture"])
    heads = {"attn_q": settings["heads"], "attn_k": settings["kv_heads"]}
    module = name.split(".")[-2]
    if architecture == "llama" and module in heads:
        size = stored.shape[0] // heads[module]
        return lambda values: _reordered(values, size), size
    if architecture.startswith("gemma") and module.endswith("norm"):
        return lambda values: values - 1, 1
    return lambda values: values, 1


def _reordered(values: Tensor, size: int) -> Tensor:
    """Rows of whole heads as halves, where the file has them as pairs (``permute``)."""
    pairs = values.unflatten(0, (-1, size // 2, 2))
    return pairs.transpose(1, 2).reshape(values.shape)


def _values(stored: Stored, begin: int, end: int) -> Tensor:
    data = np.frombuffer(bytes_of(stored, begin, end), dtype=np.uint8)
    values = dequantize(data.reshape(end - begin, -1), GGMLQuantizationType[stored.dtype])
    return torch.from_numpy(values.astype(np.float32)).reshape(end - begin, *stored.shape[1:])
