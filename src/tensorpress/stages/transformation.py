"""The checkpoint that a transform makes, written tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tensorpress.architectures.shortcuts import SHORTCUTS
from tensorpress.checkpoints.bundle import copy_tokenizer, write_sliced_class
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.files.storage import StoredTensor
from tensorpress.sources.quantised import Origin
from tensorpress.transforms.base import Transform


def write_transformed(
    source: Path, transform: Transform, stream: Mapping[str, Tensor], target: Path
) -> None:
    """Write the result of ``transform`` on the model ``source`` into a new folder.

    ``stream``: moments by the paths of norms, for a transform that reads them.

    Values that are not finite, or that the dtype of a tensor cannot hold: ``TensorpressError``.
    """
    target.mkdir(parents=True)
    checkpoint = Checkpoint.open(source)
    made = transform.planned(checkpoint.architecture, str(source))
    writer = ShardWriter(target, torch.float32)
    for name, tensor in transform.tensors(checkpoint, stream):
        entry = StoredTensor(tuple(tensor.shape), made.family.layer_of(name))
        writer.add(name, tensor, entry, tensor.dtype)
    writer.close()
    config = dict(made.config)
    copy_tokenizer(source, target)
    if SHORTCUTS in config:
        config = write_sliced_class(config, target)
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    Origin.of(source).write(target)
    Checkpoint.open(target).verify()
