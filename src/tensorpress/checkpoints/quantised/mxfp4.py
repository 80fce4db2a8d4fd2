"""MXFP4 of GPT-OSS: E2M1 codes in blocks of 32 that share a power of two, of all experts.

``<name>_blocks (E, out, in / 32, 16)`` has two codes a byte, the lower first, and ``<name>_scales
(E, out, in / 32)`` exponents with a bias of 127 (OCP Microscaling Formats, version 1.0). Models run
with the transpose, ``<name> (E, in, out)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Weight, rows_of
from tensorpress.sources.headers import Stored

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""E2M1 without its sign, which is the highest bit."""


def weights(held: Held, settings: Mapping[str, Any]) -> dict[str, Weight]:
    """Weights ``(E, in, out)`` of experts."""
    del settings  # the format has none
    found = {}
    for name in held.ending("_blocks"):
        codes = held.of_type(f"{name}_blocks", "U8")
        scales = held.of_type(f"{name}_scales", "U8")
        held.fits(f"{name}_scales", scales, codes.shape[:-1])
        experts, out, blocks, packed = codes.shape
        shape = (experts, 2 * packed * blocks, out)
        found[name] = Weight(shape, (codes, scales), _Experts(codes, scales))
    return found


class _Experts:
    """Values of one expert after the other."""

    def __init__(self, codes: Stored, scales: Stored) -> None:
        self._codes, self._scales = codes, scales

    def __call__(self) -> Iterator[Tensor]:
        table = torch.tensor((*VALUES, *(-value for value in VALUES)))
        for expert in range(self._codes.shape[0]):
            codes = rows_of(self._codes, expert, expert + 1)
            exponents = rows_of(self._scales, expert, expert + 1).int() - 127
            pairs = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
            values = torch.ldexp(table[pairs.int()], exponents.unsqueeze(-1))
            yield values.flatten(-2).mT
