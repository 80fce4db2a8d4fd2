"""Assemble a compressed checkpoint: plain tensors copied, replaced ones left out, factors added.

Streams tensor by tensor into shards, so memory is bounded by a shard and the largest factor set,
not by the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tensorpress.bundle import copy_tokenizer, write_config
from tensorpress.checkpoint import Checkpoint
from tensorpress.custom_code import base_class
from tensorpress.factorfile import factor_sets, load_factors, store_name
from tensorpress.families.base import Family
from tensorpress.formats.base import STORES, Format
from tensorpress.formats.dense import DenseSlices
from tensorpress.layers import LayerShape, group_of
from tensorpress.params import Rounding
from tensorpress.rows import StorageRow
from tensorpress.shards import ShardWriter
from tensorpress.storage import VALUE_BITS, StoredTensor, bits_saved, stored_tensors
from tensorpress.storage_range import rounded_as


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
    rounding: Rounding | None = None,
) -> StorageRow:
    """Write the compressed checkpoint into the new folder ``target`` and count its bits.

    Without placements the result is the plain model in the storage dtype. All floating-point
    tensors are stored as ``dtype``; the folder loads with ``AutoModelForCausalLM``. ``rounding``
    is of the placed factors, not of dense weights that only stand beside them.
    """
    target.mkdir(parents=True)
    source = Checkpoint.open(model_directory)
    build = _Build(source, family, ShardWriter(target, getattr(torch, dtype)), rounding)
    for layer in sorted({placement.layer for placement in placements}):
        files = {
            modules: placement.file
            for placement in placements
            if placement.layer == layer
            for modules in factor_sets(placement.file)
            if set(modules) & set(placement.modules)
        }
        build.add_linears(layer, {m: f for m, f in files.items() if group_of(m[0]) != "experts"})
        build.add_experts(layer, {m: f for m, f in files.items() if group_of(m[0]) == "experts"})
    if placements:
        build.fuse_untouched_experts()
    build.copy_rest(rename=bool(placements))
    checkpoint_bytes = build.writer.close()
    plan = {"base_class": base_class(source.config), **build.plan} if placements else None
    write_config(source.config, plan, dtype, target)
    copy_tokenizer(model_directory, target)
    saved = bits_saved(build.dense, build.writer.entries, VALUE_BITS[dtype])
    return StorageRow.of(saved, checkpoint_bytes)


class _Build:
    """A checkpoint in the making: what is stored, what it replaces, how it is put together.

    Factors come as files by the modules that they serve, and are read one set at a time.
    """

    def __init__(
        self, source: Checkpoint, family: Family, writer: ShardWriter, rounding: Rounding | None
    ) -> None:
        self.source, self.family, self.writer = source, family, writer
        self._rounding = rounding
        self.plan: dict[str, Any] = {
            "stores": [],
            "linears": [],
            "embeddings": [],
            "experts": [],
            "adapters": [],
        }
        self.dense: list[StoredTensor] = []
        self._gone: set[str] = set()
        """Tensors of the source that are stored in another form, or not at all."""
        self._compressed: set[str] = set()
        """Tensors beside replaced weights that belong to compressed modules: biases."""

    def add_linears(self, layer: int, files: Mapping[tuple[str, ...], Path]) -> None:
        """Store the factors of a layer's linear modules, or of the embedding."""
        if not files:
            return
        shape = self.family.layer_shape(self.source.config, layer)
        outer = layer == self.family.layer_count(self.source.config)
        owner = "" if outer else self.family.layer_path(layer)
        served = {
            module: [owner, store_name(modules), index]
            for modules in files
            for index, module in enumerate(modules)
        }
        for modules, file in files.items():
            store = self._read(modules, file)
            self._add_owned(owner, store_name(modules), store, layer, replaced=True)
        held: dict[str, list[str]] = {}
        for module in shape.modules:
            if group_of(module) != "experts":
                held.setdefault(self.family.linear_path(layer, module), []).append(module)
        for path, parts in held.items():
            if not served.keys() & set(parts):
                continue
            for module in parts:
                self._count(module, shape, layer, replaced=module in served)
                if module not in served:
                    served[module] = [owner, store_name([module]), 0]
                    store = self._dense_slices(layer, module)
                    self._add_owned(owner, store_name([module]), store, layer, replaced=False)
            self._gone.add(f"{path}.weight")
            self._compressed.add(f"{path}.bias")
            if outer:
                self._add_embedding(path, served["embedding"])
            else:
                per_head = self.family.linears[parts[0]].per_head
                self.plan["linears"].append(
                    {
                        "path": path,
                        "parts": [served[module] for module in parts],
                        "heads": shape.heads if per_head else None,
                    }
                )

    def add_experts(self, layer: int, files: Mapping[tuple[str, ...], Path]) -> None:
        """Store a layer's experts if one projection is compressed; the others stay dense."""
        if not files:
            return
        assert self.family.experts is not None
        names = self.family.experts
        shape = self.family.layer_shape(self.source.config, layer)
        path = self.family.experts_path(layer)
        limits = names.limits(self.source.config)
        entry: dict[str, Any] = {"path": path, "biases": names.biases, "clamp": limits}
        replaced = {module for modules in files for module in modules}
        for module in shape.group("experts"):
            source = self.family.weight_source(layer, module, shape, self.source.files)
            self._gone |= set(source.names)
            file = files.get((module,))
            store = self._read((module,), file) if file else self._dense_slices(layer, module)
            name = module.split(".")[1]
            entry[name] = _description(store)
            _add_store(self.writer, f"{path}.{name}", store, layer, replaced=module in replaced)
            del store  # before the next one is read
            self._count(module, shape, layer, replaced=module in replaced)
        if {"experts.gate", "experts.up"} <= replaced:
            self._compressed.add(f"{path}.{names.gate_up}_bias")
        if "experts.down" in replaced:
            self._compressed.add(f"{path}.{names.down}_bias")
        self.plan["experts"].append(entry)

    def fuse_untouched_experts(self) -> None:
        """Store untouched experts under the fused names that the running model has.

        transformers fuses per-expert tensors while it loads a plain model, but not a custom one.
        """
        experts = self.family.experts
        for layer in range(self.family.layer_count(self.source.config) if experts else 0):
            assert experts is not None
            shape = self.family.layer_shape(self.source.config, layer)
            names = {
                name
                for module in shape.group("experts")
                for name in self.family.weight_source(layer, module, shape, self.source.files).names
            }
            path = self.family.experts_path(layer)
            if not names or names & self._gone or f"{path}.{experts.down}" in names:
                continue
            fused = {
                experts.gate_up: ("experts.gate", "experts.up"),
                experts.down: ("experts.down",),
            }
            for name, modules in fused.items():
                self._add_fused(f"{path}.{name}", layer, shape, modules)
            self._gone |= names

    def _add_fused(
        self, name: str, layer: int, shape: LayerShape, modules: tuple[str, ...]
    ) -> None:
        stacks = [self.source.weight(self.family, layer, shape, module) for module in modules]
        tensor = torch.cat(stacks, dim=1)
        entry = StoredTensor(tuple(tensor.shape), layer)
        self.dense.append(entry)
        self.writer.add(name, tensor, entry)

    def copy_rest(self, *, rename: bool) -> None:
        """Store every tensor that is still to come; ``rename``: as the running model names it."""
        for name in sorted(self.source.files):
            if name in self._gone:
                continue
            tensor = self.source.read([name])[name]
            entry = StoredTensor(
                tuple(tensor.shape),
                self.family.layer_of(name),
                embedding=name == f"{self.family.embedding}.weight",
                replaced=name in self._compressed,
            )
            self.dense.append(entry)
            self.writer.add(self.family.running_name(name) if rename else name, tensor, entry)

    def _add_embedding(self, path: str, part: list[Any]) -> None:
        self.plan["embeddings"].append({"path": path, "part": part})
        if is_tied(self.source.config):
            self.plan["linears"].append({"path": self.family.head, "parts": [part], "heads": None})
            if self.family.head_bias is not None:
                # the config of the result ties nothing, so that both names need their tensor
                bias = self.source.read([self.family.head_bias])[self.family.head_bias]
                entry = StoredTensor(tuple(bias.shape), None)
                self.writer.add(f"{self.family.head}.bias", bias, entry)

    def _add_owned(
        self, owner: str, name: str, store: Format, layer: int, *, replaced: bool
    ) -> None:
        self.plan["stores"].append({"owner": owner, "name": name, **_description(store)})
        prefix = f"{owner}.{STORES}.{name}".removeprefix(".")
        outer = layer == self.family.layer_count(self.source.config)
        _add_store(self.writer, prefix, store, None if outer else layer, replaced=replaced)

    def _count(self, module: str, shape: LayerShape, layer: int, *, replaced: bool) -> None:
        matrices = shape.modules[module]
        embedding = module == "embedding"
        self.dense.append(
            StoredTensor(
                (matrices.slices, matrices.out_features, matrices.in_features),
                None if embedding else layer,
                embedding=embedding,
                replaced=replaced,
            )
        )

    def _read(self, modules: tuple[str, ...], file: Path) -> Format:
        (stored,) = load_factors(file, modules)
        if self._rounding is None:
            return stored.store
        bits, group = self._rounding.bits, self._rounding.group
        return rounded_as(store_name(modules), stored.store, bits, group, self.writer.dtype)

    def _dense_slices(self, layer: int, module: str) -> Format:
        shape = self.family.layer_shape(self.source.config, layer)
        weight = self.source.weight(self.family, layer, shape, module)
        stack = weight if weight.ndim == 3 else weight[None]
        slices, out_features, in_features = stack.shape
        store = DenseSlices(slices=slices, out_features=out_features, in_features=in_features)
        return store.fill(weight=stack)


def is_tied(config: dict[str, Any]) -> bool:
    """Whether input embedding and output head are one matrix, also where the config is silent."""
    if "tie_word_embeddings" in config:
        return bool(config["tie_word_embeddings"])
    # takes longer than all else here to import, and most configs say it
    from transformers import AutoConfig

    return bool(AutoConfig.for_model(**config).tie_word_embeddings)


def _add_store(
    writer: ShardWriter, prefix: str, store: Format, layer: int | None, *, replaced: bool
) -> None:
    entries = stored_tensors(store, layer, replaced=replaced)
    for name, value in store.state_dict().items():
        writer.add(f"{prefix}.{name}", value, entries[name])


def _description(store: Format) -> dict[str, Any]:
    return {"format": store.name, "settings": store.settings}
