"""Activations of a running model, handed on layer by layer, and a place for them on disk.

Nothing here keeps what it hands on: a consumer that keeps nothing either never has more than one
layer of one batch in memory.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.errors import TensorpressError

GIB = 2**30

Points = dict[str, Float[Tensor, "tokens hidden"]]
PointConsumer = Callable[[slice, int, Points], None]
"""Takes the places of a batch's tokens among all tokens, the layer, and its points."""
RoutingConsumer = Callable[
    [slice, int, Float[Tensor, "tokens hidden"], Int[Tensor, "tokens chosen"]], None
]
"""Takes places, layer, what reaches the router, and the experts that it chose."""


@contextmanager
def scratch(*shape: int) -> Iterator[Tensor]:
    """A float32 tensor that lies in a temporary file, deleted at the end, and not in memory.

    ``TensorpressError`` if the disk has no space for it.
    """
    values = math.prod(shape)
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if 4 * values > free:
            raise TensorpressError(
                f"max_windows: {4 * values / GIB:.1f} GiB of activations are not allowed; allowed: "
                f"{free / GIB:.1f} GiB, free in {Path(folder).parent} (TMPDIR)"
            )
        file = str(Path(folder) / "activations")
        yield torch.from_file(file, shared=True, size=values).view(shape)


def stream_points(
    model: PreTrainedModel,
    architecture: Architecture,
    windows: Int[Tensor, "windows window"],
    batch: int,
    device: torch.device,
    consume: PointConsumer,
) -> None:
    """Hand the five points of every layer (``analysis.geometry``) to ``consume``, in float32."""

    def watch(places: slice) -> list[RemovableHandle]:
        return [
            handle
            for layer in range(architecture.layers)
            for handle in _watch_layer(model, architecture, layer, partial(consume, places, layer))
        ]

    _stream(model, windows, batch, device, watch)


def stream_routing(
    model: PreTrainedModel,
    architecture: Architecture,
    windows: Int[Tensor, "windows window"],
    batch: int,
    device: torch.device,
    consume: RoutingConsumer,
) -> None:
    """Hand the router's inputs in float32 and choices in every layer of experts to ``consume``."""

    def watch(places: slice) -> list[RemovableHandle]:
        handles = []
        for layer in architecture.expert_layers:

            def enter(module: nn.Module, inputs: Any, layer: int = layer) -> None:
                # the experts read what the router does
                rows = _rows(inputs[0])
                _check(rows, f"{model.name_or_path}: layer {layer}: router input")
                consume(places, layer, rows, inputs[1])

            experts = model.get_submodule(architecture.family.experts_path(layer))
            handles.append(experts.register_forward_pre_hook(enter))
        return handles

    _stream(model, windows, batch, device, watch)


@torch.inference_mode()
def _stream(
    model: PreTrainedModel,
    windows: Tensor,
    batch: int,
    device: torch.device,
    watch: Callable[[slice], list[RemovableHandle]],
) -> None:
    start = 0
    for ids in windows.split(batch):
        handles = watch(slice(start, start + ids.numel()))
        try:
            # without the head: nobody looks at the logits
            model.base_model(input_ids=ids.to(device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        start += ids.numel()


def _watch_layer(
    model: PreTrainedModel,
    architecture: Architecture,
    layer: int,
    consume: Callable[[Points], None],
) -> list[RemovableHandle]:
    family = architecture.family
    path = family.layer_path(layer)
    block = model.get_submodule(path)
    attention = model.get_submodule(family.block_path(layer, "attention"))
    group = "experts" if architecture.shape(layer).experts else "ffn"
    ffn = model.get_submodule(family.block_path(layer, group))
    norm = family.attention_norm
    added = attention if norm is None else model.get_submodule(f"{path}.{norm}")
    held: Points = {}

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        held["layer_input"] = _rows(args[0] if args else kwargs["hidden_states"])

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            held[name] = _rows(output)

        return hook

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        held["after_attention"] = held["layer_input"] + _rows(output)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        points = held | {"layer_output": _rows(output)}
        held.clear()
        for name, values in points.items():
            _check(values, f"{model.name_or_path}: layer {layer}: {name}")
        consume(points)

    return [
        block.register_forward_pre_hook(enter, with_kwargs=True),
        attention.register_forward_hook(keep("attention_output")),
        added.register_forward_hook(add),
        ffn.register_forward_hook(keep("ffn_output")),
        block.register_forward_hook(leave),
    ]


def _rows(output: Any) -> Float[Tensor, "tokens hidden"]:
    """What a module hands on first, as one row per token."""
    tensor = output[0] if isinstance(output, tuple) else output
    return tensor.detach().flatten(0, -2).float()


def _check(values: Tensor, where: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise TensorpressError(f"{where} has NaN or infinite values")
