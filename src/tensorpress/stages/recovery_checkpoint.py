"""A recovered checkpoint: the compressed one with adapters beside its layers, or merged."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensorpress.architectures.families.base import Family
from tensorpress.checkpoints.bundle import copy_tokenizer, write_config
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.rows import StorageRow
from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.checkpoints.storage_range import rounded_as
from tensorpress.config.recovery import Adapters
from tensorpress.files.storage import VALUE_BITS, StoredTensor, bits
from tensorpress.formats.adapters import ADAPTER
from tensorpress.formats.base import STORES, Format
from tensorpress.formats.modules import PROJECTIONS, SHARED
from tensorpress.formats.sum import Sum


def write_recovered(
    source: Path,
    adapters: Mapping[str, Format],
    spec: Adapters,
    dtype: str,
    compressed: StorageRow,
    target: Path,
) -> StorageRow:
    """Write the checkpoint of ``source`` with its adapters into the new folder ``target``.

    ``adapters``: what ``recovery.recover`` returns. Tensor by tensor, so memory is bounded by a
    shard. ``compressed`` is the row of ``source``; the returned one counts the adapters too.
    """
    target.mkdir(parents=True)
    checkpoint = Checkpoint.open(source)
    config, family = copy.deepcopy(checkpoint.config), checkpoint.architecture.family
    plan: dict[str, Any] = config[STORES]
    values = getattr(torch, dtype)
    merged, kept = _split(adapters, spec, checkpoint)
    if spec.rounding is not None:
        kept = {
            path: rounded_as(path, store, spec.rounding, values) for path, store in kept.items()
        }
    inside = _adapt_experts(plan, kept)
    plan["adapters"] += [
        {"path": path, **store.description} for path, store in kept.items() if path not in inside
    ]
    writer = ShardWriter(target, values)
    for name in sorted(checkpoint.files):
        tensor = checkpoint.read([name])[name]
        if name in merged:
            tensor = tensor + merged[name].view(tensor.shape).to(tensor.dtype)
        # counted by the row of the source
        writer.add(_moved(name, inside.values()), tensor, StoredTensor(tuple(tensor.shape), None))
    counts = _Counts(plan, family, VALUE_BITS[dtype])
    for path, store in kept.items():
        layer = family.layer_of(path)
        at = f"{inside[path]}.correction" if path in inside else f"{path}.{ADAPTER}"
        counts.add(path, writer.add_store(at, store, layer, replaced=True))
    checkpoint_bytes = writer.close()
    write_config(config, plan, dtype, target)
    copy_tokenizer(source, target)
    saved = compressed.saved.plus(counts.modules, counts.blocks, counts.model)
    return StorageRow.of(saved, checkpoint_bytes, compressed.origin)


class _Counts:
    """Bits of adapters of compressed modules, of those in their layers, and of all."""

    def __init__(self, plan: dict[str, Any], family: Family, value_bits: int) -> None:
        paths = [entry["path"] for entry in (*plan["linears"], *plan["experts"])]
        self._compressed = set(paths)
        self._layers = {family.layer_of(f"{path}.") for path in paths} - {None}
        self._family, self._value_bits = family, value_bits
        self.modules = self.blocks = self.model = 0

    def add(self, path: str, entries: list[StoredTensor]) -> None:
        """Count the adapters of one layer or projection."""
        size = bits(entries, self._value_bits)
        self.model += size
        if self._family.layer_of(f"{path}.") in self._layers:
            self.blocks += size
        if {path, path.rpartition(".")[0]} & self._compressed:
            self.modules += size


def _adapt_experts(plan: dict[str, Any], kept: Mapping[str, Format]) -> dict[str, str]:
    """Wrap the stores of adapted experts in the plan; path of a projection -> path of its store."""
    wrapped = {}
    for entry in plan["experts"]:
        for index, name in enumerate(PROJECTIONS):
            path = at = f"{entry['path']}.{name}"
            if path not in kept:
                continue
            holder: Any = entry
            place: Any = name
            if SHARED in entry:
                holder, place = entry[SHARED]["settings"]["parts"], index
                at = f"{entry['path']}.{SHARED}.part_{index}"
            settings = {"base": holder[place], "correction": kept[path].description}
            holder[place] = {"format": Sum.name, "settings": settings}
            wrapped[path] = at
    return wrapped


def _moved(name: str, wrapped: Iterable[str]) -> str:
    """The name of a tensor of the source: a wrapped store stands one level deeper."""
    for path in wrapped:
        if name.startswith(f"{path}."):
            return f"{path}.base.{name.removeprefix(f'{path}.')}"
    return name


def _split(
    adapters: Mapping[str, Format], spec: Adapters, checkpoint: Checkpoint
) -> tuple[dict[str, Tensor], dict[str, Format]]:
    """Changes of whole matrices by tensor, if adapters are to be merged, and the adapters left."""
    if spec.keep == "kept":
        return {}, dict(adapters)
    plan = checkpoint.config[STORES]
    formats = {(entry["owner"], entry["name"]): entry["format"] for entry in plan["stores"]}
    whole = {path: f"{path}.weight" for path in adapters if f"{path}.weight" in checkpoint.files}
    for entry in plan["linears"]:
        owner, name, _ = entry["parts"][0]
        if len(entry["parts"]) == 1 and formats[owner, name] == "dense":
            whole[entry["path"]] = f"{owner}.{STORES}.{name}.weight"
    changes = {}
    for path, tensor in whole.items():
        if path in adapters:
            change = adapters[path].dense(0)
            plain = tensor == f"{path}.weight"
            swapped = plain and checkpoint.architecture.family.is_transposed(path)
            changes[tensor] = change.mT if swapped else change
    return changes, {path: store for path, store in adapters.items() if path not in whole}
