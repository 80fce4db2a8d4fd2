"""Norms folded into the matrices behind them: what rotations and slices of a model begin with.

A norm gives ``s * n(x) + b`` with ``n`` of mean square one, and nothing but matrices ``W`` reads
it: ``W (s * n(x) + b) = (W diag(s)) n(x) + W b``. So its scale goes into their columns, and the
bias of a LayerNorm into theirs; the norm is left with the scale one and the bias zero. Logits are
the same to round-off (SliceGPT, Ashkboos et al. 2024, arXiv 2401.15024, section 3.2).

The last norm is folded into the head, if that is a matrix of its own and can take what there is.
A tied head is also what tokens are looked up in and must stay what it is, so in front of it, and of
a head without the bias that a LayerNorm's would need, the norm stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.shortcuts import obstacle
from tensorpress.errors import TensorpressError
from tensorpress.transforms.base import Transform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tensorpress.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class Reader:
    """A stored matrix behind a norm, whose inputs lie along ``axis``; its bias, if it has one."""

    norm: str
    weight: str
    axis: int
    bias: str | None


class Spec(Transform):
    """The scales of all norms that a family names, and the biases of its LayerNorms."""

    transform: Literal["fold_norms"]

    def planned(self, architecture: Architecture, where: str) -> Architecture:
        family = architecture.family
        if (reason := obstacle(architecture)) is not None:
            raise TensorpressError(f"{where}: fold_norms is not allowed after slicegpt: {reason}")
        if not family.norms or not family.norms_first(architecture.config):
            raise TensorpressError(
                f"{where}: fold_norms is not allowed for this {family.model_type}: no norm of it "
                "is known to be read by matrices alone; allowed: families that name such, as llama"
            )
        for norm in family.norms if family.norms_have_biases else ():
            lacking = [module for module in norm.readers if module in family.without_bias]
            if lacking:
                raise TensorpressError(
                    f"{where}: fold_norms is not allowed for {family.model_type}: the bias of "
                    f"{norm.path} has no place in {lacking[0]}, which has none; allowed: families "
                    "whose matrices behind a LayerNorm have biases, as gpt2"
                )
        return architecture

    def tensors(
        self, source: Checkpoint, stream: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        for name, tensor, dtype in folded(source):
            yield name, tensor.to(dtype)


def folded(source: Checkpoint) -> Iterator[tuple[str, Tensor, torch.dtype]]:
    """Names and values of the tensors with norms folded, not yet rounded to the dtype of each."""
    unit = source.architecture.family.norm_unit
    by_weight = {each.weight: each for each in readers(source)}
    biases = {each.bias: each for each in by_weight.values() if each.bias}
    norms = {each.norm for each in by_weight.values()}
    for name in sorted(source.files):
        tensor = source.read([name])[name]
        dtype = tensor.dtype
        path, _, kind = name.rpartition(".")
        if name in by_weight:
            tensor = _scaled(tensor, by_weight[name], source, unit)
        elif name in biases:
            tensor = _shifted(tensor, biases[name], source)
        elif path in norms:
            tensor = tensor.clone().fill_(unit if kind == "weight" else 0)
        yield name, tensor, dtype


def readers(source: Checkpoint) -> Iterator[Reader]:
    """Every stored matrix that a norm is folded into.

    ``TensorpressError`` where a norm has a bias and a matrix behind it has none.
    """
    architecture, family = source.architecture, source.architecture.family
    for layer in range(architecture.layers):
        shape, path = architecture.shape(layer), family.layer_path(layer)
        for norm in family.norms:
            place = f"{path}.{norm.path}"
            for module in norm.readers:
                if module in shape.modules:
                    stored = architecture.weight_source(layer, module, source.files)
                    axis = -2 if family.holds_inputs_first(module) else -1
                    for name in stored.names:
                        yield _reader(source, place, name, axis)
            for linear in norm.beside_experts if shape.group("experts") else ():
                yield _reader(source, place, f"{path}.{linear}.weight", -1)
    head = f"{family.head}.weight"
    has_bias = f"{family.final_norm}.bias" in source.files
    # a fetched checkpoint holds a tied head once, as the embedding
    if head in source.files and (not has_bias or f"{family.head}.bias" in source.files):
        yield _reader(source, family.final_norm, head, -1)


def _reader(source: Checkpoint, norm: str, weight: str, axis: int) -> Reader:
    if weight not in source.files:
        raise TensorpressError(f"{source.directory}: tensor {weight} behind {norm} is missing")
    if f"{norm}.bias" not in source.files:
        return Reader(norm, weight, axis, None)
    bias = f"{weight.removesuffix('.weight')}.bias"
    if bias not in source.files:
        raise TensorpressError(
            f"{source.directory}: transform: fold_norms is not allowed: {norm} has a bias and "
            f"{weight} behind it has none; allowed: models whose matrices behind norms have biases"
        )
    return Reader(norm, weight, axis, bias)


def _scaled(weight: Tensor, reader: Reader, source: Checkpoint, unit: float) -> Tensor:
    name = f"{reader.norm}.weight"
    scale = source.read([name])[name].float() + (1 - unit)
    along = scale if reader.axis == -1 else scale[:, None]
    # Float32 holds the product of two bfloat16 values, so it is rounded once, when it is stored.
    # Gemma's norms scale by 1 + weight: that sum and its product are rounded to float32 before
    return weight.float() * along


def _shifted(bias: Tensor, reader: Reader, source: Checkpoint) -> Tensor:
    name = f"{reader.norm}.bias"
    read = source.read([name, reader.weight])
    shift, weight = read[name].double(), read[reader.weight].double()
    added = weight @ shift if reader.axis == -1 else shift @ weight
    return bias.double() + added
