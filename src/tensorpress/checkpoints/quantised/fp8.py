"""FP8 with scales of blocks, as DeepSeek-V3 and Qwen3-FP8 have it: ``weight_scale_inv``.

The value is code times scale, in spite of the name (``weight_dequant`` of DeepSeek-V3's
``inference/kernel.py``). Without ``weight_block_size`` a matrix has one scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Weight, rows, rows_of, tensor_of
from tensorpress.sources.headers import Stored

CODES = ("F8_E4M3", "F8_E5M2")
_SCALE, _ACTIVATIONS = "_scale_inv", ("activation_scale", "input_scale")


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights ``(out, in)`` or ``(E, out, in)`` from codes and scales of their blocks."""
    block = settings.get("weight_block_size")
    found = {}
    for name in held.ending(_SCALE):
        scales, codes = held.take(f"{name}{_SCALE}"), held.of_type(name, *CODES)
        if block is not None:
            held.fits(f"{name}{_SCALE}", scales, _grid(codes.shape, block))
        elif math.prod(scales.shape) not in (1, codes.shape[0]):
            raise held.refused(
                f"tensor {name}{_SCALE} has shape {scales.shape}",
                "one scale, or with weight_block_size one a block",
            )
        found[name] = Weight(codes.shape, (codes, scales), _Blocks(codes, scales, block))
    for end in _ACTIVATIONS:
        for name in held.ending(end):
            held.take(f"{name}{end}")
    return found


def _grid(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    *experts, out, inputs = shape
    return (*experts, math.ceil(out / block[0]), math.ceil(inputs / block[1]))


class _Blocks:
    """Values of a weight; the last block of an axis may be cut."""

    def __init__(self, codes: Stored, scales: Stored, block: tuple[int, int] | None) -> None:
        self._codes, self._scales, self._block = codes, scales, block

    def __call__(self) -> Iterator[Tensor]:
        scales = _floats(tensor_of(self._scales))
        if self._block is None:
            scales = scales.reshape(-1, *[1] * (len(self._codes.shape) - 1))
            for begin, end in rows(self._codes.shape):
                own = scales[begin:end] if len(scales) > 1 else scales
                yield rows_of(self._codes, begin, end).float() * own
            return
        high, wide = self._block
        experts = len(self._codes.shape) == 3
        for begin, end in rows(self._codes.shape, 1 if experts else high):
            codes = rows_of(self._codes, begin, end).float()
            own = scales[begin:end] if experts else scales[begin // high : math.ceil(end / high)]
            spread = own.repeat_interleave(high, -2).repeat_interleave(wide, -1)
            yield codes * spread[..., : codes.shape[-2], : codes.shape[-1]]


def _floats(scales: Tensor) -> Tensor:
    """Scales as numbers; whole ones are exponents (E8M0)."""
    return torch.exp2(scales.float() - 127) if scales.dtype == torch.uint8 else scales.float()
