"""Values in the dtype they are stored in: none becomes infinite, and none gets lost below it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tensorpress.errors import TensorpressError
from tensorpress.files.storage import VALUE_BITS, dtype_name
from tensorpress.formats.base import Format
from tensorpress.formats.rounded import factors_to_round
from tensorpress.formats.rounding import scales_of
from tensorpress.methods.rounding import Rounding

LOSS = 2.0**-9
"""Largest relative error of storing a tensor: what bfloat16, the coarsest of the dtypes, rounds by.

Only values below a dtype's normal range lose more.
"""
_BLOCK = 2**20


def stored_as(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of ``storage.dtype``; ``TensorpressError`` if its values are out of that range.

    Too large is a single value that would be infinite; too small is a tensor of which more is
    lost (relative Frobenius error) than bfloat16 would lose.
    """
    values = tensor.to(dtype)
    pairs = list(zip(_blocks(tensor), _blocks(values), strict=True))
    if not all(bool(block.isfinite().all()) for _, block in pairs):
        if not all(bool(block.isfinite().all()) for block, _ in pairs):
            raise TensorpressError(f"{name} has NaN or infinite values")
        raise _out_of_range(name, tensor, dtype, "up to")
    limits = torch.finfo(dtype)
    if limits.tiny > torch.finfo(tensor.dtype).tiny:
        # a value below the normal range is off by half a step at most, all others by half of eps
        step, own = limits.tiny * limits.eps / 2, limits.eps / 2
        norm = math.hypot(*(float(torch.linalg.vector_norm(block.float())) for block, _ in pairs))
        if norm < math.sqrt(tensor.numel()) * step / (LOSS - own) and _lost(pairs) > LOSS:
            raise _out_of_range(name, tensor, dtype, "none above")
    return values


def rounded_as(name: str, store: Format, rounding: Rounding, dtype: torch.dtype) -> Format:
    """``store`` rounded with scales of ``storage.dtype``, which are in its range."""
    values = store.state_dict()
    for factor in factors_to_round(store):
        scales = scales_of(values[factor], rounding.bits, rounding.group_size)
        stored_as(f"{name}.{factor} (its scales)", scales, dtype)
    return rounding.applied(store, dtype)


def _lost(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Relative Frobenius error of what is kept of a tensor, block by block."""
    whole = sum(float(given.double().square().sum()) for given, _ in pairs)
    lost = sum(float((kept.double() - given.double()).square().sum()) for given, kept in pairs)
    return math.sqrt(lost / whole) if whole else 0.0


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.reshape(-1).split(_BLOCK)


def _out_of_range(name: str, tensor: Tensor, dtype: torch.dtype, which: str) -> TensorpressError:
    """``which`` are its values: up to its largest magnitude, or none above it."""
    own, limits = dtype_name(dtype), torch.finfo(dtype)
    largest = max(float(block.abs().max()) for block in _blocks(tensor) if len(block))
    allowed = [n for n in VALUE_BITS if n != own and torch.finfo(getattr(torch, n)).max >= largest]
    return TensorpressError(
        f"storage.dtype: {own} cannot hold {name}, whose values are {which} {largest:.6g} (it "
        f"holds {limits.tiny:.2g} to {limits.max:.6g} in full); allowed: "
        + (", ".join(allowed) or "smaller values, for no storage.dtype holds these")
    )
