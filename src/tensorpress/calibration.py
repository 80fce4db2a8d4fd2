"""Second moments of the inputs of every module, streamed over the calibration text.

Modules that read the same activations (q, k and v; gate and up) share one moment, kept under
the first of them, its *site*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from tensorpress import paths
from tensorpress.atomic import replacing
from tensorpress.families.base import Family
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.modules import FactoredExperts
from tensorpress.layers import LayerShape

SITES = {
    "attention.q": "attention.q",
    "attention.k": "attention.q",
    "attention.v": "attention.q",
    "attention.o": "attention.o",
    "ffn.gate": "ffn.gate",
    "ffn.up": "ffn.gate",
    "ffn.down": "ffn.down",
    "experts.gate": "experts.gate",
    "experts.up": "experts.gate",
    "experts.down": "experts.down",
}


class Moments:
    """Running sums of ``x x^T`` in float64: ``(in, in)`` per site and slice, with token counts."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._counts: defaultdict[tuple[str, int], int] = defaultdict(int)

    def add(self, site: str, index: int, x: Tensor) -> None:
        """Add activations ``(..., in)`` that reach slice ``index`` of ``site``."""
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        product = (rows.mT @ rows).double()
        place = (site, index)
        self._sums[place] = self._sums[place] + product if place in self._sums else product
        self._counts[place] += rows.shape[0]

    def tensors(self, shape: LayerShape) -> dict[str, Tensor]:
        """``<site>``: E[x x^T] in float32, ``<site>.tokens``: tokens seen, per slice for experts.

        An expert that received no token has a zero moment.
        """
        saved: dict[str, Tensor] = {}
        for site in {SITES[module] for module in shape.modules}:
            module = shape.modules[site]
            zero = torch.zeros(module.in_features, module.in_features, dtype=torch.float64)
            counts = [self._counts[site, i] for i in range(module.slices)]
            means = [
                (self._sums.get((site, i), zero) / max(count, 1)).float().cpu()
                for i, count in enumerate(counts)
            ]
            saved[site] = torch.stack(means) if module.slices > 1 else means[0]
            saved[f"{site}.tokens"] = torch.tensor(counts)
        return saved


class _RecordingSlices(DenseSlices):
    """Dense expert matrices that add what they are applied to, to the moment of their site."""

    def __init__(self, weight: Tensor, moments: Moments, site: str | None) -> None:
        slices, out_features, in_features = weight.shape
        super().__init__(slices=slices, out_features=out_features, in_features=in_features)
        self.fill(weight=weight)
        self._record = (moments, site)

    def project(self, x: Tensor, index: int) -> Tensor:
        moments, site = self._record
        if site is not None:
            moments.add(site, index, x)
        return super().project(x, index)


def expand_sites(sites: dict[str, Tensor], modules: Iterable[str]) -> dict[str, Tensor]:
    """Second moment of each module's inputs, from the per-site tensors of a moments file."""
    return {module: sites[SITES[module]] for module in modules}


def calibrate(
    model: PreTrainedModel,
    family: Family,
    shapes: Sequence[LayerShape],
    windows: Tensor,
    batch: int,
    device: torch.device,
) -> list[dict[str, Tensor]]:
    """Moments of every layer over ``windows (n, window)``: what ``save_moments`` writes.

    Experts see the tokens that the router really sends them. The model's hooks stay in place,
    so it must not be used for anything else.
    """
    moments = [Moments() for _ in shapes]
    for layer, shape in enumerate(shapes):
        _attach(model, family, layer, shape, moments[layer])
    with torch.inference_mode():
        for ids in tqdm(windows.split(batch), desc="calibrate", unit="batch"):
            model(input_ids=ids.to(device), use_cache=False)
    return [moment.tensors(shape) for moment, shape in zip(moments, shapes, strict=True)]


def save_moments(layers: list[dict[str, Tensor]], tokens: int, directory: Path) -> None:
    """Write one safetensors file a layer into ``directory``, with the token count."""
    with replacing(directory) as temporary:
        temporary.mkdir()
        for layer, tensors in enumerate(layers):
            name = paths.moments(temporary, layer)
            save_file(tensors, name, metadata={"tokens": str(tokens)})


def _attach(
    model: PreTrainedModel, family: Family, layer: int, shape: LayerShape, moments: Moments
) -> None:
    for site in {SITES[module] for module in shape.modules if not module.startswith("experts")}:
        linear = model.get_submodule(family.linear_path(layer, site))
        linear.register_forward_pre_hook(_hook(moments, site))
    if "experts.gate" in shape.modules:
        path = family.experts_path(layer)
        experts = model.get_submodule(path)
        stores = {}
        for module, weight in family.expert_weights(experts).items():
            site = module if SITES[module] == module else None
            stores[module.split(".")[1]] = _RecordingSlices(weight, moments, site)
        model.set_submodule(path, FactoredExperts(**stores, act_fn=experts.act_fn))


def _hook(moments: Moments, site: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(site, 0, inputs[0])

    return record
