"""How long a study will take on a machine: seconds by rule, from shapes and its speed. Torch-free.

Of the same counts as ``footprint``, which bounds what one job may take anywhere; this is what all
jobs together will probably take here. Constants of models and of options are measured
(docs/scale.md, "Foresight"); those of Snakemake, pages, tables and prose are estimates.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import GROUPS, LayerShape, group_of
from tensorpress.architectures.sites import moment_values, passes
from tensorpress.errors import TensorpressError
from tensorpress.files.storage import VALUE_BITS
from tensorpress.methods.advised import Spec as AdvisedSpec
from tensorpress.methods.registry import spec_class
from tensorpress.planning import footprint, sizes
from tensorpress.planning.artifacts import (
    CalibrationArtifact,
    EvaluationArtifact,
    FactorPlacement,
    ModelArtifact,
    OptionsArtifact,
    RecoveryArtifact,
    StreamArtifact,
    TransformedArtifact,
)
from tensorpress.planning.jobs import live_jobs
from tensorpress.planning.plan import Plan
from tensorpress.sources.embedded.specs import spec_of
from tensorpress.sources.inputs import EmbeddedModel

BEGIN = 12.0
"""Seconds of Snakemake, its plan, and the imports that jobs are forked from."""
JOB = 0.35
"""Seconds that any job takes beside its work."""
PAGE = 4.0
"""Seconds of a report's page beside that."""
SITE = 3.0
"""Seconds of the site's job."""
TABLES = 2.0
"""Seconds of the tables' job."""
PROSE = 4.0
"""Seconds that a text takes to be read or gathered."""
LOAD = 0.8
"""Seconds that a model takes to be built and a text to be tokenised, beside the weights' bytes."""
READ = 400e6
"""Bytes a second of a local disk's cache, with what is made of them."""
OPTION = 3e-3
"""Seconds of each option of an advice, beside its multiply-accumulates."""
AROUND = 1.15
"""Time of a model's matrix products over that of the one that was measured."""
SCORE = 1.2e-9
"""Seconds of a score of attention, of a pair of tokens and a head."""
ELEMENT = 25e-9
"""Seconds that all elementwise operations of a layer take of a value of the residual stream."""
LOGIT = 2e-9
"""Seconds that a logit takes on its way to a loss."""
SIZES = 9
"""Sizes of a method that an advice tries."""
ROUNDED = 7
"""Options of a module beside them: widths of codes, and to stay as it is."""
LEAST_SAVED = 0.1
"""The largest of them, by the share of the values that it saves."""
ITEM = 110
"""Tokens of an item of a task of items, in the mean over five such tasks."""
CHOICE = 1.0
"""Seconds of the best choice under a budget."""
BACKWARD = 3
"""Forward passes that one with gradients is worth."""
ORTHOGONALISED = 8
"""Multiply-accumulates of a training's step for a value of a matrix and its smaller side (Muon)."""
DOUBLE = 2.5
"""Time of products in float64, and of LAPACK's, over float32's as they are counted."""


@dataclass(frozen=True)
class Machine:
    """Multiply-accumulates a second of one job, and how many ``workers`` run at a time."""

    macs_per_second: float
    workers: int

    def __str__(self) -> str:
        jobs = "one job" if self.workers == 1 else f"{self.workers} jobs"
        return f"{jobs} at a time, {self.macs_per_second:.1e} multiply-accumulates a second each"


def foreseen(plan: Plan, machine: Machine) -> dict[str, float]:
    """Seconds of wall time by rule of all that a study needs, made or not; first ``begin``."""
    jobs = Counter(job.rule for job in live_jobs(plan))
    work = {
        "fetch_model": sum(_fetch(made, machine) for made in plan.fetched.values()),
        "fetch_corpus": PROSE * jobs["fetch_corpus"],
        "stream": sum(_stream(made, machine) for made in plan.streams.values()),
        "transform": sum(_transform(made, machine) for made in plan.transformed.values()),
        "calibrate": sum(_calibrate(made, machine) for made in _calibrations(plan)),
        "options": sum(_options(made, layer, machine) for made, layer in plan.asked_options),
        "advise": CHOICE * jobs["advise"],
        "decompose": sum(_decompose(plan, made, machine) for made in plan.used_decompositions),
        "assemble": sum(2 * _bytes(r.model.architecture) / READ for r in plan.runs.values()),
        "recover": sum(_recover(made, machine) for made in plan.recoveries.values()),
        "evaluate": sum(_evaluate(made, machine) for made in plan.evaluations.values()),
        "aggregate": TABLES,
        "report": PAGE * jobs["report"],
        "site": SITE * jobs["site"],
    }
    at_a_time = {rule: min(machine.workers, jobs[rule]) for rule in work if jobs[rule]}
    return {"begin": BEGIN} | {
        rule: (JOB * jobs[rule] + work[rule]) / workers for rule, workers in at_a_time.items()
    }


def peaks(plan: Plan) -> dict[str, int]:
    """Bytes of memory that the largest job of each rule takes at most."""
    found = {
        "fetch_model": map(footprint.fetch, plan.fetched.values()),
        "stream": map(footprint.stream, plan.streams.values()),
        "transform": map(footprint.transform, plan.transformed.values()),
        "calibrate": map(footprint.calibrate, _calibrations(plan)),
        "options": (footprint.options(*asked) for asked in plan.asked_options),
        "advise": map(footprint.advise, plan.advices.values()),
        "decompose": (
            footprint.decompose(p.decomposition, p.layer) for p in plan.used_decompositions
        ),
        "assemble": map(footprint.assemble, plan.runs.values()),
        "recover": map(footprint.recover, plan.recoveries.values()),
        "evaluate": map(footprint.evaluate, plan.evaluations.values()),
    }
    most = {rule: max((e.peak_bytes for e in each), default=0) for rule, each in found.items()}
    return {rule: peak for rule, peak in most.items() if peak}


def disk(plan: Plan) -> dict[str, int]:
    """Bytes on disk by rule of all that a study makes, of what takes most of it.

    Of compressed checkpoints what they would take uncompressed.
    """
    found: Counter[str] = Counter()
    for model in plan.fetched.values():
        found["fetch_model"] += sizes.held_bytes(model.architecture)
    for moments in plan.streams.values():
        found["stream"] += footprint.FLOAT * sizes.stream_values(moments.model.architecture)
    for model in plan.transformed.values():
        found["transform"] += sizes.held_bytes(model.architecture)
    for made in _calibrations(plan):
        shapes = made.model.architecture.shapes
        found["calibrate"] += footprint.FLOAT * sum(map(moment_values, shapes))
    for placed in plan.used_decompositions:
        found["decompose"] += footprint.decompose(placed.decomposition, placed.layer).factor_bytes
    for run in plan.runs.values():
        found["assemble"] += VALUE_BITS[run.dtype] // 8 * sizes.held_values(run.model.architecture)
    for recovered in plan.recoveries.values():
        run = recovered.assembled
        found["recover"] += VALUE_BITS[run.dtype] // 8 * sizes.held_values(run.model.architecture)
    return {rule: size for rule, size in found.items() if size}


def evaluation_seconds(architecture: Architecture, window: int, machine: Machine) -> float:
    """Of one window of so many tokens: a forward pass and its losses."""
    layers = architecture.shapes[: architecture.layers]
    top_k = architecture.size("top_k") or 1
    macs = sizes.table_values(architecture) + sum(_macs(shape, top_k, window) for shape in layers)
    token = AROUND * macs / machine.macs_per_second + LOGIT * sizes.answers(architecture)
    token += sum(SCORE * shape.heads * window + ELEMENT * shape.hidden_size for shape in layers)
    return window * architecture.objective.passes * token


def _macs(shape: LayerShape, top_k: int, window: int) -> int:
    """Multiply-accumulates of a token: of the matrices that it meets, and of attention."""
    met = {
        module: min(top_k, each.slices) if group_of(module) == "experts" else 1
        for module, each in shape.modules.items()
    }
    matrices = sum(
        met[m] * each.out_features * each.in_features for m, each in shape.modules.items()
    )
    return matrices + 2 * window * shape.heads * shape.head_dim


def _calibrations(plan: Plan) -> list[CalibrationArtifact]:
    read = {job.name for job in live_jobs(plan) if job.rule == "calibrate"}
    return [made for made in plan.calibrations.values() if made.id in read]


def _fetch(made: ModelArtifact, machine: Machine) -> float:
    """A copy; of an embedded model its training, with updates that are orthogonalised."""
    copied = LOAD + 3 * _bytes(made.architecture) / READ
    if not isinstance(made.spec, EmbeddedModel):
        return copied
    spec = spec_of(f"models.{made.name}", made.spec.name, made.spec.width)
    steps, once = spec.steps(made.spec.progress), made.architecture.objective.passes
    windows = steps * spec.batch_tokens / spec.window
    passes = BACKWARD * evaluation_seconds(made.architecture, spec.window, machine) / once
    layers = made.architecture.shapes[: made.architecture.layers]
    matrices = [module for shape in layers for module in shape.modules.values()]
    macs = sum(each.numel * min(each.out_features, each.in_features) for each in matrices)
    return copied + windows * passes + steps * ORTHOGONALISED * macs / machine.macs_per_second


def _calibrate(made: CalibrationArtifact, machine: Machine) -> float:
    """Forward and backward passes for each part of the layers, and the sums of moments."""
    settings, architecture = made.settings, made.model.architecture
    windows = -(-settings.tokens // settings.window)
    once = evaluation_seconds(architecture, settings.window, machine) * windows
    parts = len(passes(architecture.shapes[: architecture.layers]))
    asked = settings.tokens * architecture.objective.passes
    moments = asked * sum(map(moment_values, architecture.shapes)) / machine.macs_per_second
    repeated = parts * (BACKWARD if settings.gradients else 1)
    return _load(architecture) + repeated * once + DOUBLE * moments


def _stream(made: StreamArtifact, machine: Machine) -> float:
    """A forward pass, and the sums of moments."""
    settings, architecture = made.settings, made.model.architecture
    windows = -(-settings.tokens // settings.window)
    once = evaluation_seconds(architecture, settings.window, machine) * windows
    asked = settings.tokens * architecture.objective.passes
    moments = asked * sizes.stream_values(architecture) / machine.macs_per_second
    return _load(architecture) + once + moments


def _transform(made: TransformedArtifact, machine: Machine) -> float:
    """Every tensor read and written; where the stream is turned, the products too."""
    macs = 0
    if made.stream is not None:
        width = made.architecture.shape(0).hidden_size
        macs = sizes.values_of(made.source.architecture) * width
    return 4 * _bytes(made.source.architecture) / READ + macs / machine.macs_per_second


def _options(made: OptionsArtifact, layer: int, machine: Machine) -> float:
    """Every module of a layer in every method at every size that is tried, and their damages.

    That is of a matrix of errors and the moment of the inputs.
    """
    shape = made.calibration.model.architecture.shape(layer)
    each = len(made.spec.tried) * SIZES + ROUNDED
    tried = each * len(shape.modules)
    macs = each * sum(module.numel * module.in_features for module in shape.modules.values())
    for method in made.spec.tried:
        sizes = 1 if spec_class(method).model_validate(_least(method)).nested else SIZES
        macs += sizes * sum(_largest_macs(method, shape, group) for group in GROUPS)
    return OPTION * tried + DOUBLE * macs / machine.macs_per_second


def _least(method: str) -> dict[str, Any]:
    """Settings of the largest size of a method that an advice tries."""
    whitened = {"whiten": "input"} if "whiten" in spec_class(method).model_fields else {}
    return {"method": method, "budget": {"saved": LEAST_SAVED}, **whitened}


def _largest_macs(method: str, shape: LayerShape, group: str) -> int:
    """Of that size on a group of a layer; none where it does not fit."""
    spec = spec_class(method).model_validate(_least(method))
    if group not in spec.groups or not shape.group(group):
        return 0
    try:
        return sum(spec.cost(layout, shape).macs for layout in spec.layouts(shape, group))
    except TensorpressError:
        return 0


def _decompose(plan: Plan, made: FactorPlacement, machine: Machine) -> float:
    """Nothing where the factors are the leading ones of others.

    What is advised takes one of its methods for each module: the costliest is taken for it.
    """
    decomposition, spec = made.decomposition, made.decomposition.spec
    if plan.larger(decomposition.id, made.layer):
        return 0.0
    if isinstance(spec, AdvisedSpec):
        shape = decomposition.model.architecture.shape(made.layer)
        macs = max(_largest_macs(each, shape, decomposition.group) for each in spec.methods)
    else:
        macs = footprint.decompose(decomposition, made.layer).macs
    return DOUBLE * macs / machine.macs_per_second


def _evaluate(made: EvaluationArtifact, machine: Machine) -> float:
    """A task that does not say how much it reads is taken for one that reads all it may."""
    architecture, spec = made.run.model.architecture, made.spec
    if items := getattr(spec, "items", None):
        return _load(architecture) + items * evaluation_seconds(architecture, ITEM, machine)
    window = getattr(spec, "window", 256)
    windows = getattr(spec, "max_windows", None) or footprint.TOKENS // window
    return _load(architecture) + windows * evaluation_seconds(architecture, window, machine)


def _recover(made: RecoveryArtifact, machine: Machine) -> float:
    """Forward and backward passes, and forward ones of the dense model where it is distilled.

    The checkpoint is read and written.
    """
    spec, architecture = made.spec, made.model.architecture
    windows = spec.steps * spec.accumulation * spec.batch
    once = evaluation_seconds(architecture, spec.window, machine)
    passes = BACKWARD + (spec.distil is not None)
    return 2 * _load(architecture) + passes * windows * once


def _load(architecture: Architecture) -> float:
    return LOAD + _bytes(architecture) / READ


def _bytes(architecture: Architecture) -> int:
    return sizes.value_bytes(architecture.config) * sizes.values_of(architecture)
