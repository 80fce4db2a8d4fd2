"""What recipes cost on a model that has no weights: bits, multiplications, memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import GROUPS, expand_modules, group_of
from tensorpress.commands.meta_model import MetaModel
from tensorpress.config.params import BASELINE, Params, Recipe
from tensorpress.config.recovery import Adapters
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import (
    VALUE_BITS,
    BitsSaved,
    StoredTensor,
    bits_saved,
    stored_tensors,
)
from tensorpress.formats.base import Format
from tensorpress.formats.low_rank import LowRank
from tensorpress.methods import advised
from tensorpress.methods.factors import slices_of
from tensorpress.methods.layout import Layout
from tensorpress.planning.checks import layer_sets
from tensorpress.planning.footprint import assembly_footprint, step_footprints

_UNCOMPRESSED = Recipe.model_construct(models=(), steps=(), layers=(), tasks=())


@dataclass(frozen=True)
class Size:
    """Sizes of one recipe on one model and set of layers.

    ``peak_bytes``: weights as stored and the largest matrix that a factored layer rebuilds for
    one product. ``decompose_peak_bytes`` and ``assemble_peak_bytes``: what the jobs that make it
    ask for at most (``footprint``). ``flops_per_token``: two per MAC of every matrix product but
    attention's own, whose number depends on the context. ``advised_saved``: the share of all bits
    that advice is to save at least, where it is to choose; what it will choose is not known, so
    that of the sizes only those of the jobs are, and the model's own. ``is_largest``: the weights
    decide how large factors are, and these are the largest.
    """

    model: str
    recipe: str
    layers: tuple[int, ...]
    settings: dict[str, Any]
    dense_values: int
    stored_values: int
    saved: BitsSaved
    dense_flops_per_token: int
    flops_per_token: int
    peak_bytes: int
    decompose_peak_bytes: int
    assemble_peak_bytes: int
    advised_saved: float | None
    is_largest: bool

    @property
    def known_saved(self) -> BitsSaved | None:
        """Bits saved, unless advice is to decide them."""
        return self.saved if self.advised_saved is None else None

    def known(self, value: int) -> int | None:
        """A size that follows from what is stored, unless advice is to decide that."""
        return value if self.advised_saved is None else None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        saved, known = self.saved, self.known_saved
        return {
            "model": self.model,
            "recipe": self.recipe,
            "layers": list(self.layers),
            "settings": self.settings,
            "dense_values": self.dense_values,
            "stored_values": self.known(self.stored_values),
            "dense_bits": saved.dense_bits,
            "stored_bits": self.known(saved.stored_bits),
            "modules_dense_bits": saved.modules_dense_bits,
            "modules_stored_bits": self.known(saved.modules_stored_bits),
            "bits_saved_percent": known
            and {
                "modules": known.modules_percent,
                "blocks": known.blocks_percent,
                "without_embeddings": known.without_embeddings_percent,
                "with_embeddings": known.with_embeddings_percent,
            },
            "advised_saved": self.advised_saved,
            "is_largest": self.is_largest,
            "dense_flops_per_token": self.dense_flops_per_token,
            "flops_per_token": self.known(self.flops_per_token),
            "peak_bytes": self.known(self.peak_bytes),
            "decompose_peak_bytes": self.decompose_peak_bytes,
            "assemble_peak_bytes": self.assemble_peak_bytes,
        }


def sizes(model: MetaModel, params: Params) -> Iterator[Size]:
    """Sizes of every recipe of ``params`` that names the model, layer set by layer set.

    Before them those of the model itself, where it is smaller than what it was made of.
    """
    if model.original is not None:
        yield _size(model, params, BASELINE, _UNCOMPRESSED, ())
    for name, recipe in params.recipes.items():
        if model.name in recipe.models:
            yield from _sizes(model, params, name, recipe)


def fitting_sizes(model: MetaModel, params: Params) -> tuple[list[Size], list[str]]:
    """Sizes of every recipe that the model has modules for, and why others do not fit its shapes.

    ``params`` need not name the model.
    """
    found: list[Size] = []
    unfit: list[str] = []
    for name, recipe in params.recipes.items():
        if all(_has(model, module) for step in recipe.steps for module in step.modules):
            try:
                found += _sizes(model, params, name, recipe)
            except TensorpressError as error:
                unfit.append(f"recipes.{name} is left out: {error}")
    return found, unfit


def _sizes(model: MetaModel, params: Params, name: str, recipe: Recipe) -> Iterator[Size]:
    for layer_set in recipe.layers:
        spec = params.layer_sets[layer_set]
        for layers in layer_sets(spec, model.architecture.layers, layer_set):
            yield _size(model, params, name, recipe, layers)


def _has(model: MetaModel, name: str) -> bool:
    present = model.architecture.modules
    return name == "all" or bool(set(expand_modules([name], present)) & set(present))


def _size(
    model: MetaModel, params: Params, name: str, recipe: Recipe, layers: tuple[int, ...]
) -> Size:
    value_bits = VALUE_BITS[params.storage.dtype]
    dense: list[StoredTensor] = []
    stored: list[StoredTensor] = []
    architecture, count = model.architecture, _Macs(model)
    left = {tensor: math.prod(shape) for tensor, shape in model.tensors.items()}
    replaced: set[str] = set()
    placed: dict[tuple[int, str], Format] = {}
    rebuilt, dropped = 0, Counter[str]()
    sides: dict[tuple[int, str], tuple[int, int]] = {}
    for layer, layout, store in _placed(model, params, name, recipe, layers):
        rebuilt = max(rebuilt, store.peak_rebuilt_values())
        inside = None if layout.modules == ("embedding",) else layer
        stored += stored_tensors(store, inside, replaced=True).values()
        for index, module in enumerate(layout.modules):
            shape = architecture.shape(layer).modules[module]
            outer = module == "embedding"
            dense.append(StoredTensor((shape.numel,), inside, embedding=outer, replaced=True))
            home = model.home(layer, module)
            left[home] -= shape.numel
            replaced.add(home)
            placed[layer, module] = store
            own = slices_of(store, layout.modules, index)
            running, first = store.runs(own.start)
            count.replace(layer, module, running)
            sides[layer, module] = running.matrix_shape(first)
            dropped[home] += len(own) * (shape.out_features - sides[layer, module][0])
    if isinstance(recipe.recover, Adapters):
        stored += _adapters(architecture, recipe.recover, placed, sides)
    for tensor, values in left.items():
        base = tensor.removesuffix("_bias").removesuffix(".bias")
        beside = {base, f"{base}.weight"} & replaced
        belongs = tensor != base and bool(beside) and all(left[home] == 0 for home in beside)
        entry = StoredTensor(
            (values,),
            architecture.family.layer_of(tensor),
            embedding=tensor == architecture.family.table,
            replaced=belongs,
        )
        dense.append(entry)
        # of a layer that is narrower than before, a part of the bias
        lost = sum(dropped[home] for home in beside) if belongs else 0
        stored.append(replace(entry, shape=(values - lost,)))
    if model.original is not None:  # all of the model stands in place of another
        dense = model.original.architecture.all_replaced(model.original.tensors)
        stored = [replace(entry, replaced=True) for entry in stored]
    saved = bits_saved(dense, stored, value_bits)
    steps = [(params.methods[step.method], step.modules) for step in recipe.steps]
    asked = (spec.saved for spec, _ in steps if isinstance(spec, advised.Spec))
    jobs = [job for step in steps for job in step_footprints(architecture, *step, layers)]
    largest_set = max((job.largest_set for job in jobs), default=0)
    assembly = assembly_footprint(
        architecture, largest_set, params.storage.dtype, recipe.rounding is not None
    )
    return Size(
        model=model.name,
        recipe=name,
        layers=layers,
        settings=_settings(params, recipe),
        dense_values=sum(tensor.numel for tensor in dense),
        stored_values=sum(tensor.numel for tensor in stored),
        saved=saved,
        dense_flops_per_token=2 * _Macs(model.original or model).dense,
        flops_per_token=2 * count.stored,
        peak_bytes=saved.stored_bits // 8 + rebuilt * value_bits // 8,
        decompose_peak_bytes=max((job.peak_bytes for job in jobs), default=0),
        assemble_peak_bytes=assembly.peak_bytes,
        advised_saved=next(asked, None),
        is_largest=any(spec.sized_by_weights for spec, _ in steps),
    )


def _placed(
    model: MetaModel, params: Params, name: str, recipe: Recipe, layers: tuple[int, ...]
) -> Iterator[tuple[int, Layout, Format]]:
    """Every factor set of the recipe: (layer, layout, empty factors)."""
    architecture = model.architecture
    for step in recipe.steps:
        lacking = [module for module in step.modules if not _has(model, module)]
        if lacking:
            raise TensorpressError(
                f"recipes.{name}: {lacking[0]!r} is not in model {model.name!r}; "
                f"allowed: all, {', '.join(architecture.modules)}"
            )
        wanted = set(expand_modules(step.modules, architecture.modules))
        spec = params.methods[step.method]
        for layer in (*layers, architecture.outer):
            shape = architecture.shape(layer)
            for group in GROUPS:
                if wanted & set(shape.group(group)):
                    built = model.stores(step.method, spec, recipe.last_rounding, group, layer)
                    for layout, store in built:
                        if wanted & set(layout.modules):
                            yield layer, layout, store


def _adapters(
    architecture: Architecture,
    spec: Adapters,
    placed: Mapping[tuple[int, str], Format],
    sides: Mapping[tuple[int, str], tuple[int, int]],
) -> Iterator[StoredTensor]:
    """Adapters as ``recovery`` makes them: one a linear layer, one a projection of experts.

    ``sides`` are those of the layers as they run, ``(out, in)``, where modules are placed.
    """
    for layer in range(architecture.layers):
        shapes = architecture.shape(layer).modules
        layers: dict[str, list[str]] = {}
        for module in shapes:
            alone = group_of(module) == "experts"
            path = module if alone else architecture.family.linear_path(layer, module)
            layers.setdefault(path, []).append(module)
        adapted_experts = any((layer, m) in placed for m in shapes if group_of(m) == "experts")
        for modules in layers.values():
            stores = [placed[layer, m] for m in modules if (layer, m) in placed]
            expert = group_of(modules[0]) == "experts"
            if not (adapted_experts if expert else stores or spec.modules == "all"):
                continue
            whole = not expert and all(store.name == "dense" for store in stores)
            if spec.keep == "merged" and whole and len(modules) == 1:
                continue
            own = [
                sides.get((layer, m), (shapes[m].out_features, shapes[m].in_features))
                for m in modules
            ]
            sizes = {
                "slices": shapes[modules[0]].slices,
                "out_features": sum(out for out, _ in own),
                "in_features": own[0][1],
            }
            with torch.device("meta"):
                store: Format = LowRank(**sizes, rank=spec.rank)
                if spec.rounding is not None:
                    store = spec.rounding.applied(store, torch.float32)
            yield from stored_tensors(store, layer, replaced=bool(stores) or expert).values()


def _settings(params: Params, recipe: Recipe) -> dict[str, Any]:
    """Settings of the recipe's method; by the method's name where it has several."""
    used = {step.method: params.methods[step.method] for step in recipe.steps}
    dumped = {
        name: spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, spec in used.items()
    }
    for extra in ("recover", "rounding"):
        if getattr(recipe, extra) is not None:
            for settings in dumped.values():
                settings[extra] = getattr(recipe, extra).model_dump(exclude_none=True)
    return next(iter(dumped.values())) if len(dumped) == 1 else dumped


class _Macs:
    """Multiply-accumulates (MACs) of a token, before and after."""

    def __init__(self, model: MetaModel) -> None:
        self._architecture, family = model.architecture, model.architecture.family
        self.top_k = self._architecture.size("top_k") or 1
        inside = [s for name, s in model.tensors.items() if family.layer_of(name) is not None]
        self.dense = sum(math.prod(shape) for shape in inside if len(shape) == 2)
        # fused experts, of which a token meets a few
        self.dense += sum(self.top_k * math.prod(s[1:]) for s in inside if len(s) == 3)
        # the output layer is as large as the embedding, tied or not
        if family.head is not None and family.table is not None:
            self.dense += math.prod(model.tensors[family.table])
        self.stored = self.dense

    def replace(self, layer: int, module: str, store: Format) -> None:
        """Count one module's factors in place of its matrix; a lookup multiplies nothing."""
        if group_of(module) == "embedding":
            return
        shape = self._architecture.shape(layer).modules[module]
        times = self.top_k if group_of(module) == "experts" else 1
        self.stored += times * (store.macs() - shape.out_features * shape.in_features)
