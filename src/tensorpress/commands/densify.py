"""A compressed checkpoint as a plain dense one, for tools that know only the base class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from tensorpress.architectures.families.base import Family
from tensorpress.architectures.families.table import plain_architecture
from tensorpress.checkpoints.bundle import copy_tokenizer
from tensorpress.checkpoints.checkpoint import is_finite
from tensorpress.checkpoints.loading import base_class, load_model, objective_of
from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import replacing
from tensorpress.formats.adapters import ADAPTER
from tensorpress.formats.base import STORES
from tensorpress.formats.modules import FactoredEmbedding, FactoredExperts, FactoredLinear
from tensorpress.running.oom import CPU
from tensorpress.sources.custom_code import REFERENCES, sealed_files
from tensorpress.sources.weightfiles import check_weights


def densify(source: Path, target: Path) -> None:
    """Write the model of ``source`` with every factored matrix rebuilt into the new ``target``.

    It computes what the compressed one does, to rounding, and takes a dense model's memory. A model
    with code of its own keeps it, under its seal. ``TensorpressError`` if ``source`` is no
    compressed checkpoint, if ``target`` exists, or if a rebuilt matrix is out of the range of the
    stored dtype.
    """
    check_target(target)
    plain, _ = rebuilt(source)
    with replacing(target) as temporary:
        save(plain, source, temporary)


def check_target(target: Path) -> None:
    """Refuse a folder that exists already."""
    if target.exists():
        raise TensorpressError(f"{target}: exists already; allowed: a new folder")


def rebuilt(source: Path) -> tuple[Any, PreTrainedModel]:
    """The plain model of a compressed checkpoint, with its matrices, and the compressed one."""
    path = source / "config.json"
    if not path.is_file():
        raise TensorpressError(f"{source}: no config.json; allowed: a compressed checkpoint")
    config = json.loads(path.read_text(encoding="utf-8"))
    if STORES not in config:
        raise TensorpressError(f"{source}: not compressed; allowed: a folder of results/assemble")
    check_weights(source, str(source))
    dtype = getattr(torch, config["dtype"])
    compressed = load_model(source, CPU, dtype)
    base = base_class(source, config[STORES]["base_class"], bool(sealed_files(source)))
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
    return plain, compressed


def save(
    plain: Any, source: Path, folder: Path, tensors: dict[str, Tensor] | None = None, **more: Any
) -> None:
    """Write a plain model, or other tensors for it, with what lies beside those of ``source``.

    ``more`` goes into its ``config.json``.
    """
    plain.save_pretrained(folder, state_dict=tensors)
    copy_tokenizer(source, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | more
    own = {objective_of(source).auto_class: type(plain), "AutoConfig": type(plain.config)}
    if references := {auto: name for auto, of in own.items() if (name := _own_code(of))}:
        config[REFERENCES] = references
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _own_code(kind: type) -> str:
    """``file.Class`` of a class from a model's own code; empty of one of transformers."""
    package, _, file = kind.__module__.rpartition(".")
    return f"{file}.{kind.__name__}" if package.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME) else ""


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
