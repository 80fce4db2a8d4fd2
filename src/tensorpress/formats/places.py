"""Where the kept entries of a matrix are: packed coordinates, or one bit for every entry."""

from __future__ import annotations

import torch
from torch import Tensor

from .rounding import pack, packed_bytes, unpack


def pack_coordinates(rows: Tensor, columns: Tensor, bits: tuple[int, int]) -> Tensor:
    """Coordinates ``(n,)`` as bytes, row bits before column bits, most significant first."""
    digits = torch.cat([_digits(rows, bits[0]), _digits(columns, bits[1])], dim=1).flatten()
    padded = torch.nn.functional.pad(digits, (0, -len(digits) % 8)).view(-1, 8)
    return (padded * _weights(8, padded.device)).sum(1).to(torch.uint8)


def unpack_coordinates(packed: Tensor, count: int, bits: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The ``count`` rows and columns that ``pack_coordinates`` put into bytes."""
    width = sum(bits)
    digits = _digits(packed.long(), 8).flatten()[: count * width].view(count, width)
    rows = (digits[:, : bits[0]] * _weights(bits[0], digits.device)).sum(1)
    return rows, (digits[:, bits[0] :] * _weights(bits[1], digits.device)).sum(1)


def pack_mask(mask: Tensor) -> Tensor:
    """A mask of any shape as bytes, a bit an entry in reading order."""
    return pack(mask.flatten().to(torch.uint8), 1)


def unpack_mask(packed: Tensor, shape: tuple[int, int]) -> Tensor:
    """The mask ``(out, in)`` that ``pack_mask`` put into bytes."""
    return unpack(packed, 1, shape[0] * shape[1]).view(shape).bool()


def mask_bytes(out_features: int, in_features: int) -> int:
    """Bytes of a packed mask."""
    return packed_bytes(out_features * in_features, 1)


def _digits(numbers: Tensor, width: int) -> Tensor:
    """Binary digits ``(n, width)``, most significant first."""
    return (numbers[:, None] >> torch.arange(width - 1, -1, -1, device=numbers.device)) & 1


def _weights(width: int, device: torch.device) -> Tensor:
    return 2 ** torch.arange(width - 1, -1, -1, device=device)
