"""Pre-flight: which method and size for each module, from weights and moments alone.

Every module, or group of modules that a method decomposes together, has options: to stay dense,
one of the methods at one of several sizes, or to be rounded. Each takes bits and has a predicted
damage (``analysis.damage``); damages add up. The choice of least damage under a budget of bits
is a knapsack (``analysis.knapsack``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensorpress.analysis.damage import damage_nats, sensitivity
from tensorpress.analysis.knapsack import choose
from tensorpress.architectures.layers import LayerShape
from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.manifest import ranks_of
from tensorpress.checkpoints.moments import expand_sites, load_moments, tokens_of
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.storage import VALUE_BITS, bits, stored_tensors
from tensorpress.methods.advised import ROUNDING, Advice, Advised, Choice, Spec
from tensorpress.methods.base import Factors, MethodSpec, dense_store, stacked
from tensorpress.methods.registry import load, spec_class
from tensorpress.methods.rounding import Rounding

ADVISED_GROUPS = ("attention", "ffn", "experts")
SAVED = tuple(step / 10 for step in range(1, 10))
"""Budgets that each method is tried at: shares of the values that are saved."""
BITS = (8, 6, 5, 4, 3, 2)
"""Widths of codes that rounding is tried with."""


def advise(
    model_directory: Path,
    moments_directory: Path,
    spec: Spec,
    dtype: str,
    device: torch.device,
) -> Advice:
    """The advice for a model, layer by layer: memory is bounded by a layer."""
    checkpoint = Checkpoint.open(model_directory)
    value_bits = VALUE_BITS[dtype]
    found: list[Choice] = []
    for layer in tqdm(range(checkpoint.architecture.layers), desc="advise", unit="layer"):
        shape = checkpoint.architecture.shape(layer)
        weights = dict(LayerWeights(checkpoint, layer, tuple(shape.modules), device))
        file = paths.moments(moments_directory, layer)
        sites = load_moments(file, device)
        found += options(weights, layer, shape, sites, tokens_of(file), spec, value_bits)
    dense_bits = value_bits * _values(checkpoint)
    to_save = math.ceil(spec.saved * dense_bits)
    compressible = sum(c.dense_bits for c in found if c.method == "dense")
    chosen = choose(found, compressible - to_save)
    return Advice(
        saved=spec.saved,
        dense_bits=dense_bits,
        stored_bits=dense_bits - compressible + sum(c.bits for c in chosen),
        damage=sum(c.damage for c in chosen),
        modules=tuple(
            Advised(chosen=c, alternatives=tuple(alternatives(found, c))) for c in chosen
        ),
    )


def _values(checkpoint: Checkpoint) -> int:
    """Values of a model; files hold a tied matrix once."""
    return sum(math.prod(shape) for shape in checkpoint.shapes().values())


def options(
    weights: Mapping[str, Tensor],
    layer: int,
    shape: LayerShape,
    sites: Mapping[str, Tensor],
    tokens: int,
    spec: Spec,
    value_bits: int,
) -> Iterator[Choice]:
    """Every option of a layer's modules; ``weights`` by module, float32, ``(out, in)`` or experts.

    Options of several modules are of a whole group.
    """
    known = {module: sensitivity(sites, module, tokens) for module in weights}
    moments = expand_sites(dict(sites), weights)

    def choice(method: str, settings: dict[str, Any], factors: Sequence[Factors]) -> Choice:
        modules = tuple(module for each in factors for module in each.modules)
        damage = macs = 0.0
        stored = 0
        for each in factors:
            stored += bits(stored_tensors(each.store, layer, replaced=True).values(), value_bits)
            for index, module in enumerate(each.modules):
                stack = stacked(weights[module])
                alone = len(each.modules) == 1
                rebuilt = each.store.stacked() if alone else each.store.dense(index)[None]
                damage += damage_nats(rebuilt.to(stack) - stack, known[module])
                macs += each.store.macs()
        return Choice(
            layer=layer,
            modules=modules,
            method=method,
            settings=settings,
            bits=stored,
            dense_bits=value_bits * sum(shape.modules[m].numel for m in modules),
            damage=damage,
            ranks=tuple(ranks_of(each.store.settings) for each in factors),
            macs=int(macs),
            dense_macs=sum(
                shape.modules[m].out_features * shape.modules[m].in_features for m in modules
            ),
        )

    for module in weights:
        whole = dense_store(weights[module])
        yield choice("dense", {}, [Factors((module,), whole)])
        for width in BITS if spec.quantise else ():
            rounding = Rounding(bits=width, group_size=spec.group_size)
            store = rounding.applied(whole, torch.bfloat16)
            yield choice(ROUNDING, rounding.model_dump(), [Factors((module,), store)])
    for method, settings, within in _attempts(weights, shape, spec):
        sub = spec_class(method)(method=method, **settings)
        own = {module: weights[module] for module in within.modules}
        held = {m: moments[m] for m in own} if sub.needs_moments else None
        yield choice(method, settings, load(method).decompose(own, within, sub, held))


def _attempts(
    weights: Mapping[str, Tensor], shape: LayerShape, spec: Spec
) -> Iterator[tuple[str, dict[str, Any], LayerShape]]:
    """Methods with settings and the modules to try them on, sizes that do not fit left out."""
    for method in spec.methods:
        sort = spec_class(method)
        for group in (g for g in ADVISED_GROUPS if g in sort.groups):
            members = [m for m in shape.group(group) if m in weights]
            together = [members] if sort.whole_groups and members else [[m] for m in members]
            for modules in together:
                within = replace(shape, modules={m: shape.modules[m] for m in modules})
                for saved in SAVED:
                    settings = _settings(sort, saved)
                    try:
                        sort(method=method, **settings).check(within, group)
                    except TensorpressError:
                        continue  # no room for rank 1, or more heads than the method allows
                    yield method, settings, within


def _settings(sort: type[MethodSpec], saved: float) -> dict[str, Any]:
    whitened = {"whiten": "input"} if "whiten" in sort.model_fields else {}
    return {"budget": {"saved": saved}, **whitened}


def alternatives(found: Sequence[Choice], chosen: Choice) -> list[Choice]:
    """The best option of each method on the same modules that takes no more bits."""
    same = [c for c in found if c.layer == chosen.layer and c.modules == chosen.modules]
    fitting = [c for c in same if c.bits <= chosen.bits]
    best = {c.method: c for c in sorted(fitting, key=lambda c: -c.damage)}
    return sorted(best.values(), key=lambda c: c.damage)
