"""The checkpoint that a transform makes, written tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tensorpress.checkpoints.bundle import copy_tokenizer
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.files.storage import StoredTensor
from tensorpress.sources.quantised import Origin
from tensorpress.transforms.base import Transform


def write_transformed(source: Path, transform: Transform, target: Path) -> None:
    """Write the result of ``transform`` on the model ``source`` into a new folder.

    Values that are not finite, or that the dtype of a tensor cannot hold: ``TensorpressError``.
    """
    target.mkdir(parents=True)
    checkpoint = Checkpoint.open(source)
    made = transform.planned(checkpoint.architecture, str(source))
    writer = ShardWriter(target, torch.float32)
    for name, tensor in transform.tensors(checkpoint):
        entry = StoredTensor(tuple(tensor.shape), made.family.layer_of(name))
        writer.add(name, tensor, entry, tensor.dtype)
    writer.close()
    config = json.dumps(dict(made.config), indent=1)
    (target / "config.json").write_text(config, encoding="utf-8")
    copy_tokenizer(source, target)
    Origin.of(source).write(target)
    Checkpoint.open(target).verify()
