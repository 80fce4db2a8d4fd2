"""Writing a checkpoint: tensors collected into safetensors shards of bounded size."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tensorpress.checkpoints.storage_range import stored_as
from tensorpress.files.storage import SHARD_BYTES, StoredTensor, stored_tensors
from tensorpress.formats.base import Format
from tensorpress.sources.weightfiles import SINGLE, write_index


class ShardWriter:
    """Collects tensors into safetensors shards of bounded size and remembers what it stored."""

    def __init__(self, target: Path, dtype: torch.dtype) -> None:
        self.entries: list[StoredTensor] = []
        self._target, self.dtype = target, dtype
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []

    def add(
        self, name: str, tensor: Tensor, entry: StoredTensor, given: torch.dtype | None = None
    ) -> None:
        """Store one tensor, cast to the storage dtype, or ``given``, which must hold it."""
        dtype = (given or self.dtype) if tensor.is_floating_point() else tensor.dtype
        size = tensor.numel() * dtype.itemsize
        if self._pending_bytes + size > SHARD_BYTES:
            self._flush()
        kept = stored_as(name, tensor, dtype) if tensor.is_floating_point() else tensor
        self._pending[name] = kept.contiguous()
        self._pending_bytes += size
        self.entries.append(entry)
        if self._pending_bytes > SHARD_BYTES:
            self._flush()

    def add_store(
        self, prefix: str, store: Format, layer: int | None, *, replaced: bool
    ) -> list[StoredTensor]:
        """Store a factor set under names that begin with ``prefix``; what that is, for counting."""
        entries = stored_tensors(store, layer, replaced=replaced)
        for name, value in store.state_dict().items():
            self.add(f"{prefix}.{name}", value, entries[name])
        return list(entries.values())

    def close(self) -> int:
        """Write what is left and the index; returns the bytes of all shards."""
        self._flush()
        files = [self._shard(i) for i in range(len(self._shards))]
        size = sum(path.stat().st_size for path in files)
        if len(files) == 1:
            files[0].rename(self._target / SINGLE)
        else:
            weight_map = {
                name: path.name
                for path, names in zip(files, self._shards, strict=True)
                for name in names
            }
            write_index(self._target, weight_map, size)
        return size

    def _shard(self, number: int) -> Path:
        return self._target / f"model-{number + 1:05d}.safetensors"

    def _flush(self) -> None:
        if self._pending:
            path = self._shard(len(self._shards))
            save_file(self._pending, path, metadata={"format": "pt"})
            self._shards.append(list(self._pending))
            self._pending, self._pending_bytes = {}, 0
