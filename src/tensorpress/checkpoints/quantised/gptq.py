"""GPTQ as AutoGPTQ and GPTQModel store it: codes packed along the inputs, scales of groups.

``qweight (in * bits / 32, out)``, ``scales (groups, out)``, ``qzeros (groups, out * bits / 32)``
and, where inputs are not in the order of their groups, ``g_idx (in)``. The value is ``scale *
(code - zero)``; format ``gptq`` stores zeros less one, ``gptq_v2`` as they are
(``QuantLinear.pack`` of AutoGPTQ, ``convert_gptq_v1_to_v2_format`` of GPTQModel).
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


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights ``(out, in)`` of linear layers."""
    found = {}
    for name in held.ending(".qweight"):
        codes = held.of_type(f"{name}.qweight", "I32")
        scales = held.take(f"{name}.scales")
        zeros = held.of_type(f"{name}.qzeros", "I32")
        order = held.take_if_there(f"{name}.g_idx")
        per_word = WORD // settings["bits"]
        inputs, out = codes.shape[0] * per_word, codes.shape[1]
        held.fits(f"{name}.scales", scales, (scales.shape[0], out))
        held.fits(f"{name}.qzeros", zeros, (scales.shape[0], out // per_word))
        parts = tuple(part for part in (codes, scales, zeros, order) if part is not None)
        made = _Columns(codes, scales, zeros, order, settings)
        found[f"{name}.weight"] = Weight((out, inputs), parts, made)
    return found


@dataclass(frozen=True)
class _Columns:
    """Values of some outputs after the other."""

    codes: Stored
    scales: Stored
    zeros: Stored
    order: Stored | None
    settings: Mapping[str, Any]

    def __call__(self) -> Iterator[Tensor]:
        bits = self.settings["bits"]
        codes, scales = tensor_of(self.codes), tensor_of(self.scales)
        zeros = unpacked(tensor_of(self.zeros), bits).flatten(-2)
        if self.settings.get("checkpoint_format") != "gptq_v2":
            zeros = (zeros + 1) & (2**bits - 1)
        inputs, out = codes.shape[0] * (WORD // bits), codes.shape[1]
        groups = self._groups(inputs)
        for begin, end in rows((out, inputs)):
            own = unpacked(codes[:, begin:end], bits).movedim(-1, 1).flatten(0, 1)
            shifted = (own - zeros[groups, begin:end]).float()
            yield (shifted * scales[groups, begin:end].float()).mT

    def _groups(self, inputs: int) -> Tensor:
        """The group of each input."""
        if self.order is not None and self.order.shape == (inputs,):
            return tensor_of(self.order).long()
        size = self.settings.get("group_size", -1)
        return torch.arange(inputs) // (inputs if size == -1 else size)
