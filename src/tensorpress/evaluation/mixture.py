"""What one model shows of its mixture of experts: routing, overlaps and alignments.

The router's inputs lie in a temporary file (``layers x tokens x hidden`` float32 values) until
one layer after the other is looked at; what remains are the router's probabilities and choices
and a few numbers a layer.

Singular directions are taken on the side of the residual stream, the right one of gate and up and
the left one of down: the inner coordinates of two experts have nothing to do with each other. The
directions that an expert reads, which the router's rows are compared with, are those of gate and
up together; the activations that it receives are not centred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tensorpress.analysis.moe import (
    BANDS,
    pairwise_overlap,
    right_bands,
    squared_cosine,
)
from tensorpress.analysis.overlap import random_overlap
from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import GROUPS, LayerShape
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.activations import scratch, stream_routing
from tensorpress.formats.modules import FactoredExperts

Matrices = dict[str, Callable[[int], Tensor]]
"""Projection -> its matrix ``(out, in)`` for an expert's number, in float32 when asked for."""


@dataclass(frozen=True)
class BandMeasure:
    """Overlaps of expert pairs or alignments of experts in one band, and what chance gives."""

    metric: str
    module: str
    values: Float[Tensor, " n"]
    chance: float


@dataclass(frozen=True)
class LayerView:
    """What one model shows in one layer."""

    probabilities: Float[Tensor, "tokens experts"]
    chosen: Int[Tensor, "tokens chosen"]
    bands: tuple[BandMeasure, ...]


def observe(
    model: PreTrainedModel,
    architecture: Architecture,
    windows: Int[Tensor, "windows window"],
    batch: int,
    device: torch.device,
) -> list[LayerView]:
    """A view of each layer of experts, the model's own activations in ``windows``."""
    layers = architecture.expert_layers
    probabilities: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    chosen: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    routers = {layer: router_of(model, architecture, layer) for layer in layers}
    with scratch(len(layers), windows.numel(), architecture.shape(layers[0]).hidden_size) as stored:
        inputs = dict(zip(layers, stored, strict=True))

        def record(places: slice, layer: int, x: Tensor, experts: Tensor) -> None:
            inputs[layer][places] = x
            probabilities[layer].append(routing_probabilities(routers[layer], x).cpu())
            chosen[layer].append(experts.cpu())

        stream_routing(model, architecture, windows, batch, device, record)
        views = []
        for layer in layers:
            experts = torch.cat(chosen[layer])
            matrices = expert_matrices(model, architecture, layer)
            router = routers[layer].get_parameter("weight").detach().float()
            received = _received(inputs[layer], experts, router.device)
            bands = (
                *_overlaps(matrices, architecture.shape(layer)),
                *_alignments(
                    "router.weights", router, _readers(matrices, architecture.shape(layer))
                ),
                *_alignments("router.activations", router, received),
            )
            views.append(LayerView(torch.cat(probabilities[layer]), experts, bands))
    return views


def router_of(model: nn.Module, architecture: Architecture, layer: int) -> nn.Module:
    """The router beside the experts of a layer: the module whose weight is ``(E, hidden)``.

    ``TensorpressError`` if there is no such module.
    """
    block = model.get_submodule(architecture.family.block_path(layer, "experts"))
    shape = (architecture.shape(layer).experts, architecture.shape(layer).hidden_size)
    for child in block.children():
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and weight.shape == shape:
            return child
    raise TensorpressError(
        f"{architecture.family.model_type}: no router beside the experts of layer {layer}; "
        f"allowed: a module with a weight of shape {shape}"
    )


def routing_probabilities(
    router: Any, x: Float[Tensor, "tokens hidden"]
) -> Float[Tensor, "tokens experts"]:
    """Softmax over all experts, whatever a family's router makes of its logits afterwards."""
    bias = getattr(router, "bias", None)
    own = None if bias is None else bias.to(x)
    return nn.functional.linear(x, router.weight.to(x), own).softmax(-1)


def expert_matrices(model: nn.Module, architecture: Architecture, layer: int) -> Matrices:
    """Gate, up and down of the dense or factored experts of a layer."""
    experts = model.get_submodule(architecture.family.experts_path(layer))
    if isinstance(experts, FactoredExperts):
        stores = {m: getattr(experts, m.split(".")[1]) for m in GROUPS["experts"]}
        return {module: partial(_wide, store.dense) for module, store in stores.items()}
    weights = architecture.family.expert_weights(experts)
    return {m: partial(_wide, weight.detach().__getitem__) for m, weight in weights.items()}


def _wide(matrix: Callable[[int], Tensor], expert: int) -> Tensor:
    return matrix(expert).float()


def _overlaps(matrices: Matrices, shape: LayerShape) -> Iterator[BandMeasure]:
    for module, matrix in matrices.items():
        found = [_residual_bands(module, matrix(e)) for e in range(shape.experts)]
        for name, bases in zip(BANDS, zip(*found, strict=True), strict=True):
            chance = random_overlap(bases[0].shape[1], shape.hidden_size)
            overlaps = pairwise_overlap(torch.stack(bases))
            yield BandMeasure(f"{name}_overlap", module, overlaps, chance)


def _residual_bands(module: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    side = matrix.mT if module == "experts.down" else matrix
    return right_bands(side, min(side.shape))


def _alignments(
    module: str, router: Tensor, sources: Iterable[tuple[int, Tensor, int]]
) -> Iterator[BandMeasure]:
    """``sources``: expert, matrix whose right bands count, and how many directions it may have."""
    shares: dict[str, list[Tensor]] = {name: [] for name in BANDS}
    widths: dict[str, int] = {}
    for expert, matrix, directions in sources:
        for name, basis in zip(BANDS, right_bands(matrix, directions), strict=True):
            shares[name].append(squared_cosine(router[expert], basis))
            widths[name] = basis.shape[1]
    for name, values in shares.items():
        chance = random_overlap(widths[name], router.shape[1])
        yield BandMeasure(f"{name}_alignment", module, torch.stack(values), chance)


def _readers(matrices: Matrices, shape: LayerShape) -> Iterator[tuple[int, Tensor, int]]:
    for expert in range(shape.experts):
        matrix = torch.cat([matrices[m](expert) for m in ("experts.gate", "experts.up")])
        yield expert, matrix, min(matrix.shape)


def _received(
    inputs: Tensor, chosen: Tensor, device: torch.device
) -> Iterator[tuple[int, Tensor, int]]:
    """Activations of each expert that has any."""
    for expert in chosen.unique().tolist():
        rows = inputs[(chosen == expert).any(1)]
        yield expert, rows.to(device), rows.shape[1]
