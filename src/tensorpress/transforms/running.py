"""Tensors under the names of the running model, for a class that is not transformers' own.

While it loads a model of a class of its own, transformers renames tensors of older checkpoints and
fuses those of experts; of any other class it takes them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tensorpress.checkpoints.checkpoint import Checkpoint


def as_run(
    tensors: Iterable[tuple[str, Tensor]], source: Checkpoint
) -> Iterator[tuple[str, Tensor]]:
    """What was made of the tensors of ``source``, renamed and fused; a layer's experts are held."""
    import torch

    family, stacks = source.architecture.family, _stacks(source)
    homes = {name: fused for fused, parts in stacks.items() for part in parts for name in part}
    held: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        if name not in homes:
            yield family.running_name(name), tensor
            continue
        fused = homes[name]
        found = held.setdefault(fused, {})
        found[name] = tensor
        if len(found) == sum(map(len, stacks[fused])):
            parts = [torch.stack([found.pop(name) for name in part]) for part in stacks[fused]]
            yield fused, torch.cat(parts, dim=1)


def _stacks(source: Checkpoint) -> dict[str, list[tuple[str, ...]]]:
    """The fused tensor of experts that stand one by one -> its parts, one name an expert."""
    architecture, names = source.architecture, source.architecture.family.experts
    found: dict[str, list[tuple[str, ...]]] = {}
    for layer in architecture.expert_layers:
        assert names is not None
        path = architecture.family.experts_path(layer)
        fused = {names.gate_up: ("experts.gate", "experts.up"), names.down: ("experts.down",)}
        for name, modules in fused.items():
            parts = [architecture.weight_source(layer, m, source.files).names for m in modules]
            if all(len(part) > 1 for part in parts):
                found[f"{path}.{name}"] = parts
    return found
