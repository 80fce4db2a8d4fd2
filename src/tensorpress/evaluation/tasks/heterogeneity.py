"""Task ``heterogeneity``: do the parts of a model live in common subspaces, and does sharing pay?

Every matrix is read with the residual stream on its right: those that write to it are transposed.
So the *stream* side means the same in all of them, and the *inner* side is that of heads, neurons
or experts' neurons. Only two layers are in memory at a time.

A row is of a module and says what is compared: the module with its ``partner``, another of its
layer or several that are stacked with it (``modules``), its ``heads``, its ``experts``, or the
module with itself in the next layer (``layers``, in a row of the first). Experts have no order, so
none is compared with one of another layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from tensorpress.analysis.overlap import mean_overlap, overlap, random_overlap
from tensorpress.analysis.sharing import noise_penalties, sharing
from tensorpress.analysis.spectra import (
    Stack,
    decompose,
    effective_rank,
    energy_captured,
    join,
    stable_rank,
    tail_exponent,
)
from tensorpress.architectures.layers import GROUPS, LayerShape, group_of
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.heterogeneity import Spec
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.formats.base import STORES
from tensorpress.methods.attention_heads import head_count
from tensorpress.methods.tucker_qkvo import stacks

WRITES_STREAM = ("attention.o", "ffn.down", "experts.down")

Row = Callable[..., EvalRow]
"""A row of one layer and part of it, given the rest."""


@dataclass(frozen=True)
class Layer:
    """Every module of a layer as a stack of matrices ``(slices, inner, stream)``."""

    number: int
    shape: LayerShape
    modules: dict[str, Stack]

    def row(self, module: str, comparison: str | None = None, **fields: Any) -> Row:
        """Rows of this layer."""
        return partial(EvalRow, layer=self.number, module=module, comparison=comparison, **fields)


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Spectra, overlaps and sharing penalties of every layer of a plain model.

    ``TensorpressError`` for a compressed one.
    """
    checkpoint = Checkpoint.open(job.run_directory)
    if STORES in checkpoint.config:
        raise TensorpressError(
            f"heterogeneity: {job.run_directory} is not allowed: it is compressed; "
            "allowed: an uncompressed model (baseline_tasks)"
        )
    architecture = checkpoint.architecture
    rows: list[EvalRow] = []
    before: Layer | None = None
    for number in range(architecture.layers):
        shape = architecture.shape(number)
        weights = checkpoint.weights(number, shape.modules)
        modules = {}
        for module, weight in weights.items():
            matrices = weight.to(job.device, torch.float32).reshape(-1, *weight.shape[-2:])
            matrices = matrices.mT if module in WRITES_STREAM else matrices
            modules[module] = decompose(matrices, spec.share)
        layer = Layer(number, shape, modules)
        rows += [*_spectra(layer), *_attention(layer, spec), *_feed_forward(layer, spec)]
        if before is not None:
            rows += _neighbours(before, layer, spec)
        before = layer
    return rows


def _spectra(layer: Layer) -> Iterator[EvalRow]:
    """Measures of each module's spectrum, mean over its matrices."""
    for module, stack in layer.modules.items():
        row, rank = partial(layer.row(module), samples=len(stack)), stack.right.shape[-1]
        yield row(metric="effective_rank", value=float(effective_rank(stack.squares).mean()))
        yield row(metric="stable_rank", value=float(stable_rank(stack.squares).mean()))
        energy = float(energy_captured(stack.squares, rank).mean())
        yield row(metric="energy_captured", value=energy, version=f"rank {rank}")
        yield row(metric="tail_exponent", value=float(tail_exponent(stack.squares).mean()))


def _attention(layer: Layer, spec: Spec) -> Iterator[EvalRow]:
    """The projections with each other, by the stream, and the heads of each."""
    present = {m: layer.modules[m] for m in GROUPS["attention"] if m in layer.modules}
    for one, other in combinations(present, 2):
        row = layer.row(one, "modules", partner=other)
        yield from _pair_rows("stream", present[one].right, present[other].right, row)
    for together in stacks(layer.shape, "equal_shapes"):
        joined = join([present[module] for module in together])
        first, *others = together
        row = layer.row(first, "modules", partner="~".join(others))
        yield from _sharing_rows(joined, spec, row)
    for module, stack in present.items():
        slices = stack.matrices[0].unflatten(0, (head_count(layer.shape, module), -1))
        if len(slices) > 1:
            row = layer.row(module, "heads")
            yield from _stack_rows(decompose(slices, spec.share), spec, row)


def _feed_forward(layer: Layer, spec: Spec) -> Iterator[EvalRow]:
    """Gate with up, within each expert where there are some, and the experts of each projection."""
    for one, other in (("ffn.gate", "ffn.up"), ("experts.gate", "experts.up")):
        if one in layer.modules and other in layer.modules:
            gate, up = layer.modules[one], layer.modules[other]
            row = layer.row(one, "modules", partner=other)
            yield from _pair_rows("stream", gate.right, up.right, row)
            yield from _pair_rows("inner", gate.left, up.left, row)
            if len(gate) == 1:
                yield from _sharing_rows(join([gate, up]), spec, row)
    for module, stack in layer.modules.items():
        if len(stack) > 1:
            yield from _stack_rows(stack, spec, layer.row(module, "experts"))


def _neighbours(before: Layer, layer: Layer, spec: Spec) -> Iterator[EvalRow]:
    """The same module in two layers that follow each other."""
    for module, stack in layer.modules.items():
        other = before.modules.get(module)
        same = other is not None and other.matrices.shape == stack.matrices.shape
        if other is not None and same and group_of(module) != "experts":
            row = before.row(module, "layers", next_layer=layer.number)
            yield from _stack_rows(join([other, stack]), spec, row)


def _stack_rows(stack: Stack, spec: Spec, row: Row) -> Iterator[EvalRow]:
    """Overlaps on both sides, mean over pairs of slices, and the sharing penalty."""
    for side, bases in (("stream", stack.right), ("inner", stack.left)):
        yield from _overlap_rows(side, mean_overlap(bases), bases, row)
    yield from _sharing_rows(stack, spec, row)


def _pair_rows(side: str, one: Tensor, other: Tensor, row: Row) -> Iterator[EvalRow]:
    """Overlap of bases ``(slices, d, k)``: of each slice with its counterpart, the mean."""
    smaller = min(one, other, key=lambda bases: bases.shape[-1])
    yield from _overlap_rows(side, float(overlap(one, other).mean()), smaller, row)


def _overlap_rows(side: str, value: float, bases: Tensor, row: Row) -> Iterator[EvalRow]:
    dimension, rank = bases.shape[-2:]
    version = f"{rank} of {dimension} dimensions"
    at = partial(row, metric=f"overlap_{side}", version=version)
    yield at(value=value)
    yield at(value=random_overlap(rank, dimension), state="random")


def _sharing_rows(stack: Stack, spec: Spec, row: Row) -> Iterator[EvalRow]:
    """Penalty, that of noise, errors and bounds at each budget; ranks as text."""
    shape, device = tuple(stack.matrices.shape), stack.matrices.device
    found = sharing(stack.matrices, stack.squares, spec.saved)
    noise = noise_penalties(shape, spec.saved, device)
    for saved, result, noise_penalty in zip(spec.saved, found, noise, strict=True):
        at = partial(row, values_saved_percent=100 * saved)
        ranks, sizes = (" x ".join(map(str, numbers)) for numbers in (result.ranks, shape))
        said = f"ranks {ranks} of {sizes}"
        yield at(metric="sharing_penalty", value=result.penalty, text=said)
        yield at(metric="sharing_penalty", value=noise_penalty, state="random")
        yield at(metric="shared_error", value=result.shared_error)
        yield at(metric="separate_error", value=result.separate_error)
        yield at(metric="hosvd_lower", value=result.lower)
        yield at(metric="hosvd_upper", value=result.upper)
