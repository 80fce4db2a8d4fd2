"""Second moments of the inputs of every module, streamed over the calibration text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from tensorpress.families.base import Family
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.modules import FactoredExperts, gate_of
from tensorpress.layers import LayerShape
from tensorpress.moments import Moments, site_of


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


def _attach(
    model: PreTrainedModel, family: Family, layer: int, shape: LayerShape, moments: Moments
) -> None:
    readers = {site_of(m): m for m in shape.modules if not m.startswith("experts")}
    for site, module in readers.items():
        linear = model.get_submodule(family.linear_path(layer, module))
        linear.register_forward_pre_hook(_hook(moments, site))
    if "experts.gate" in shape.modules:
        path = family.experts_path(layer)
        experts: Any = model.get_submodule(path)
        stores: dict[str, _RecordingSlices] = {}
        for module, weight in family.expert_weights(experts).items():
            own_site = module if site_of(module) == module else None
            stores[module.split(".")[1]] = _RecordingSlices(weight, moments, own_site)
        assert family.experts is not None
        gate = gate_of(experts, family.experts.limits(model.config.to_dict()))
        recording = FactoredExperts(**stores, act=gate, biases=family.experts.biases)
        for name in ("gate_up_proj_bias", "down_proj_bias") * family.experts.biases:
            setattr(recording, name, getattr(experts, name))
        model.set_submodule(path, recording)


def _hook(moments: Moments, site: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(site, 0, inputs[0])

    return record
