"""Where a model runs: on one device if it fits, else over all visible ones and the CPU's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformers import PreTrainedModel

from tensorpress.formats.base import STORES
from tensorpress.running.oom import CPU, warn

UNKEYED = "a model computes the same wherever its layers lie, beyond rounding"

HEADROOM = 0.2
"""Share of a device's free memory that is left for activations."""

DeviceMap = dict[str, int | str]
"""Module path -> number of a GPU, ``cpu`` or ``disk``, as accelerate has it."""


def place(model: PreTrainedModel, device: torch.device, spill: bool = True) -> PreTrainedModel:
    """Bring a model to ``device``; over all visible GPUs where it does not fit on one.

    What these do not hold stays in the CPU's memory and is brought for each forward pass; without
    ``spill`` (weights are read or adapters trained) the whole model then is on the CPU.
    """
    if is_dispatched(model):
        if device != CPU:
            return model
        withdraw(model)
    if device == CPU or next(model.parameters()).device.type == device.type:
        return model.to(device)  # type: ignore[arg-type]
    size = stored_bytes(model)
    memory: dict[int | str, int] = {i: _room(i) for i in range(torch.cuda.device_count())}
    if size <= memory[device.index or 0]:
        return model.to(device)  # type: ignore[arg-type]
    devices = device_map(model, {**memory, "cpu": 2 * size})
    if "cpu" in devices.values() and not spill:
        warn(
            f"{model.name_or_path}: {size} bytes do not fit on {len(memory)} GPUs; goes to the CPU"
        )
        return model.to(CPU)  # type: ignore[arg-type]
    return dispatch(model, devices, device.index or 0)


def device_map(model: PreTrainedModel, memory: dict[int | str, int]) -> DeviceMap:
    """Whole layers to devices of so many bytes each, in the order given.

    Factors that the model itself holds (of the embedding) go to the first: other modules call
    them, so that no hook could bring them.
    """
    first = next(iter(memory))
    held = model._modules.get(STORES)
    room = {**memory, first: memory[first] - (stored_bytes(held) if held is not None else 0)}
    layers: Any = model._no_split_modules
    found: DeviceMap = infer_auto_device_map(model, room, no_split_module_classes=sorted(layers))
    if held is None or "" in found:
        return found
    kept = {path: where for path, where in found.items() if path.split(".")[0] != STORES}
    return {**kept, STORES: first}


def dispatch(
    model: PreTrainedModel, devices: DeviceMap, main: int | str, folder: Path | None = None
) -> PreTrainedModel:
    """Spread a model; ``folder`` takes what is mapped to ``disk``.

    Weights that are brought come with their whole layer, for factored modules read those of
    stores that they do not call; buffers stay. Modules must not be replaced any more.
    """
    layers: Any = model._no_split_modules
    dispatch_model(
        model,
        devices,
        main_device=main,  # type: ignore[arg-type]
        offload_dir=folder,
        skip_keys=model._skip_keys_device_placement,
        preload_module_classes=sorted(layers),
        force_hooks=True,
    )
    return model


def withdraw(model: PreTrainedModel) -> None:
    """Undo ``dispatch``: every weight that was brought for each pass is the module's again."""
    remove_hook_from_module(model, recurse=True)
    del model.hf_device_map


def is_dispatched(model: nn.Module) -> bool:
    """Whether a model is spread."""
    return hasattr(model, "hf_device_map")


def is_spilled(model: nn.Module) -> bool:
    """Whether some weights are brought for each forward pass, so that none can be read."""
    return bool({"cpu", "disk"} & set(getattr(model, "hf_device_map", {}).values()))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


def _room(index: int) -> int:
    return int((1 - HEADROOM) * torch.cuda.mem_get_info(index)[0])
