"""Rule options: what may be chosen for the modules of one layer, from weights and moments alone.

Every module, or group of modules that a method decomposes together, has options: to stay dense,
one of the methods at one of several sizes, or to be rounded. Each takes bits and has a predicted
damage (``analysis.damage``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tensorpress.analysis.damage import changes, damage_nats, damage_of_ranks, sensitivity
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.architectures.sites import ANGLE
from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.manifest import ranks_of
from tensorpress.checkpoints.moments import expand_sites, load_moments, tokens_of
from tensorpress.errors import TensorpressError
from tensorpress.files import paths
from tensorpress.files.atomic import replacing
from tensorpress.files.storage import VALUE_BITS, bits, stored_tensors
from tensorpress.methods.advised import ROUNDING, Choice, Options
from tensorpress.methods.advised import Spec as Advised
from tensorpress.methods.allocation import Curve
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import Factors, dense_store, slices_of, stacked
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

    def work(where: torch.device, _: int) -> Options:
        checkpoint = Checkpoint.open(model)
        shape, spec = checkpoint.architecture.shape(layer), made.spec
        weights = LayerWeights(checkpoint, layer, tuple(shape.modules), where)
        sites, tokens = load_moments(file, where), tokens_of(file)
        importance = float(sites[ANGLE]) if ANGLE in sites else None
        if isinstance(spec, Advised):
            asked = (VALUE_BITS[made.dtype], spec.methods, spec.group_size)
            found = options(dict(weights), layer, shape, sites, tokens, *asked)
            return Options(choices=tuple(found), importance=importance)
        if importance is None and not _by_loss(spec):
            raise TensorpressError(
                f"budget.allocate: 'importance' is not allowed: what layer {layer} reads is "
                "unknown; allowed: uniform, loss"
            )
        curves = curves_of(weights, layer, shape, sites, tokens, spec) if _by_loss(spec) else ()
        return Options(curves=tuple(curves), importance=importance)

    found = with_fallback("options", work, device)
    with replacing(target) as temporary:
        temporary.write_text(found.model_dump_json(), encoding="utf-8")


def _by_loss(spec: MethodSpec) -> bool:
    return spec.shared_budget is not None and spec.shared_budget.allocate == "loss"


def curves_of(
    weights: Mapping[str, Tensor],
    layer: int,
    shape: LayerShape,
    sites: Mapping[str, Tensor],
    tokens: int,
    spec: MethodSpec,
) -> Iterator[Curve]:
    """The damage of every rank of every matrix of a layer, from one factorisation of each.

    Ranks at which the factors would be larger than the matrix are left out. Where modules share a
    size the method gives the curves of all of a group.
    """
    if spec.whole_groups:
        for group in spec.groups:
            whole = {module: weights[module] for module in shape.group(group)}
            if whole:
                own = expand_sites(sites, whole)
                yield from load(spec.method).curves(whole, shape, spec, own, tokens)
        return
    for module, size in shape.modules.items():
        out, inner = size.out_features, size.in_features
        rank = max(1, out * inner // (out + inner))
        within = replace(shape, modules={module: size})
        own = {module: weights[module]}
        sized = spec.model_copy(update={"rank": rank, "budget": None})
        moments = expand_sites(sites, own) if spec.needs_moments else None
        (made,) = load(spec.method).decompose(own, within, sized, moments)
        known = sensitivity(sites, module, tokens)
        left, right = (made.store.get_parameter(name) for name in ("left", "right"))
        damages = damage_of_ranks(stacked(own[module]), left, right, known)
        for index, each in enumerate(damages.tolist()):
            yield Curve(
                layer=layer,
                module=module,
                index=index,
                rank_values=out + inner,
                whole_values=out * inner,
                damages=tuple(float(f"{damage:.7g}") for damage in each),
            )


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
    """The options of a layer's modules; ``weights`` by module, float32, ``(out, in)`` or experts.

    Options of several modules are of a whole group. ``group_size``: weights that share a scale
    where they are rounded. A method's size is passed over where decompositions that are as small
    do no more damage than its next larger size did: it would never be chosen.
    """
    known = {module: sensitivity(sites, module, tokens) for module in weights}

    def choice(method: str, settings: dict[str, Any], factors: Sequence[Factors]) -> Choice:
        modules = tuple(module for each in factors for module in each.modules)
        macs = 0
        stored, rebuilt = 0, dict[str, Tensor]()
        for each in factors:
            stored += bits(stored_tensors(each.store, layer, replaced=True).values(), value_bits)
            for index, module in enumerate(each.modules):
                stack = stacked(weights[module])
                slices = slices_of(each.store, each.modules, index)
                rebuilt[module] = torch.stack([each.store.dense(s) for s in slices]).to(stack)
                macs += each.store.runs(slices.start)[0].macs()
        changed = changes({m: stacked(weights[m]) for m in modules}, rebuilt, shape)
        damage = sum(damage_nats(change, known[m]) for m, change in changed.items())
        return Choice(
            layer=layer,
            modules=modules,
            method=method,
            settings=settings,
            bits=stored,
            dense_bits=value_bits * sum(shape.modules[m].numel for m in modules),
            damage=damage,
            ranks=tuple(ranks_of(each.store.settings) for each in factors),
            macs=macs,
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
    made: list[Choice] = []

    def of_attempt(attempt: Attempt) -> Iterator[Choice]:
        """Its sizes that are worth it; with it ends what their factorisation holds."""
        own = {module: weights[module] for module in attempt.shape.modules}
        held = expand_sites(sites, own) if attempt.specs[0].needs_moments else None
        fit = sizes_up_to(attempt, own, held)
        # a smaller size does no less damage than the last one
        at_least = 0.0
        for spec in attempt.specs:
            size = attempt.bits(spec, value_bits)
            if size is not None and least_damage(made, attempt.shape.modules, size) <= at_least:
                continue
            settings = spec.model_dump(exclude={"method"}, exclude_defaults=True)
            made.append(choice(spec.method, settings, fit(spec)))
            at_least = made[-1].damage
            yield made[-1]

    for attempt in attempts(shape, methods):
        yield from of_attempt(attempt)


def least_damage(
    made: Sequence[Choice], modules: Mapping[str, ModuleShape], most_bits: float
) -> float:
    """Of the choices for some modules, together or each by itself in its share of the bits."""
    whole = sum(size.numel for size in modules.values())
    shares = {(module,): most_bits * size.numel / whole for module, size in modules.items()}
    together = _least(made, tuple(modules), most_bits)
    return min(together, sum(_least(made, module, share) for module, share in shares.items()))


def _least(made: Sequence[Choice], modules: tuple[str, ...], most_bits: float) -> float:
    same = (c for c in made if set(c.modules) == set(modules) and c.bits <= most_bits)
    return min((c.damage for c in same), default=math.inf)


@dataclass(frozen=True)
class Attempt:
    """One method on the modules of ``shape``, of one group: settings of every size, large first."""

    group: str
    shape: LayerShape
    specs: tuple[MethodSpec, ...]

    def bits(self, spec: MethodSpec, value_bits: int) -> int | None:
        """What the factors of a size take, where that follows from shapes alone."""
        if spec.sized_by_weights:
            return None
        with torch.device("meta"):
            stores = [layout.build() for layout in spec.layouts(self.shape, self.group)]
        tensors = (stored_tensors(each, None, replaced=True).values() for each in stores)
        return sum(bits(each, value_bits) for each in tensors)


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


def sizes_up_to(
    attempt: Attempt, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None
) -> Callable[[MethodSpec], list[Factors]]:
    """What makes the factors of each size, the largest first.

    Out of one factorisation as far as the method has them so.
    """
    method = load(attempt.specs[0].method)
    if hasattr(method, "sizes_up_to"):
        return method.sizes_up_to(weights, attempt.shape, attempt.specs[0], moments)
    larger: tuple[MethodSpec, dict[tuple[str, ...], Factors]] | None = None

    def fit(spec: MethodSpec) -> list[Factors]:
        nonlocal larger
        if larger and larger[0].contains_factors_of(spec, attempt.shape, attempt.group):
            layouts = spec.layouts(attempt.shape, attempt.group)
            return [leading(each, larger[1][each.modules], spec) for each in layouts]
        made = method.decompose(weights, attempt.shape, spec, moments)
        larger = spec, {each.modules: each for each in made}
        return made

    return fit


def _fits(spec: MethodSpec, shape: LayerShape, group: str) -> bool:
    """Whether there is room for rank 1, and no more heads than the method allows."""
    try:
        spec.check(shape, group)
    except TensorpressError:
        return False
    return True


def _settings(sort: type[MethodSpec], saved: float) -> dict[str, Any]:
    whitened: dict[str, Any] = {}
    if "whiten" in sort.model_fields:
        offered = get_args(sort.model_fields["whiten"].annotation)
        whitened["whiten"] = "both" if "both" in offered else "input"
    if "whiten_output" in sort.model_fields:
        whitened["whiten_output"] = "gradient"
    return {"budget": {"saved": saved}, **whitened}
