"""Assemble a compressed checkpoint: plain tensors copied, replaced ones left out, factors added.

Streams tensor by tensor into shards, so memory is bounded by a shard and the largest factor set,
not by the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensorpress.analysis.frobenius import squared_errors
from tensorpress.architectures.layers import LayerShape, group_of
from tensorpress.checkpoints.bundle import copy_tokenizer, write_config
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.factorfile import factor_sets, load_factors, store_name
from tensorpress.checkpoints.manifest import StoredSet
from tensorpress.checkpoints.rows import StorageRow
from tensorpress.checkpoints.shards import ShardWriter
from tensorpress.checkpoints.storage_range import rounded_as
from tensorpress.files.storage import VALUE_BITS, StoredTensor, bits, bits_saved, stored_tensors
from tensorpress.formats.base import STORES, Format
from tensorpress.formats.modules import SHARED
from tensorpress.formats.subset import Subset, narrowed
from tensorpress.methods.factors import dense_store, slices_of
from tensorpress.methods.rounding import Rounding
from tensorpress.planning.artifacts import FactorPlacement
from tensorpress.sources.custom_code import base_class
from tensorpress.sources.quantised import Origin


def assemble(
    model_directory: Path,
    placements: Sequence[FactorPlacement],
    dtype: str,
    target: Path,
    rounding: Rounding | None = None,
    original: Path | None = None,
) -> tuple[StorageRow, list[StoredSet]]:
    """Write the compressed checkpoint into the new folder ``target``; its bits, its factor sets.

    Without placements the result is the plain model in the storage dtype. All floating-point
    tensors are stored as ``dtype``; the folder loads with ``AutoModelForCausalLM``. ``rounding``
    is of the placed factors, not of dense weights that only stand beside them. Bits are compared
    with those of ``original``, if the model was made of it.
    """
    target.mkdir(parents=True)
    source = Checkpoint.open(model_directory)
    build = _Build(source, ShardWriter(target, getattr(torch, dtype)), VALUE_BITS[dtype], rounding)
    for layer in sorted({placement.layer for placement in placements}):
        sets = {
            modules: placement
            for placement in placements
            if placement.layer == layer
            for modules in factor_sets(placement.factors)
            if set(modules) & set(placement.modules)
        }
        build.add_linears(layer, {m: p for m, p in sets.items() if group_of(m[0]) != "experts"})
        build.add_experts(layer, {m: p for m, p in sets.items() if group_of(m[0]) == "experts"})
    if placements:
        build.fuse_untouched_experts()
    build.copy_rest(rename=bool(placements))
    checkpoint_bytes = build.writer.close()
    plan = {"base_class": base_class(source.config), **build.plan} if placements else None
    write_config(source.config, plan, dtype, target)
    copy_tokenizer(model_directory, target)
    dense, stored = build.dense, build.writer.entries
    if original is not None and original != model_directory:
        dense, stored = _against(Checkpoint.open(original), source, dense, stored)
    saved = bits_saved(dense, stored, VALUE_BITS[dtype])
    return StorageRow.of(saved, checkpoint_bytes, Origin.of(model_directory)), build.sets


class _Build:
    """A checkpoint in the making: what is stored, what it replaces, how it is put together.

    Factors come as placements by the modules that share them, and are read one set at a time.
    """

    def __init__(
        self,
        source: Checkpoint,
        writer: ShardWriter,
        value_bits: int,
        rounding: Rounding | None,
    ) -> None:
        self.source, self.architecture, self.writer = source, source.architecture, writer
        self.family = self.architecture.family
        self._value_bits, self._rounding = value_bits, rounding
        self.sets: list[StoredSet] = []
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
        self._cut: dict[str, Tensor] = {}
        """Biases of the running model of which a part is stored: the places along the last side."""
        self._turned: dict[str, tuple[str, Tensor]] = {}
        """Biases of which a module's share is turned as its outputs are (``Factors.turns``)."""

    def add_linears(self, layer: int, sets: Mapping[tuple[str, ...], FactorPlacement]) -> None:
        """Store the factors of a layer's linear modules, or of the embedding."""
        if not sets:
            return
        shape = self.architecture.shape(layer)
        outer = layer == self.architecture.outer
        owner = "" if outer else self.family.layer_path(layer)
        served = {
            module: [owner, store_name(modules), index]
            for modules in sets
            for index, module in enumerate(modules)
        }
        cut: dict[str, Tensor] = {}
        for modules, placement in sets.items():
            store = self._read(modules, placement)
            self._add_owned(owner, store_name(modules), store, layer, replaced=True)
            cut |= narrowed(store, modules)
        held: dict[str, list[str]] = {}
        for module in shape.modules:
            if group_of(module) != "experts":
                held.setdefault(self.family.linear_path(layer, module), []).append(module)
        for path, parts in held.items():
            if not served.keys() & set(parts):
                continue
            parts.sort(key=lambda module: self.family.slot(module).part)
            for module in parts:
                self._count(module, shape, layer, replaced=module in served)
                if module not in served:
                    served[module] = [owner, store_name([module]), 0]
                    store = self._dense_slices(layer, module)
                    self._add_owned(owner, store_name([module]), store, layer, replaced=False)
            self._gone.add(f"{path}.weight")
            self._compressed.add(f"{path}.bias")
            if cut.keys() & set(parts):
                self._cut[f"{path}.bias"] = self._outputs(parts, shape, cut)
            if outer:
                self._add_embedding(path, served["embedding"])
            else:
                groups = self.family.slot(parts[0]).group_count(shape.heads)
                self.plan["linears"].append(
                    {
                        "path": path,
                        "parts": [served[module] for module in parts],
                        "heads": groups if groups > 1 else None,
                    }
                )

    def add_experts(self, layer: int, sets: Mapping[tuple[str, ...], FactorPlacement]) -> None:
        """Store a layer's experts if one projection is compressed; the others stay dense."""
        if not sets:
            return
        assert self.family.experts is not None
        names = self.family.experts
        shape = self.architecture.shape(layer)
        path = self.family.experts_path(layer)
        limits = names.limits(self.architecture.config)
        entry: dict[str, Any] = {"path": path, "biases": names.biases, "clamp": limits}
        replaced = {module for modules in sets for module in modules}
        for module in shape.group("experts"):
            source = self.architecture.weight_source(layer, module, self.source.files)
            self._gone |= set(source.names)
            self._count(module, shape, layer, replaced=module in replaced)
            modules = next((together for together in sets if module in together), (module,))
            if module != modules[0]:
                continue  # stored with the first
            own = sets.get(modules)
            store = self._read(modules, own) if own else self._dense_slices(layer, module)
            name = module.split(".")[1] if len(modules) == 1 else SHARED
            entry[name] = store.description
            self.writer.add_store(f"{path}.{name}", store, layer, replaced=module in replaced)
            if isinstance(store, Subset):
                self._cut[f"{path}.{names.gate_up}_bias"] = _pairs(store.marks())
            del store  # before the next one is read
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
        for layer in self.architecture.expert_layers:
            assert experts is not None
            shape = self.architecture.shape(layer)
            names = {
                name
                for module in shape.group("experts")
                for name in self.architecture.weight_source(layer, module, self.source.files).names
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
        stacks = [self.source.weight(layer, module) for module in modules]
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
                embedding=name == self.family.table,
                replaced=name in self._compressed,
            )
            self.dense.append(entry)
            running = self.family.running_name(name) if rename else name
            if running in self._turned:
                tensor = self._with_turn(tensor, *self._turned[running])
            if running in self._cut:
                tensor = tensor.gather(-1, self._cut[running])
                entry = replace(entry, shape=tuple(tensor.shape))
            self.writer.add(running, tensor, entry)

    def _with_turn(self, bias: Tensor, module: str, turn: Tensor) -> Tensor:
        """A layer's bias whose outputs of ``module`` are turned head by head."""
        slot, heads = self.family.slot(module), self.architecture.shape(0).heads
        own = slot.outputs(torch.arange(len(bias))[None], heads)[0]
        turned = turn @ bias[own].to(turn).view(len(turn), -1, 1)
        padded = pad(turned.squeeze(-1), (0, turn.shape[2] - turn.shape[1]))
        return bias.index_copy(0, own, padded.flatten().to(bias))

    def _outputs(
        self, parts: Sequence[str], shape: LayerShape, cut: Mapping[str, Tensor]
    ) -> Tensor:
        """Where the outputs that a linear layer still has stand among those of the plain layer."""
        every = torch.arange(sum(shape.modules[module].out_features for module in parts))[None]
        whole = {m: self.family.slot(m).outputs(every, shape.heads)[0] for m in parts}
        return torch.cat([own[cut[m]] if m in cut else own for m, own in whole.items()])

    def _add_embedding(self, path: str, part: list[Any]) -> None:
        self.plan["embeddings"].append({"path": path, "part": part})
        if self.architecture.tied and self.family.head is not None:
            self.plan["linears"].append({"path": self.family.head, "parts": [part], "heads": None})
            if self.family.head_bias is not None:
                # the config of the result ties nothing, so that both names need their tensor
                bias = self.source.read([self.family.head_bias])[self.family.head_bias]
                entry = StoredTensor(tuple(bias.shape), None)
                self.writer.add(f"{self.family.head}.bias", bias, entry)

    def _add_owned(
        self, owner: str, name: str, store: Format, layer: int, *, replaced: bool
    ) -> None:
        self.plan["stores"].append({"owner": owner, "name": name, **store.description})
        prefix = f"{owner}.{STORES}.{name}".removeprefix(".")
        outer = layer == self.architecture.outer
        self.writer.add_store(prefix, store, None if outer else layer, replaced=replaced)

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

    def _read(self, modules: tuple[str, ...], placement: FactorPlacement) -> Format:
        """A factor set as it is stored: rounded, if the recipe rounds."""
        (stored,) = load_factors(placement.factors, modules)
        store = exact = stored.store
        for module, turn in stored.turns.items():
            self._turned[f"{self.family.linear_path(placement.layer, module)}.bias"] = module, turn
        if self._rounding is not None:
            store = rounded_as(store_name(modules), exact, self._rounding, self.writer.dtype)
        entries = stored_tensors(store, placement.layer, replaced=True).values()
        errors = {
            module: _distance(store, exact, slices_of(store, modules, index))
            for index, module in enumerate(modules)
            if module in placement.modules
        }
        size = bits(entries, self._value_bits)
        self.sets.append(
            StoredSet(
                layer=placement.layer,
                made_by=placement.decomposition.spec,
                rows=placement.rows,
                modules=modules,
                format=store.name,
                settings=store.settings,
                bits=size,
                rounding_errors=errors,
            )
        )
        return store

    def _dense_slices(self, layer: int, module: str) -> Format:
        return dense_store(self.source.weight(layer, module))


def _against(
    original: Checkpoint, source: Checkpoint, dense: list[StoredTensor], stored: list[StoredTensor]
) -> tuple[list[StoredTensor], list[StoredTensor]]:
    """Tensors before and after; before are the original's, where those of the source differ.

    Then all of the model counts as replaced.
    """
    before = original.shapes()
    if before == source.shapes():
        return dense, stored
    after = [replace(entry, replaced=True) for entry in stored]
    return original.architecture.all_replaced(before), after


def _pairs(marks: Tensor) -> Tensor:
    """Places of the pairs ``(gate, up)`` of marked neurons ``(E, width)``: ``(E, 2 kept)``."""
    first = 2 * marks.nonzero()[:, 1].view(len(marks), -1, 1)
    return torch.cat([first, first + 1], dim=2).flatten(1)


def _distance(store: Format, exact: Format, slices: Sequence[int]) -> float:
    """Relative Frobenius distance of the matrices of two stores, over adjacent slices."""
    if store is exact:
        return 0.0
    error, norm = squared_errors(store, slices[0], map(exact.dense, slices))
    return (error / norm) ** 0.5 if norm else 0.0
