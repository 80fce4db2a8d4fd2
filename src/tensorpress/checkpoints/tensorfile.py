"""Safetensors files of our own: the header holds a checksum of every tensor and of its metadata.

XXH3 of 128 bits: what it guards against is chance, not malice, and it costs a tenth of reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from xxhash import xxh3_128

from tensorpress.errors import DamagedFile

UNKEYED = "tensors are the same whatever else their file holds"

_HEADER = "tensorpress"
"""One entry of the header for all: safetensors writes several in an order of chance."""


def save_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write tensors of the CPU and ``metadata`` with their checksums."""
    sums = {name: _of_tensor(tensor) for name, tensor in tensors.items()}
    header = {"metadata": dict(metadata), "xxh3_128": _of_metadata(metadata), "tensors": sums}
    save_file(dict(tensors), path, metadata={_HEADER: json.dumps(header)})


class TensorFile:
    """An open file whose metadata are as they were written; tensors are checked when read."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file
        header = json.loads(file.metadata()[_HEADER])
        self.metadata: dict[str, str] = header["metadata"]
        self._sums: dict[str, str] = header["tensors"]
        if header["xxh3_128"] != _of_metadata(self.metadata):
            raise ValueError("the checksum of its metadata does not match")

    @property
    def names(self) -> list[str]:
        """The tensors of the file."""
        return list(self._sums)

    def read(self, name: str) -> Tensor:
        """One tensor; ``DamagedFile`` if it is not the one that was written."""
        tensor: Tensor = self._file.get_tensor(name)
        if self._sums[name] != _of_tensor(tensor):
            raise DamagedFile(self._path, f"the checksum of {name} does not match")
        return tensor


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """A file of ``save_tensors``; ``DamagedFile`` if it is cut short or its header was changed."""
    try:
        file = safe_open(path, framework="pt")
        opened = TensorFile(path, file)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(path, error) from error
    with file:
        yield opened


def _of_metadata(metadata: Mapping[str, str]) -> str:
    return xxh3_128(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def _of_tensor(tensor: Tensor) -> str:
    digest = xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
