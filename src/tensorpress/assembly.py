"""Assemble a compressed checkpoint: plain tensors copied, replaced ones left out, factors added.

Streams tensor by tensor into shards, so memory is bounded by a shard, not by the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tensorpress import formats
from tensorpress.checkpoint import INDEX, SINGLE, Checkpoint
from tensorpress.factorfile import StoredFactors, load_factors, store_name
from tensorpress.families.base import Family
from tensorpress.formats.base import STORES, Format
from tensorpress.formats.dense import DenseSlices
from tensorpress.layers import group_of
from tensorpress.rows import StorageRow
from tensorpress.storage import VALUE_BITS, StoredTensor, bits_saved

SHARD_BYTES = 4 * 2**30
REMOTE_CODE = "modeling_tensorpress"


@dataclass(frozen=True)
class LayerFactors:
    """Which factor file serves which modules of a layer."""

    layer: int
    modules: tuple[str, ...]
    file: Path


def assemble(
    model_directory: Path,
    family: Family,
    placements: Sequence[LayerFactors],
    dtype: str,
    target: Path,
) -> StorageRow:
    """Write the compressed checkpoint into the new folder ``target`` and count its bits.

    Without placements the result is the plain model in the storage dtype. All floating-point
    tensors are stored as ``dtype``; the folder loads with ``AutoModelForCausalLM``.
    """
    target.mkdir(parents=True)
    source = Checkpoint.open(model_directory)
    writer = _ShardWriter(target, getattr(torch, dtype))
    replaced: set[str] = set()
    plan: dict[str, Any] = {"linears": [], "experts": []}
    dense: list[StoredTensor] = []
    for layer in sorted({placement.layer for placement in placements}):
        chosen = [p for p in placements if p.layer == layer]
        replaced |= _add_linears(writer, plan, source, family, layer, chosen, dense)
        replaced |= _add_experts(writer, plan, source, family, layer, chosen, dense)
    replaced |= _fuse_experts(writer, source, family, bool(placements), replaced, dense)
    for name in sorted(source.files):
        if name not in replaced and not _is_tied_head(name, source.config):
            tensor = source.read([name])[name]
            entry = StoredTensor(
                tuple(tensor.shape), _layer_of(name, family, source), name in family.embeddings
            )
            dense.append(entry)
            writer.add(name, tensor, entry)
    checkpoint_bytes = writer.close()
    _write_config(source, target, dtype, plan if placements else None)
    _copy_tokenizer(model_directory, target)
    saved = bits_saved(dense, writer.entries, VALUE_BITS[dtype])
    return StorageRow(
        dense_bits=saved.dense_bits,
        stored_bits=saved.stored_bits,
        checkpoint_bytes=checkpoint_bytes,
        bits_saved_modules_percent=saved.modules_percent,
        bits_saved_blocks_percent=saved.blocks_percent,
        bits_saved_without_embeddings_percent=saved.without_embeddings_percent,
        bits_saved_with_embeddings_percent=saved.with_embeddings_percent,
    )


def _add_linears(
    writer: _ShardWriter,
    plan: dict[str, Any],
    source: Checkpoint,
    family: Family,
    layer: int,
    placements: Sequence[LayerFactors],
    dense: list[StoredTensor],
) -> set[str]:
    """Store the factors of a layer's linear modules; returns the tensors that they replace."""
    replaced: set[str] = set()
    for placement in placements:
        if group_of(placement.modules[0]) == "experts":
            continue
        for stored in load_factors(placement.file, placement.modules):
            linears = [family.linear_path(layer, module) for module in stored.modules]
            path, name = family.layer_path(layer), store_name(stored.modules)
            plan["linears"].append(
                {"layer": path, "name": name, **_description(stored.store), "paths": linears}
            )
            _add_store(writer, f"{path}.{STORES}.{name}", stored.store, layer, replaced=True)
            replaced |= {f"{linear}.weight" for linear in linears}
            count = stored.store.slices
            shape = (stored.store.out_features, stored.store.in_features)
            dense += [StoredTensor(shape, layer, replaced=True)] * count
    return replaced


def _add_experts(
    writer: _ShardWriter,
    plan: dict[str, Any],
    source: Checkpoint,
    family: Family,
    layer: int,
    placements: Sequence[LayerFactors],
    dense: list[StoredTensor],
) -> set[str]:
    """Store a layer's experts if one projection is compressed; the others stay dense slices."""
    stores: dict[str, StoredFactors] = {}
    for placement in placements:
        if group_of(placement.modules[0]) == "experts":
            for stored in load_factors(placement.file, placement.modules):
                stores[stored.modules[0]] = stored
    if not stores:
        return set()
    shape = family.layer_shape(source.config, layer)
    path = family.experts_path(layer)
    entry: dict[str, Any] = {"path": path}
    replaced: set[str] = set()
    for module, module_shape in shape.group("experts").items():
        replaced |= set(family.weight_source(layer, module, module_shape, source.files).names)
        if module in stores:
            store = stores[module].store
        else:
            weight = source.weights(family, layer, shape, [module])[module]
            slices, out_features, in_features = weight.shape
            store = DenseSlices(slices=slices, out_features=out_features, in_features=in_features)
            store.fill(weight=weight)
        name = module.split(".")[1]
        entry[name] = _description(store)
        _add_store(writer, f"{path}.{name}", store, layer, replaced=module in stores)
        matrix = StoredTensor(
            (module_shape.out_features, module_shape.in_features), layer, replaced=module in stores
        )
        dense += [matrix] * module_shape.slices
    plan["experts"].append(entry)
    return replaced


def _fuse_experts(
    writer: _ShardWriter,
    source: Checkpoint,
    family: Family,
    compressed: bool,
    replaced: set[str],
    dense: list[StoredTensor],
) -> set[str]:
    """Store untouched experts under the fused names that the running model has.

    transformers fuses per-expert tensors while it loads a plain model, but not a custom one; so
    a compressed checkpoint must hold them fused. Returns the tensors taken care of.
    """
    fused: set[str] = set()
    if not compressed or family.experts is None:
        return fused
    for layer in range(family.layer_count(source.config)):
        shape = family.layer_shape(source.config, layer)
        names = {
            name
            for module, module_shape in shape.group("experts").items()
            for name in family.weight_source(layer, module, module_shape, source.files).names
        }
        if not names or names & replaced:
            continue
        weights = source.weights(family, layer, shape, shape.group("experts"))
        path = family.experts_path(layer)
        gate_up = torch.cat([weights["experts.gate"], weights["experts.up"]], dim=1)
        tensors = {family.experts.gate_up: gate_up, family.experts.down: weights["experts.down"]}
        for name, tensor in tensors.items():
            entry = StoredTensor(tuple(tensor.shape), layer)
            dense.append(entry)
            writer.add(f"{path}.{name}", tensor, entry)
        fused |= names
    return fused


class _ShardWriter:
    """Collects tensors into safetensors shards of bounded size and remembers what it stored."""

    def __init__(self, target: Path, dtype: torch.dtype) -> None:
        self.entries: list[StoredTensor] = []
        self._target, self._dtype = target, dtype
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: Tensor, entry: StoredTensor) -> None:
        """Store one tensor, cast to the storage dtype."""
        value = tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        size = value.numel() * value.element_size()
        if self._pending and self._pending_bytes + size > SHARD_BYTES:
            self._flush()
        self._pending[name] = value.contiguous()
        self._pending_bytes += size
        self.entries.append(entry)

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
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            (self._target / INDEX).write_text(json.dumps(index, indent=1))
        return size

    def _shard(self, number: int) -> Path:
        return self._target / f"model-{number + 1:05d}.safetensors"

    def _flush(self) -> None:
        if self._pending:
            path = self._shard(len(self._shards))
            save_file(self._pending, path, metadata={"format": "pt"})
            self._shards.append(list(self._pending))
            self._pending, self._pending_bytes = {}, 0


def _add_store(
    writer: _ShardWriter, prefix: str, store: Format, layer: int, *, replaced: bool
) -> None:
    for name, value in store.state_dict().items():
        entry = StoredTensor(tuple(value.shape), layer, replaced=replaced)
        writer.add(f"{prefix}.{name}", value, entry)


def _description(store: Format) -> dict[str, Any]:
    return {"format": store.name, "settings": store.settings}


def _layer_of(name: str, family: Family, source: Checkpoint) -> int | None:
    prefix = family.layer.split("{layer}")[0]
    number = name.removeprefix(prefix).split(".")[0]
    return int(number) if name.startswith(prefix) and number.isdigit() else None


def _is_tied_head(name: str, config: dict[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings")) and name == "lm_head.weight"


def _write_config(
    source: Checkpoint, target: Path, dtype: str, plan: dict[str, Any] | None
) -> None:
    config = {**source.config, "dtype": dtype}
    config.pop("torch_dtype", None)
    if plan is not None:
        base = source.config["architectures"][0]
        config["model_type"] = f"tensorpress_{source.config['model_type']}"
        config["architectures"] = [f"Tensorpress{base}"]
        config[STORES] = {"base_class": base, **plan}
        config["auto_map"] = {
            "AutoConfig": f"{REMOTE_CODE}.Config",
            "AutoModelForCausalLM": f"{REMOTE_CODE}.Model",
        }
        _bundle_code(target, base)
    (target / "config.json").write_text(json.dumps(config, indent=1))


def _bundle_code(target: Path, base: str) -> None:
    """Copy the format modules, which need only torch and transformers, into the checkpoint."""
    folder = Path(formats.__file__).parent
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            shutil.copyfile(path, target / path.name)
    code = (
        f"from transformers import {base}\n\nfrom .model import factored_class\n\n"
        f"Model = factored_class({base})\nConfig = Model.config_class\n"
    )
    (target / f"{REMOTE_CODE}.py").write_text(code)


def _copy_tokenizer(source: Path, target: Path) -> None:
    skipped = {"config.json", INDEX}
    for path in sorted([*source.glob("*.json"), *source.glob("*.txt"), *source.glob("*.model")]):
        if path.name not in skipped:
            shutil.copyfile(path, target / path.name)
