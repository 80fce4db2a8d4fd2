"""The checkpoint that a transform makes, written tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tensorpress.bundle import copy_tokenizer
from tensorpress.checkpoint import Checkpoint
from tensorpress.families.base import Family
from tensorpress.shards import ShardWriter
from tensorpress.storage import StoredTensor
from tensorpress.transforms.base import Transform


def write_transformed(source: Path, family: Family, transform: Transform, target: Path) -> None:
    """Write the result of ``transform`` on the fetched model ``source`` into a new folder.

    Values that are not finite, or that the dtype of a tensor cannot hold: ``TensorpressError``.
    """
    target.mkdir(parents=True)
    checkpoint = Checkpoint.open(source)
    config = transform.planned(family, checkpoint.config, str(source))
    writer = ShardWriter(target, torch.float32)
    for name, tensor in transform.tensors(checkpoint, family):
        entry = StoredTensor(tuple(tensor.shape), family.layer_of(name))
        writer.add(name, tensor, entry, tensor.dtype)
    writer.close()
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    copy_tokenizer(source, target)
    Checkpoint.open(target).verify()
