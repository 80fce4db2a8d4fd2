"""Plain weights in place of codes: a checkpoint's tensors, dequantised one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from tensorpress.checkpoints.quantised.base import Held, Reader, Weight
from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.checkpoints.storage_range import stored_as
from tensorpress.files.storage import StoredTensor
from tensorpress.running.forkserver import function
from tensorpress.sources.headers import Stored
from tensorpress.sources.quantised import Quantisation
from tensorpress.sources.weightfiles import INDEX


def dequantise(
    name: str, codes: Quantisation, tensors: Mapping[str, Stored], dtype: str, target: Path
) -> dict[str, int]:
    """Write the weights of ``models.<name>`` into ``target`` as safetensors of ``dtype``.

    Returns the bits that each took in ``tensors``, by name. What these lack is found from their
    headers, before a weight is computed; values that ``dtype`` cannot hold raise
    ``TensorpressError`` too. Memory: a shard, a tensor, and a block of it.
    """
    held = Held(tensors, name, codes.described)
    read: Reader = function(codes.reader)
    weights = read(held, codes.settings)
    weights |= held.plain()
    (target / INDEX).unlink(missing_ok=True)  # of the codes; one shard of weights has none
    writer = ShardWriter(target, getattr(torch, dtype))
    for weight_name, weight in weights.items():
        whole = _whole(weight_name, weight, writer.dtype)
        writer.add(weight_name, whole, StoredTensor(weight.shape, None))
    writer.close()
    return {weight_name: weight.bits for weight_name, weight in weights.items()}


def _whole(name: str, weight: Weight, dtype: torch.dtype) -> Tensor:
    """A weight as it is stored; whole numbers stay as they are."""
    blocks = (
        stored_as(name, block, dtype) if block.is_floating_point() else block
        for block in weight.blocks()
    )
    first = next(blocks)
    if first.shape == weight.shape:
        return first
    whole, place = torch.empty(weight.shape, dtype=first.dtype), 0
    for block in chain([first], blocks):
        whole[place : place + len(block)] = block
        place += len(block)
    return whole
