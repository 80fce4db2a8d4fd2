"""Whole numbers of a few bits, packed into 32-bit words."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 32
"""Bits of a word."""


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Numbers ``(..., 32 / bits)`` of words ``(...)``, the lowest bits first."""
    shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
    return (words.unsqueeze(-1) >> shifts) & (2**bits - 1)
