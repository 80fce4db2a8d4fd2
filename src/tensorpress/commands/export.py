"""A checkpoint of rounded weights in the layout of compressed-tensors, which others serve.

transformers loads it without our code, and so does what reads that layout, as vLLM does. A linear
layer that is nothing but a rounded weight (of ``rounding`` on dense modules, and of ``gptq``) keeps
its codes and scales as they are; what else the model holds is written dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from tensorpress.commands.densify import check_target, rebuilt, save
from tensorpress.errors import TensorpressError
from tensorpress.files.atomic import replacing
from tensorpress.formats.adapters import ADAPTER
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.modules import FactoredEmbedding, FactoredExperts, FactoredLinear
from tensorpress.formats.rounded import Rounded
from tensorpress.formats.rounding import limit, unpack


@dataclass(frozen=True)
class Grid:
    """A rounded weight: codes ``(out, in)`` around zero, and a scale for each group of a row."""

    codes: Tensor
    scales: Tensor
    bits: int

    @property
    def arguments(self) -> QuantizationArgs:
        """How compressed-tensors calls it; a row of one group is a channel."""
        groups = self.scales.shape[1]
        if groups == 1:
            return QuantizationArgs(num_bits=self.bits, strategy=QuantizationStrategy.CHANNEL)
        size = self.codes.shape[1] // groups
        return QuantizationArgs(
            num_bits=self.bits, strategy=QuantizationStrategy.GROUP, group_size=size
        )

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a checkpoint holds of it, by the names of a linear layer."""
        return {
            f"{name}.weight_packed": pack_to_int32(self.codes, self.bits),
            f"{name}.weight_scale": self.scales,
            f"{name}.weight_shape": torch.tensor(self.codes.shape),
        }


def export(source: Path, target: Path) -> tuple[int, int]:
    """Write ``source`` for compressed-tensors into the new ``target``.

    Returns how many linear layers are packed, and how many other compressed modules are dense.
    ``TensorpressError`` if no layer can be packed, and wherever ``densify`` raises one.
    """
    check_target(target)
    plain, compressed = rebuilt(source)
    grids = _grids(plain, compressed)
    if not grids:
        raise TensorpressError(
            f"{source}: no linear layer is a rounded weight whose groups lie in its rows; allowed: "
            "a recipe with rounding of dense modules or with gptq (densify writes the others)"
        )
    schemes: dict[str, QuantizationScheme] = {}
    for name, grid in grids.items():
        arguments = grid.arguments
        label = f"{arguments.num_bits}-bits-{arguments.group_size or 'channel'}"
        scheme = schemes.setdefault(label, QuantizationScheme(targets=[], weights=arguments))
        scheme.targets.append(name)
    tensors = {
        name: value
        for name, value in plain.state_dict().items()
        if name.removesuffix(".weight") not in grids
    }
    for name, grid in grids.items():
        tensors |= grid.tensors(name)
    settings = QuantizationConfig(
        config_groups=schemes,
        format=CompressionFormat.pack_quantized.value,
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    with replacing(target) as temporary:
        written = settings.model_dump(mode="json", exclude_none=True)
        save(plain, source, temporary, tensors, quantization_config=written)
    modules = {name for name, module in compressed.named_modules() if _is_factored(module)}
    return len(grids), len(modules - set(grids))


def _is_factored(module: nn.Module) -> bool:
    return isinstance(module, FactoredLinear | FactoredExperts | FactoredEmbedding)


def _grids(plain: nn.Module, compressed: PreTrainedModel) -> dict[str, Grid]:
    """Linear layers by name that are nothing but a rounded weight."""
    return {
        name: grid
        for name, module in compressed.named_modules()
        if isinstance(module, FactoredLinear) and not hasattr(module, ADAPTER)
        if isinstance(plain.get_submodule(name), nn.Linear) and not module.is_narrower
        if (grid := _grid(module)) is not None
    }


def _grid(module: FactoredLinear) -> Grid | None:
    """The grid of a layer all of whose parts are rounded alike, with whole groups in each row."""
    codes, scales, widths = [], [], set()
    for store, index in module.parts:
        if not (isinstance(store, Rounded) and isinstance(store.inner, DenseSlices)):
            return None
        size = store.group_size or store.in_features
        if store.in_features % size:
            return None
        shape = (store.slices, store.out_features, store.in_features)
        packed, held = store.get_buffer("weight_codes"), store.get_parameter("weight_scales")
        steps = unpack(packed, store.bits, math.prod(shape)) - limit(store.bits)
        codes.append(steps.to(torch.int8).view(shape)[index])
        groups = (store.slices, store.out_features, store.in_features // size)
        of_groups = held.detach().expand(math.prod(groups)).view(groups)
        scales.append(of_groups[index])
        widths.add((store.bits, size))
    if len(widths) > 1:
        return None
    ((bits, _),) = widths
    return Grid(module.joined(codes).contiguous(), module.joined(scales).contiguous(), bits)
