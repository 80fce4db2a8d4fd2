"""Symmetric rounding to nearest: whole codes with shared scales, and their packing into bytes.

A value is ``scale * (code - limit)`` with ``limit = 2^(bits - 1) - 1``, so that the codes ``0`` to
``2 limit`` stand for ``-limit`` to ``limit`` steps; the scale takes the largest magnitude to
``limit``. One scale is that of a group: of ``group_size`` adjacent values of the flattened tensor
(rows one after the other; the last group may be short), or, without a size, of all values.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def limit(bits: int) -> int:
    """The most steps from zero that ``bits`` bits express in both directions."""
    return 2 ** (bits - 1) - 1


def scales_of(values: Tensor, bits: int, group_size: int | None) -> Tensor:
    """The scales ``(groups,)`` that take each group's largest magnitude to ``limit`` steps."""
    return _grouped(values.abs(), group_size).amax(1) / limit(bits)


def quantise(values: Tensor, scales: Tensor, bits: int, group_size: int | None) -> Tensor:
    """The nearest codes ``(n,)``, uint8, of a tensor of n values."""
    return nearest(_grouped(values, group_size), scales[:, None], bits).flatten()[: values.numel()]


def nearest(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The nearest codes, uint8, of values whose scales are given one by one or broadcast."""
    # zeros have a zero scale, which times any code is right
    steps = (values / torch.where(scales == 0, 1, scales)).round()
    return (steps.clamp(-limit(bits), limit(bits)) + limit(bits)).to(torch.uint8)


def dequantise(codes: Tensor, scales: Tensor, bits: int, group_size: int | None) -> Tensor:
    """The values ``(n,)`` of codes ``(n,)``, in the dtype of the scales."""
    steps = _grouped(codes.to(scales.dtype) - limit(bits), group_size)
    return (steps * scales[:, None]).flatten()[: codes.numel()]


def spread(scales: Tensor, count: int, group_size: int | None, start: int = 0) -> Tensor:
    """The scale of each of ``count`` values from value ``start`` on."""
    if group_size is None:
        return scales.expand(count)
    first = start // group_size
    some = scales[first : -(-(start + count) // group_size), None]
    return some.expand(-1, group_size).flatten()[start - first * group_size :][:count]


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes ``(n,)`` as ``ceil(n bits / 8)`` bytes, most significant bits first."""
    count = codes.numel()
    padded = pad(codes, (0, -count % 8)).view(-1, 8)
    return _regroup(padded, bits, 8).flatten()[: packed_bytes(count, bits)]


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """The ``count`` codes that ``pack`` put into bytes."""
    padded = pad(packed, (0, -packed.numel() % bits)).view(-1, bits)
    return _regroup(padded, 8, bits).flatten()[:count]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` packed codes take."""
    return -(-count * bits // 8)


def _grouped(values: Tensor, group_size: int | None) -> Tensor:
    """Values of any shape as ``(groups, group_size)``, zeros behind the last."""
    size = group_size or values.numel()
    return pad(values.flatten(), (0, -values.numel() % size)).view(-1, size)


def _regroup(digits: Tensor, width: int, new_width: int) -> Tensor:
    """Rows of digits of ``width`` bits, each read as one word of digits of ``new_width`` bits.

    Eight codes, or the bytes that hold them, make words of at most 64 bits. Where bytes hold whole
    codes they are taken apart as they are, ten times faster: a large embedding has 10^8.
    """
    if width == new_width:
        return digits
    if width == 8 and 8 % new_width == 0:
        places = torch.arange(8 - new_width, -1, -new_width, device=digits.device)
        return (digits.unsqueeze(-1) >> places.to(torch.uint8)) & (2**new_width - 1)
    count = digits.shape[1]
    word = digits[:, 0].long() << width * (count - 1)
    for place in range(1, count):
        word = word | digits[:, place].long() << width * (count - 1 - place)
    new = reversed(range(count * width // new_width))
    parts = [(word >> new_width * place) & (2**new_width - 1) for place in new]
    return torch.stack([part.to(torch.uint8) for part in parts], dim=1)
