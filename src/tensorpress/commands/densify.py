"""A compressed checkpoint as a plain dense one, for tools that know only the base class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.table import plain_architecture
from tensorpress.checkpoints.bundle import copy_tokenizer
from tensorpress.checkpoints.checkpoint import is_finite
from tensorpress.checkpoints.loading import load_model
from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import replacing
from tensorpress.formats.adapters import ADAPTER
from tensorpress.formats.base import STORES
from tensorpress.formats.modules import FactoredEmbedding, FactoredExperts, FactoredLinear
from tensorpress.running.oom import CPU
from tensorpress.sources.custom_code import sealed_files
from tensorpress.sources.weightfiles import check_weights


def densify(source: Path, target: Path) -> None:
    """Write the model of ``source`` with every factored matrix rebuilt into the new ``target``.

    It computes what the compressed one does, to rounding, and takes a dense model's memory.
    ``TensorpressError`` if ``source`` is no compressed checkpoint of a class of transformers, if
    ``target`` exists, or if a rebuilt matrix is out of the range of the stored dtype.
    """
    path = source / "config.json"
    if not path.is_file():
        raise TensorpressError(f"{source}: no config.json; allowed: a compressed checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    if STORES not in config:
        raise TensorpressError(f"{source}: not compressed; allowed: a folder of results/assemble")
    if target.exists():
        raise TensorpressError(f"{target}: exists already; allowed: a new folder")
    check_weights(source, str(source))
    base_class = config[STORES]["base_class"]
    if "." in base_class or sealed_files(source):
        raise TensorpressError(
            f"{source}: a model with code of its own; allowed: classes of transformers"
        )
    dtype = getattr(torch, config["dtype"])
    compressed = load_model(source, CPU, dtype)
    base = getattr(transformers, base_class)
    plain = base(base.config_class(**_plain(config))).to(dtype)
    family = plain_architecture(config, str(source)).family
    values = plain.state_dict()
    with torch.no_grad():
        for name, value in compressed.state_dict().items():
            if name in values and values[name].shape == value.shape:
                values[name].copy_(value)
        for name, module in compressed.named_modules():
            if isinstance(module, FactoredLinear | FactoredExperts | FactoredEmbedding):
                _rebuild(module, plain.get_submodule(name), family)
        for name, module in compressed.named_modules():
            if hasattr(module, ADAPTER):
                adapted: Any = plain.get_submodule(name)
                change = getattr(module, ADAPTER).dense(0)
                if isinstance(module, FactoredLinear):
                    change = module.restored(change)
                adapted.weight += change.mT if isinstance(adapted, Conv1D) else change
    for name, value in values.items():
        if not is_finite(value):
            raise TensorpressError(
                f"{source}: {name}, rebuilt in {config['dtype']}, has infinite values; "
                "allowed: a checkpoint of storage.dtype float32 or bfloat16"
            )
    with replacing(target) as temporary:
        plain.save_pretrained(temporary)
        copy_tokenizer(source, temporary)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    own = {STORES, "auto_map", "architectures", "model_type"}
    return {key: value for key, value in config.items() if key not in own}


def _rebuild(module: nn.Module, plain: Any, family: Family) -> None:
    """Write the matrices of a factored module where the plain one has them."""
    if isinstance(module, FactoredLinear):
        weight, bias = module.whole_weight(), module.whole_bias()
        plain.weight.copy_(weight.mT if isinstance(plain, Conv1D) else weight)
        if bias is not None:
            plain.bias.copy_(bias)
    elif isinstance(module, FactoredEmbedding):
        plain.weight.copy_(module.weight)
    elif isinstance(module, FactoredExperts):
        for name, view in family.expert_weights(plain).items():
            for expert, matrix in enumerate(module.whole_weights(name.split(".")[1])):
                view[expert].copy_(matrix)
        if module.biases:
            plain.gate_up_proj_bias.copy_(module.whole_biases())
