"""compressed-tensors: what llm-compressor writes, dequantised by that library, rows by rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from compressed_tensors.utils.match import match_name
from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Weight, rows, rows_of, tensor_of
from tensorpress.checkpoints.quantised.packed import WORD
from tensorpress.sources.headers import Stored

_ACTIVATIONS = (
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point",
    "k_scale", "v_scale", "q_scale",
)  # fmt: skip
_ORDER = "weight_g_idx"
_SHAPE = "weight_shape"


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights ``(out, in)`` of linear layers."""
    config = QuantizationConfig.model_validate(dict(settings))
    found = {}
    for module in held.ending(".weight_scale"):
        scheme = _scheme(module, config, held)
        form = scheme.format or config.format
        compressor = BaseCompressor.get_value_from_registry(form)
        parts = {
            part: held.take(f"{module}.{part}")
            for part in compressor.compression_param_names(scheme)
        }
        if held.take_if_there(f"{module}.{_ORDER}") is not None:
            # the library would take the inputs in the order of their places
            raise held.refused(
                f"tensor {module}.{_ORDER} gives inputs to groups in another order",
                "weights quantised with actorder null, static or weight",
            )
        stated = parts.get(_SHAPE)
        codes = parts.get("weight_packed") or parts["weight"]
        shape = tuple(tensor_of(stated).tolist()) if stated else codes.shape
        made = _Rows(parts, shape, compressor, scheme)
        found[f"{module}.weight"] = Weight(shape, tuple(parts.values()), made)
    for end in _ACTIVATIONS:
        for module in held.ending(f".{end}"):
            held.take(f"{module}.{end}")
    return found


def _scheme(module: str, config: QuantizationConfig, held: Held) -> QuantizationScheme:
    for scheme in config.config_groups.values():
        if "Linear" in scheme.targets or any(match_name(module, each) for each in scheme.targets):
            return scheme
    raise held.refused(
        f"tensor {module}.weight_scale belongs to a module that no group of config_groups targets",
        "modules that one targets",
    )


@dataclass(frozen=True)
class _Rows:
    parts: Mapping[str, Stored]
    shape: tuple[int, ...]
    compressor: type[BaseCompressor]
    scheme: QuantizationScheme

    def __call__(self) -> Iterator[Tensor]:
        arguments = self.scheme.weights
        high = arguments.block_structure[0] if arguments.block_structure else 1
        # rows of which whole blocks, and whole words of packed zeros, are taken
        for begin, end in rows(self.shape, high * WORD):
            state = {
                name: self._rows(name, part, begin, end, high) for name, part in self.parts.items()
            }
            # exact, also of scales in 16 bits
            state["weight_scale"] = state["weight_scale"].float()
            yield self.compressor.decompress(state, self.scheme)["weight"]

    def _rows(self, name: str, part: Stored, begin: int, end: int, high: int) -> Tensor:
        """What of a part belongs to some rows of the weight, in blocks ``high`` rows high."""
        if name == _SHAPE:
            return torch.tensor([end - begin, *self.shape[1:]])
        if part.shape and part.shape[0] == self.shape[0]:
            return rows_of(part, begin, end)
        if name == "weight_zero_point" and part.dtype == "I32":
            bits = self.scheme.weights.num_bits
            return rows_of(part, begin * bits // WORD, -(-end * bits // WORD))
        if part.shape and part.shape[0] == -(-self.shape[0] // high):
            return rows_of(part, begin // high, -(-end // high))
        return tensor_of(part)
