"""Peak memory and time of every kind of job, from shapes alone: what the rules ask for. Torch-free.

Upper bounds of the resident memory on a machine without a GPU, against which docs/scale.md sets
what jobs took. Bytes of tensors are counted; the constants are measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from tensorpress.architectures import shortcuts
from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import GROUPS, LayerShape, expand_modules
from tensorpress.architectures.sites import moment_values, passes
from tensorpress.config.recovery import Adapters
from tensorpress.files import logits
from tensorpress.files.storage import RUNNING_BITS, SHARD_BYTES, VALUE_BITS
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.cost import most
from tensorpress.planning import sizes
from tensorpress.planning.artifacts import (
    AdviceArtifact,
    CalibrationArtifact,
    CheckpointArtifact,
    DecompositionArtifact,
    EvaluationArtifact,
    ModelArtifact,
    OptionsArtifact,
    RecoveryArtifact,
    StreamArtifact,
    TransformedArtifact,
)
from tensorpress.sources.embedded.specs import spec_of
from tensorpress.sources.inputs import EmbeddedModel
from tensorpress.transforms.slicegpt import KEPT

PROCESS = 600 * 10**6
"""Resident bytes of Python with torch and transformers once the BLAS has worked.

And of freed blocks under 32 MB that glibc keeps: 160 MB were measured between layouts.
"""
RUNNING = 900 * 10**6
"""Resident bytes of a process that runs and measures models, without the models."""
SUMS = 150 * 10**6
"""Bytes of float64 blocks while errors are summed (``frobenius.SUMMED_VALUES``)."""
DEQUANTISED = 200 * 10**6
"""Bytes of codes, indices and values of a block while it is dequantised (``quantised.base``)."""
TRAINING = 4 * 10**9
"""Bytes of an embedded model's training."""
ENGINE = 500 * 10**6
"""Bytes of the two Snakemakes around a cluster's job, which a scheduler counts as part of it."""
FLOAT, DOUBLE = 4, 8
"""Bytes of a value in float32 and float64."""
START = 300
"""Seconds that any job is granted beside its work: a cold start, a busy file system."""
READ = 50e6
"""Bytes a second from a shared file system."""
MACS = 5e9
"""Multiply-accumulates (MACs) a second of one slow core."""
MODEL_MACS = 1e12
"""MACs a second where a model runs: a large one has a GPU, a small one is done soon anyway."""
EIGEN = 25
"""MACs of all eigenvectors of a symmetric matrix over the cube of its side."""
TOKENS, WAIT = 10**6, 3600
"""Tokens that a task may read, and the seconds it is granted beside that."""


@dataclass(frozen=True)
class Footprint:
    """What a job takes at most."""

    peak_bytes: int
    seconds: float
    largest_set: int = 0
    """Values of the largest factor set that it makes."""
    macs: int = 0
    """Multiply-accumulates of what is decomposed."""
    factor_bytes: int = 0
    """Of all factor sets that it makes, as their file has them."""

    @property
    def mem_mb(self) -> int:
        """What to ask a scheduler for: peak and what surrounds it in 10^6 bytes, rounded up."""
        return -(-(self.peak_bytes + ENGINE) // 10**6)

    @property
    def runtime(self) -> int:
        """Minutes, rounded up."""
        return math.ceil((START + self.seconds) / 60)


def fetch(model: ModelArtifact) -> Footprint:
    """A copy and a check tensor by tensor, or the training of a small model.

    Of codes also the shard that is being written, and a block of values in the making.
    """
    if isinstance(model.spec, EmbeddedModel):
        spec = spec_of(f"models.{model.name}", model.spec.name, model.spec.width)
        seen, values = (
            spec.steps(model.spec.progress) * spec.batch_tokens,
            sizes.values_of(model.architecture),
        )
        # weights, gradients, two means, and a step in the making
        return Footprint(TRAINING + 5 * FLOAT * values, WAIT + 3 * seen * values / MACS)
    stored = sizes.value_bytes(model.architecture.config)
    values = sizes.values_of(model.architecture)
    peak = PROCESS + SUMS + stored * sizes.largest_tensor(model.architecture)
    if model.is_quantised:
        peak += min(SHARD_BYTES, stored * values) + DEQUANTISED
    return Footprint(peak, (8 if model.is_quantised else 4) * stored * values / READ)


def transform(made: TransformedArtifact) -> Footprint:
    """A shard, and a tensor as it is stored, in float32, and scaled.

    Where the stream is turned, also that product, and the sum of its moments with its vectors.
    """
    architecture = made.source.architecture
    stored = sizes.value_bytes(architecture.config)
    size, tensor = stored * sizes.values_of(architecture), sizes.largest_tensor(architecture)
    peak = PROCESS + SUMS + min(SHARD_BYTES, size) + (stored + 2 * FLOAT) * tensor
    if made.stream is None:
        return Footprint(peak, 4 * size / READ)
    side = architecture.shape(0).hidden_size
    values, width = sizes.values_of(architecture), made.architecture.shape(0).hidden_size
    read = 4 * size + FLOAT * sizes.stream_values(architecture)
    norms, kept = 1, 0
    if shortcuts.values(made.architecture):
        norms, kept = len(architecture.family.norms) * architecture.layers + 1, KEPT
    seconds = read / READ + (values * width + norms * EIGEN * side**3) / MACS
    peak += FLOAT * tensor + DOUBLE * (5 * side**2 + kept * side * width)
    return Footprint(peak, seconds)


def stream(made: StreamArtifact) -> Footprint:
    """Model, batch, and the moments of all norms in float64, then in float32 too."""
    settings, architecture = made.settings, made.model.architecture
    values = sizes.values_of(architecture)
    moments = sizes.stream_values(architecture)
    weights = values * RUNNING_BITS[made.dtype] // 8
    batch = _activations(architecture, settings.batch * settings.window, kept=False)
    macs = settings.tokens * architecture.objective.passes * (values + moments)
    peak = RUNNING + weights + (DOUBLE + FLOAT) * moments + batch
    return Footprint(peak, weights / READ + macs / MODEL_MACS)


def calibrate(made: CalibrationArtifact) -> Footprint:
    """Model, batch, moments of a pass in float64, of a layer and the widest inputs in float32."""
    settings, architecture = made.settings, made.model.architecture
    values, shapes = sizes.values_of(architecture), architecture.shapes
    moments = [moment_values(shape) for shape in shapes]
    parts = passes(shapes)
    widest = max(each.in_features for shape in shapes for each in shape.modules.values())
    held = DOUBLE * max(sum(moments[i] for i in part) for part in parts)
    held += FLOAT * (max(moments) + widest**2)
    weights = values * RUNNING_BITS[made.dtype] // 8
    batch = _activations(architecture, settings.batch * settings.window, settings.gradients)
    asked = settings.tokens * architecture.objective.passes
    macs = asked * (3 * values * len(parts) + sum(moments))
    peak = RUNNING + weights + held + batch
    return Footprint(peak, weights / READ + macs / MODEL_MACS)


def options(made: OptionsArtifact, layer: int) -> Footprint:
    """Weights and moments of a layer, and the costliest of what may be chosen for a module."""
    shape = made.calibration.model.architecture.shape(layer)
    costs = [most([module]) for module in shape.modules.values()]
    weights = 2 * FLOAT * sum(module.numel for module in shape.modules.values())
    held = max((FLOAT * cost.stored + DOUBLE * cost.held for cost in costs), default=0)
    macs = len(made.spec.tried) * sum(cost.macs for cost in costs)
    peak = weights + 2 * FLOAT * moment_values(shape) + held
    return Footprint(PROCESS + peak, macs / MACS, macs=macs)


def advise(made: AdviceArtifact) -> Footprint:
    """The options of all layers, which are small."""
    return Footprint(PROCESS, WAIT)


def decompose(made: DecompositionArtifact, layer: int) -> Footprint:
    """One group of one layer; layers of equal shape take the same."""
    return _of_alike(made, made.model.architecture.representative(layer, made.spec))


@cache
def _of_alike(made: DecompositionArtifact, layer: int) -> Footprint:
    architecture = made.model.architecture
    return group_footprint(
        made.spec, architecture.shape(layer), made.group, sizes.value_bytes(architecture.config)
    )


def group_footprint(spec: MethodSpec, shape: LayerShape, group: str, stored: int) -> Footprint:
    """A decomposition of a group from weights of ``stored`` bytes a value, layout by layout.

    While a layout is worked on, memory holds in float32 the factors of all earlier layouts, those
    of the last one a second time, and the layout's weights. To these come, while the weights are
    read, the weights of the layout before and one matrix as it is stored; then the moment, what the
    method holds in float64, and its factors in float64.
    """
    modules = shape.group(group)
    peak = done = before = last = macs = largest = 0
    for layout in spec.layouts(shape, group):
        own, cost = [modules[module] for module in layout.modules], spec.cost(layout, shape)
        weights, factors = FLOAT * sum(each.numel for each in own), FLOAT * cost.stored
        moment = FLOAT * own[0].moment_numel if spec.needs_moments else 0
        reading = before + stored * own[0].out_features * own[0].in_features
        working = DOUBLE * cost.held + 2 * factors
        if cost.before is None:
            working += moment
        else:
            working = max(working, moment + DOUBLE * cost.before)
        peak = max(peak, done + last + weights + max(reading, working))
        done, before, last = done + factors, weights, factors
        largest, macs = max(largest, cost.stored), macs + cost.macs
    # then the errors: one module's weights, and one of its matrices rebuilt
    most_values = max(each.numel for each in modules.values())
    matrix = max(each.out_features * each.in_features for each in modules.values())
    peak = max(peak, done + FLOAT * (most_values + 2 * matrix) + SUMS)
    read = 2 * stored * sum(each.numel for each in modules.values())
    return Footprint(PROCESS + peak, read / READ + macs / MACS, largest, macs, done)


def step_footprints(
    architecture: Architecture, spec: MethodSpec, modules: Sequence[str], layers: Sequence[int]
) -> Iterator[Footprint]:
    """The decompositions that a step of a recipe needs on some layers."""
    wanted, stored = (
        set(expand_modules(modules, architecture.modules)),
        sizes.value_bytes(architecture.config),
    )
    for shape in map(architecture.shape, (*layers, architecture.outer)):
        for group in GROUPS:
            if wanted & set(shape.group(group)):
                yield group_footprint(spec, shape, group, stored)


def assemble(run: CheckpointArtifact) -> Footprint:
    """A compressed checkpoint."""
    sets = (decompose(p.decomposition, p.layer).largest_set for p in run.placements)
    architecture = run.model.architecture
    return assembly_footprint(
        architecture, max(sets, default=0), run.dtype, run.rounding is not None
    )


def assembly_footprint(
    architecture: Architecture, factors: int, dtype: str, rounded: bool
) -> Footprint:
    """A shard being filled, and the largest thing that is made for one.

    That is a factor set (of ``factors`` values), a copied tensor, or experts to be fused.
    """
    stored, value = sizes.value_bytes(architecture.config), VALUE_BITS[dtype] // 8
    size = sizes.values_of(architecture) * (stored + value)
    one = max(
        factors * (FLOAT + value),
        factors * FLOAT * 6 * rounded,  # codes are made from several copies
        # then a matrix is rebuilt from the factors before and after
        (2 * FLOAT * (factors + sizes.largest_matrix(architecture)) + SUMS) * rounded,
        sizes.largest_tensor(architecture) * (stored + value),
        max(2 * sizes.gate_and_up(shape) * stored for shape in architecture.shapes),
    )
    return Footprint(PROCESS + min(SHARD_BYTES, size) + one, 2 * size / READ)


def recover(made: RecoveryArtifact) -> Footprint:
    """The model, what is trained with gradients and two averages, and what a batch leaves behind.

    Where a dense model teaches, that too.
    """
    architecture, spec = made.model.architecture, made.spec
    modules = [module for shape in architecture.shapes for module in shape.modules.values()]
    tokens, values = spec.batch * spec.window, sizes.values_of(architecture)
    weights = values * RUNNING_BITS[made.dtype] // 8
    teacher = weights if spec.distil else 0
    if isinstance(spec, Adapters):
        trained = spec.rank * sum(m.slices * (m.out_features + m.in_features) for m in modules)
    else:
        trained, weights = sum(module.numel for module in modules), values * FLOAT
    peak = (
        RUNNING + weights + teacher + 4 * FLOAT * trained
        + _activations(architecture, tokens, kept=True)
    )  # fmt: skip
    asked = tokens * architecture.objective.passes
    macs = (4 if spec.distil else 3) * values * asked * spec.accumulation * spec.steps
    return Footprint(peak, WAIT + weights / READ + macs / MODEL_MACS)


def evaluate(made: EvaluationArtifact) -> Footprint:
    """The checkpoint, the dense one if the task compares, moments of a layer, and a batch."""
    architecture = made.run.model.architecture
    values = sizes.values_of(architecture) * (2 if made.dense else 1)
    weights = values * RUNNING_BITS[made.dtype] // 8
    tokens = getattr(made.spec, "batch", 16) * getattr(made.spec, "window", 2048)
    moments = FLOAT * max(map(moment_values, architecture.shapes)) if made.moments else 0
    peak = RUNNING + weights + moments + _activations(architecture, tokens, kept=False)
    if made.spec.keeps_logits:  # and their log-probabilities
        peak += 2 * FLOAT * tokens * sizes.answers(architecture)
    macs = TOKENS * values * (architecture.objective.passes if made.spec.follows_objective else 1)
    return Footprint(peak, WAIT + weights / READ + macs / MODEL_MACS)


def _activations(architecture: Architecture, tokens: int, kept: bool) -> int:
    """Bytes of losses and of inputs and outputs of matrices: of one layer, or of all if kept."""
    layers = _widths(architecture)
    values = tokens * 2 * (sum(layers) if kept else max(layers))
    return FLOAT * values + logits.bytes_of(tokens, sizes.answers(architecture))


@cache
def _widths(architecture: Architecture) -> list[int]:
    """Inputs and outputs of a layer's matrices that a token passes, layer by layer."""
    top_k = architecture.size("top_k") or 1
    return [
        sum(min(m.slices, top_k) * (m.out_features + m.in_features) for m in s.modules.values())
        for s in architecture.shapes[:-1]
    ]
