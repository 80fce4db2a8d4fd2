"""Reading and writing safetensors checkpoints, one or many shards, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tensorpress.errors import TensorpressError
from tensorpress.families.base import Family
from tensorpress.layers import LayerShape

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory: which file holds which tensor, and its ``config.json``."""

    directory: Path
    config: dict[str, Any]
    files: Mapping[str, str]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read config and tensor index; a missing file or shard raises ``TensorpressError``."""
        config_path = directory / "config.json"
        if not config_path.is_file():
            raise TensorpressError(f"{directory}: no config.json")
        config = json.loads(config_path.read_text())
        if (directory / INDEX).is_file():
            files = json.loads((directory / INDEX).read_text())["weight_map"]
        elif (directory / SINGLE).is_file():
            files = dict.fromkeys(_names(directory / SINGLE), SINGLE)
        else:
            raise TensorpressError(
                f"{directory}: neither {SINGLE} nor {INDEX}; only safetensors checkpoints are read"
            )
        for shard in sorted(set(files.values())):
            if not (directory / shard).is_file():
                raise TensorpressError(f"{directory}: shard {shard} of {INDEX} is missing")
        return cls(directory, config, files)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors; only their bytes are read."""
        wanted: dict[str, list[str]] = {}
        for name in names:
            if name not in self.files:
                raise TensorpressError(f"{self.directory}: tensor {name} is missing")
            wanted.setdefault(self.files[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        for shard, members in wanted.items():
            try:
                with safe_open(self.directory / shard, framework="pt") as file:
                    tensors |= {name: file.get_tensor(name) for name in members}
            except SafetensorError as error:
                raise TensorpressError(f"{self.directory / shard}: damaged: {error}") from error
        return tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, from the headers alone."""
        shapes: dict[str, tuple[int, ...]] = {}
        for shard in sorted(set(self.files.values())):
            with safe_open(self.directory / shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        return shapes

    def weights(
        self, family: Family, layer: int, shape: LayerShape, modules: Iterable[str]
    ) -> dict[str, Tensor]:
        """Weights by canonical name: ``(out, in)`` or, for experts, ``(E, out, in)``."""
        weights: dict[str, Tensor] = {}
        for module in modules:
            source = family.weight_source(layer, module, shape, self.files)
            tensors = self.read(source.names)
            taken: Tensor = source.take([tensors[name] for name in source.names])
            weights[module] = taken.contiguous()
        return weights

    def verify(self) -> None:
        """Read every tensor once; a NaN or infinity raises ``TensorpressError`` naming it."""
        for name in sorted(self.files):
            tensor = self.read([name])[name]
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TensorpressError(
                    f"{self.directory}: tensor {name} has NaN or infinite values"
                )


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise TensorpressError(f"{path}: damaged or truncated: {error}") from error
