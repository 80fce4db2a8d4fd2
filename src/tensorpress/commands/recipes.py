"""What a first study tries on a model: tensor formats and all controls, at equal shares of bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import GROUPS
from tensorpress.errors import TensorpressError
from tensorpress.methods.registry import spec_class
from tensorpress.planning import sizes
from tensorpress.planning.checks import check_method

Settings = Mapping[str, Any]

TENSOR_FORMATS: dict[str, dict[str, Settings]] = {
    "tt": {
        group: {"method": "tt", "order": 3, "whiten": "input"}
        for group in ("attention", "ffn", "experts")
    },
    "tucker": {
        "attention": {"method": "tucker_qkvo"},
        "ffn": {"method": "tucker_ffn", "whiten": "input"},
        "experts": {"method": "td_moe", "whiten": "both"},
    },
}
"""Recipe -> group of modules -> method without its size."""
WHITENED_SVD: dict[str, Settings] = {
    group: {"method": "svd", "whiten": "input"} for group in ("attention", "ffn", "experts")
}
ROUNDED = {"rtn8": 8, "rtn4": 4}
GROUP_SIZE = 64
"""Weights that share a scale."""
MOST = 0.9
"""Share of what is compressed that can be saved with sense."""


@dataclass(frozen=True)
class Grid:
    """Percent of the whole model's bits to save on all layers; ``halves``: on half of them too."""

    targets: tuple[int, ...]
    halves: bool


@dataclass
class Tried:
    """Sections of a study, and in words what of it does not fit the model."""

    methods: dict[str, Settings] = field(default_factory=dict)
    layer_sets: dict[str, Any] = field(default_factory=dict)
    recipes: dict[str, Settings] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def recipes(architecture: Architecture, grid: Grid) -> Tried:
    """Methods, layer sets and recipes (but for models and tasks) for a model's shapes."""
    tried = Tried()
    tried.layer_sets["all"] = "all"
    everywhere = ["all"]
    if grid.halves and architecture.layers > 1:
        tried.layer_sets["half"] = {"middle_out": architecture.layers // 2}
        everywhere = ["half", "all"]
    for percent in grid.targets:
        for name, methods in {**TENSOR_FORMATS, "svd-whitened": WHITENED_SVD}.items():
            _add_decomposed(tried, architecture, f"{name}-{percent}", methods, percent, everywhere)
        _add_dropped(tried, architecture, percent)
        _add_advised(tried, architecture, percent)
    _add_rounded(tried, architecture, everywhere)
    return tried


def _add_decomposed(
    tried: Tried,
    architecture: Architecture,
    name: str,
    methods: Mapping[str, Settings],
    percent: int,
    layers: Sequence[str],
) -> None:
    """A recipe that saves so much of the model with one budget for all that it compresses."""
    present = {group: each for group, each in methods.items() if _values(architecture, [group])}
    share = _share(architecture, list(present), percent)
    if share > MOST:
        tried.left_out.append(
            f"Left out: {name}, for that is {100 * share:.0f} % of what it would compress."
        )
        return
    sized = {
        group: {**each, "budget": {"saved": round(share, 4)}} for group, each in present.items()
    }
    for group, each in sized.items():
        if reason := _misfit(architecture, group, each):
            tried.left_out.append(f"Left out: {name}, for of {group}: {reason}")
            return
    if len({str(each) for each in sized.values()}) == 1:
        tried.methods[name] = next(iter(sized.values()))
        steps = [{"modules": list(sized), "method": name}]
    else:
        tried.methods |= {f"{name}-{group}": each for group, each in sized.items()}
        steps = [{"modules": [group], "method": f"{name}-{group}"} for group in sized]
    tried.recipes[name] = {"steps": steps, "layers": list(layers)}


def _add_dropped(tried: Tried, architecture: Architecture, percent: int) -> None:
    """Layers left out, the fewest that save so much."""
    count = math.ceil(_share(architecture, GROUPS, percent) * architecture.layers)
    layers = {"middle_out": count}
    if count >= architecture.layers or layers in tried.layer_sets.values():
        return
    tried.methods["drop"] = {"method": "drop"}
    layer_set = f"drop-{percent}"
    tried.layer_sets[layer_set] = layers
    steps = [{"modules": ["all"], "method": "drop"}]
    tried.recipes[f"drop-{percent}"] = {"steps": steps, "layers": [layer_set]}


def _add_advised(tried: Tried, architecture: Architecture, percent: int) -> None:
    """What ``tensorpress advise`` chooses, with rounding and without."""
    if _share(architecture, GROUPS, percent) > MOST:
        return
    for name, quantise in (("advised", True), ("advised-factors", False)):
        settings = {"method": "advised", "saved": percent / 100, "quantise": quantise}
        tried.methods[f"{name}-{percent}"] = settings
        steps = [{"modules": ["all"], "method": f"{name}-{percent}"}]
        tried.recipes[f"{name}-{percent}"] = {"steps": steps, "layers": ["all"]}


def _add_rounded(tried: Tried, architecture: Architecture, layers: Sequence[str]) -> None:
    """To nearest in 8 and 4 bits, and by GPTQ in 4."""
    tried.methods["dense"] = {"method": "dense"}
    steps = [{"modules": ["all"], "method": "dense"}]
    for name, bits in ROUNDED.items():
        rounding = {"bits": bits, "group_size": GROUP_SIZE}
        tried.recipes[name] = {"steps": steps, "layers": list(layers), "rounding": rounding}
    gptq = {"method": "gptq", "bits": 4, "group_size": GROUP_SIZE}
    reasons = [_misfit(architecture, group, gptq) for group in GROUPS if group != "embedding"]
    if any(reasons):
        tried.left_out.append(f"Left out: gptq4, for {next(filter(None, reasons))}")
        return
    tried.methods["gptq4"] = gptq
    steps = [{"modules": ["all"], "method": "gptq4"}]
    tried.recipes["gptq4"] = {"steps": steps, "layers": ["all"]}


def _misfit(architecture: Architecture, group: str, settings: Settings) -> str:
    """Why a method does not fit the shapes of a group, or nothing."""
    spec = spec_class(settings["method"]).model_validate(settings)
    for layer in sorted(set(architecture.representatives)):
        shape = architecture.shape(layer)
        if shape.group(group):
            try:
                check_method(settings["method"], spec, shape, group)
            except TensorpressError as error:
                return str(error)
    return ""


def _share(
    architecture: Architecture, groups: Sequence[str] | Mapping[str, Any], percent: int
) -> float:
    """Share of the groups' values, on all layers, that is so much of the model's."""
    values = _values(architecture, [group for group in groups if group != "embedding"])
    return percent / 100 * sizes.held_values(architecture) / values


def _values(architecture: Architecture, groups: Sequence[str]) -> int:
    return sum(_numels(architecture, groups))


def _numels(architecture: Architecture, groups: Sequence[str]) -> Iterator[int]:
    for shape in architecture.shapes[: architecture.layers]:
        for group in groups:
            yield from (module.numel for module in shape.group(group).values())
