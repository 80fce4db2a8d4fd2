"""bitsandbytes: four bits in blocks of values (nf4, fp4), or eight bits with scales of rows.

Four bits: two codes a byte, the higher first, in the order of the values; ``weight.quant_map`` is
what codes mean, ``weight.absmax`` the scale of each block, itself in 8 bits where
``weight.nested_absmax`` is there (``QuantState`` of ``bitsandbytes/functional.py``). Eight bits:
the value is ``code * SCB / 127`` (``int8_vectorwise_dequant``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Weight, rows, rows_of, tensor_of
from tensorpress.sources.headers import Stored

_STATE, _INT8 = ".quant_state.bitsandbytes__", 127


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights ``(out, in)`` of linear layers."""
    if settings.get("load_in_8bit"):
        return _eight_bits(held)
    found = {}
    for name in held.ending(".absmax"):
        states = [f"{name}{_STATE}{kind}" for kind in ("nf4", "fp4")]
        stored = next(filter(None, map(held.take_if_there, states)), None)
        state = json.loads(bytes(tensor_of(stored or held.take(states[0])).tolist()))
        codes, levels = held.of_type(name, "U8"), held.take(f"{name}.quant_map")
        scales = [held.take(f"{name}.absmax")]
        if "nested_blocksize" in state:
            scales += [held.take(f"{name}.nested_{part}") for part in ("absmax", "quant_map")]
        shape = tuple(state["shape"])
        if 2 * math.prod(codes.shape) != math.prod(shape):
            raise held.refused(f"tensor {name} has shape {codes.shape}", f"two of {shape} a byte")
        made = _FourBits(codes, levels, tuple(scales), state)
        found[name] = Weight(shape, (codes, levels, *scales), made)
    return found


@dataclass(frozen=True)
class _FourBits:
    codes: Stored
    levels: Stored
    scales: tuple[Stored, ...]
    """Those of blocks; where they are codes too, also their scales and what they mean."""
    state: Mapping[str, Any]

    def __call__(self) -> Iterator[Tensor]:
        levels, scales = tensor_of(self.levels), self._scales()
        shape, size = self.state["shape"], self.state["blocksize"]
        width = math.prod(shape[1:])
        # whole blocks, which may go over the ends of rows
        for begin, end in rows(shape, math.lcm(width, size) // width):
            first, last = begin * width, end * width
            codes = rows_of(self.codes.flat, first // 2, last // 2).int()
            values = levels[_pairs(codes)]
            own = scales[first // size : -(-last // size)].repeat_interleave(size)
            yield (values * own[: len(values)]).reshape(end - begin, *shape[1:])

    def _scales(self) -> Tensor:
        if len(self.scales) == 1:
            return tensor_of(self.scales[0])
        codes, outer, levels = map(tensor_of, self.scales)
        spread = outer.repeat_interleave(self.state["nested_blocksize"])[: len(codes)]
        return levels[codes.int()] * spread + self.state["nested_offset"]


def _pairs(codes: Tensor) -> Tensor:
    return (codes.unsqueeze(-1) >> codes.new_tensor([4, 0]) & 15).flatten()


def _eight_bits(held: Held) -> dict[str, Weight]:
    found = {}
    for name in held.ending(".SCB"):
        scales, codes = held.take(f"{name}.SCB"), held.of_type(f"{name}.weight", "I8")
        held.fits(f"{name}.SCB", scales, codes.shape[:1])
        layout = held.take_if_there(f"{name}.weight_format")
        if layout is not None and tensor_of(layout).any():
            raise held.refused(f"tensor {name}.weight is not stored by rows", "weight_format 0")
        found[f"{name}.weight"] = Weight(codes.shape, (codes, scales), _Rows(codes, scales))
    return found


@dataclass(frozen=True)
class _Rows:
    codes: Stored
    scales: Stored

    def __call__(self) -> Iterator[Tensor]:
        scales = tensor_of(self.scales)
        for begin, end in rows(self.codes.shape):
            codes = rows_of(self.codes, begin, end).float()
            yield codes * (scales[begin:end, None] / _INT8)
