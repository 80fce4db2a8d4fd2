"""Reading and writing safetensors checkpoints, one or many shards, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.families.table import plain_architecture
from tensorpress.errors import DamagedFile, TensorpressError
from tensorpress.sources.weightfiles import INDEX, SINGLE, check_shards

CHECKED_VALUES = 2**24
"""Values that are tested for being finite together: the mask of a whole tensor takes memory."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory: which file holds which tensor, and its ``config.json``."""

    directory: Path
    config: dict[str, Any]
    files: Mapping[str, str]

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """Read config and tensor index; ``DamagedFile`` if a file or shard is cut or missing."""
        config = _json(directory / "config.json")
        if (directory / INDEX).is_file():
            files = _json(directory / INDEX)["weight_map"]
            check_shards(files.values(), f"{directory / INDEX}")
        elif (directory / SINGLE).is_file():
            with _opened(directory / SINGLE) as file:
                files = dict.fromkeys(file.keys(), SINGLE)
        else:
            raise TensorpressError(
                f"{directory}: neither {SINGLE} nor {INDEX}; only safetensors checkpoints are read"
            )
        for shard in sorted(set(files.values())):
            if not (directory / shard).is_file():
                raise DamagedFile(directory / shard, f"missing, but listed in {INDEX}")
        return cls(directory, config, files)

    @cached_property
    def architecture(self) -> Architecture:
        """The model's, plain or compressed; ``TensorpressError`` for one that has no family."""
        return plain_architecture(self.config, str(self.directory))

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors; only their bytes are read.

        ``TensorpressError`` names one that is missing, ``DamagedFile`` a shard that is cut.
        """
        wanted: dict[str, list[str]] = {}
        for name in names:
            if name not in self.files:
                raise TensorpressError(f"{self.directory}: tensor {name} is missing")
            wanted.setdefault(self.files[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        for shard, members in wanted.items():
            with _opened(self.directory / shard) as file:
                tensors |= {name: file.get_tensor(name) for name in members}
        return tensors

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, from the headers alone; ``DamagedFile`` if a shard is cut."""
        shapes: dict[str, tuple[int, ...]] = {}
        for shard in sorted(set(self.files.values())):
            with _opened(self.directory / shard) as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        return shapes

    def weights(self, layer: int, modules: Iterable[str]) -> dict[str, Tensor]:
        """Weights by canonical name: ``(out, in)`` or, for experts, ``(E, out, in)``."""
        return {module: self.weight(layer, module) for module in modules}

    def weight(
        self,
        layer: int,
        module: str,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """One weight, contiguous; as stored, or of another dtype or on another device.

        What stands in the files in many tensors is put together one by one.
        """
        source = self.architecture.weight_source(layer, module, self.files)
        tensors = self._one_by_one(source.names)
        first = next(tensors)
        if len(source.names) == 1:
            weight: Tensor = source.take([first])
            return weight.to(device=device, dtype=dtype or first.dtype).contiguous()
        sizes = (len(source.names), *first.shape)
        stack = torch.empty(sizes, dtype=dtype or first.dtype, device=device)
        for matrix, tensor in zip(stack, chain([first], tensors), strict=True):
            matrix.copy_(tensor)
        return stack

    def matrices(self, layer: int, module: str) -> Iterator[Tensor]:
        """The matrices ``(out, in)`` of a weight as stored, each read when its turn comes."""
        source = self.architecture.weight_source(layer, module, self.files)
        tensors = self._one_by_one(source.names)
        if len(source.names) == 1:
            weight: Tensor = source.take(list(tensors))
            tensors = iter(weight if weight.ndim == 3 else [weight])
        yield from tensors

    def _one_by_one(self, names: Iterable[str]) -> Iterator[Tensor]:
        # each from a file opened anew: what was read counts as this process's memory until then
        return (self.read([name])[name] for name in names)

    def verify(self) -> None:
        """Read every tensor once; a NaN or infinity raises ``TensorpressError`` naming it."""
        for name in sorted(self.files):
            tensor = self.read([name])[name]
            if not is_finite(tensor):
                raise TensorpressError(
                    f"{self.directory}: tensor {name} has NaN or infinite values"
                )


@dataclass(frozen=True)
class LayerWeights(Mapping[str, Tensor]):
    """Float32 weights of modules of a layer, read each time that one is asked for.

    Nothing is kept, so a job holds the weights that it works on and no others.
    """

    checkpoint: Checkpoint
    layer: int
    modules: tuple[str, ...]
    device: torch.device

    def __getitem__(self, module: str) -> Tensor:
        if module not in self.modules:
            raise KeyError(module)
        return self.checkpoint.weight(self.layer, module, torch.float32, self.device)

    def matrices(self, module: str) -> Iterator[Tensor]:
        """Each matrix ``(out, in)`` of a module by itself: never a stack, where files hold none."""
        for matrix in self.checkpoint.matrices(self.layer, module):
            yield matrix.to(self.device, torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    parts = tensor.reshape(-1).split(CHECKED_VALUES)
    return all(bool(part.isfinite().all()) for part in parts)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DamagedFile(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise DamagedFile(path, error) from error
