"""AWQ as AutoAWQ stores it (``WQLinear_GEMM``): four bits, packed along the outputs.

``qweight (in, out / 8)``, ``qzeros (groups, out / 8)``, ``scales (groups, out)``; the eight codes
of a word stand for outputs 0, 2, 4, 6, 1, 3, 5, 7. The value is ``scale * (code - zero)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Weight, rows, tensor_of
from tensorpress.checkpoints.quantised.packed import WORD, unpacked
from tensorpress.sources.headers import Stored

BITS = 4
ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word the code of each output is."""


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights ``(out, in)`` of linear layers."""
    found = {}
    for name in held.ending(".qweight"):
        codes = held.of_type(f"{name}.qweight", "I32")
        scales = held.take(f"{name}.scales")
        zeros = held.of_type(f"{name}.qzeros", "I32")
        inputs, words = codes.shape
        out, size = words * (WORD // BITS), settings.get("group_size", -1)
        groups = 1 if size == -1 else -(-inputs // size)
        held.fits(f"{name}.scales", scales, (groups, out))
        held.fits(f"{name}.qzeros", zeros, (groups, words))
        made = _Columns(codes, scales, zeros, inputs if size == -1 else size)
        found[f"{name}.weight"] = Weight((out, inputs), (codes, scales, zeros), made)
    return found


@dataclass(frozen=True)
class _Columns:
    """Values of some outputs after the other."""

    codes: Stored
    scales: Stored
    zeros: Stored
    size: int
    """Inputs of a group."""

    def __call__(self) -> Iterator[Tensor]:
        codes, scales = tensor_of(self.codes), tensor_of(self.scales)
        zeros = tensor_of(self.zeros)
        inputs, words = codes.shape
        groups, each = torch.arange(inputs) // self.size, WORD // BITS
        for begin, end in rows((words, each * inputs)):
            shifted = _outputs(codes[:, begin:end]) - _outputs(zeros[:, begin:end])[groups]
            yield (shifted.float() * scales[groups, begin * each : end * each].float()).mT


def _outputs(words: Tensor) -> Tensor:
    return unpacked(words, BITS)[..., list(ORDER)].flatten(-2)
