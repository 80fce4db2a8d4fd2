"""Rule options: what may be chosen for the modules of one layer, from weights and moments alone.

Every module, or group of modules that a method decomposes together, has options: to stay dense,
one of the methods at one of several sizes, or to be rounded. Each takes bits and has a predicted
damage (``analysis.damage``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensorpress.analysis.damage import damage_nats, sensitivity
from tensorpress.architectures.layers import LayerShape
from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.manifest import ranks_of
from tensorpress.checkpoints.moments import expand_sites, load_moments, tokens_of
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import replacing
from tensorpress.files.storage import VALUE_BITS, bits, stored_tensors
from tensorpress.methods.advised import ROUNDING, Choice, Options
from tensorpress.methods.base import Factors, MethodSpec, dense_store, stacked
from tensorpress.methods.registry import load, spec_class
from tensorpress.methods.rounding import Rounding
from tensorpress.planning.artifacts import OptionsArtifact
from tensorpress.running.oom import with_fallback
from tensorpress.stages.decomposition import leading

ADVISED_GROUPS = ("attention", "ffn", "experts")
SAVED = tuple(step / 10 for step in range(1, 10))
"""Budgets that each method is tried at: shares of the values that are saved."""
BITS = (8, 6, 5, 4, 3, 2)
"""Widths of codes that rounding is tried with."""


def run(
    made: OptionsArtifact,
    layer: int,
    model: Path,
    moments: Path,
    target: Path,
    device: torch.device,
) -> None:
    """Write the options as JSON; memory is bounded by a layer."""
    file = paths.moments(moments, layer)

    def work(where: torch.device, _: int) -> list[Choice]:
        checkpoint = Checkpoint.open(model)
        shape = checkpoint.architecture.shape(layer)
        weights = dict(LayerWeights(checkpoint, layer, tuple(shape.modules), where))
        sites, bits_of = load_moments(file, where), VALUE_BITS[made.dtype]
        tokens, asked = tokens_of(file), (made.methods, made.group_size)
        return list(options(weights, layer, shape, sites, tokens, bits_of, *asked))

    found = with_fallback("options", work, device)
    with replacing(target) as temporary:
        temporary.write_text(Options(choices=tuple(found)).model_dump_json(), encoding="utf-8")


def options(
    weights: Mapping[str, Tensor],
    layer: int,
    shape: LayerShape,
    sites: Mapping[str, Tensor],
    tokens: int,
    value_bits: int,
    methods: Sequence[str],
    group_size: int | None,
) -> Iterator[Choice]:
    """Every option of a layer's modules; ``weights`` by module, float32, ``(out, in)`` or experts.

    Options of several modules are of a whole group. ``group_size``: weights that share a scale
    where they are rounded.
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
        for width in BITS:
            rounding = Rounding(bits=width, group_size=group_size)
            store = rounding.applied(whole, torch.bfloat16)
            yield choice(ROUNDING, rounding.model_dump(), [Factors((module,), store)])
    for attempt in attempts(shape, methods):
        own = {module: weights[module] for module in attempt.shape.modules}
        held = {m: moments[m] for m in own} if attempt.specs[0].needs_moments else None
        for spec, factors in zip(attempt.specs, of_sizes(attempt, own, held), strict=True):
            settings = spec.model_dump(exclude={"method"}, exclude_defaults=True)
            yield choice(spec.method, settings, factors)


@dataclass(frozen=True)
class Attempt:
    """One method on the modules of ``shape``, of one group: settings of every size, large first."""

    group: str
    shape: LayerShape
    specs: tuple[MethodSpec, ...]


def attempts(shape: LayerShape, methods: Sequence[str]) -> Iterator[Attempt]:
    """What is tried on the modules of a layer; sizes that do not fit are left out."""
    for method in methods:
        sort = spec_class(method)
        for group in (g for g in ADVISED_GROUPS if g in sort.groups):
            members = list(shape.group(group))
            together = [members] if sort.whole_groups and members else [[m] for m in members]
            for modules in together:
                within = replace(shape, modules={m: shape.modules[m] for m in modules})
                specs = (sort(method=method, **_settings(sort, saved)) for saved in SAVED)
                if fitting := tuple(spec for spec in specs if _fits(spec, within, group)):
                    yield Attempt(group, within, fitting)


def of_sizes(
    attempt: Attempt, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None
) -> Iterator[list[Factors]]:
    """Factors of every size, where the method nests them out of one factorisation."""
    largest: tuple[MethodSpec, dict[tuple[str, ...], Factors]] | None = None
    for spec in attempt.specs:
        if largest and largest[0].contains_factors_of(spec, attempt.shape, attempt.group):
            layouts = spec.layouts(attempt.shape, attempt.group)
            yield [leading(each, largest[1][each.modules], spec) for each in layouts]
            continue
        made = load(spec.method).decompose(weights, attempt.shape, spec, moments)
        largest = spec, {each.modules: each for each in made}
        yield made


def _fits(spec: MethodSpec, shape: LayerShape, group: str) -> bool:
    """Whether there is room for rank 1, and no more heads than the method allows."""
    try:
        spec.check(shape, group)
    except TensorpressError:
        return False
    return True


def _settings(sort: type[MethodSpec], saved: float) -> dict[str, Any]:
    whitened = {"whiten": "input"} if "whiten" in sort.model_fields else {}
    return {"budget": {"saved": saved}, **whitened}
