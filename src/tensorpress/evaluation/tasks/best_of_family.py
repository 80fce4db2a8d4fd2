"""Task ``best_of_family``: is it these formats that fail, or would any tensor format?

Of every module, and every stack of modules that some format joins, each tensor format is made at
the same budget, beside truncated SVDs of as many values as it took. The best one is made again of
the same matrices with their rows and columns in random orders, of which SVD knows nothing: a format
that finds structure in the order errs more on those. Beside each error stands the bound of the
unfoldings that no algorithm beats. Errors are relative Frobenius norms; only one layer is in memory
at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tensorpress.analysis.frobenius import squared_errors
from tensorpress.architectures.layers import LayerShape
from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.best_of_family import Spec
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.spread import standard_error
from tensorpress.formats.base import STORES
from tensorpress.linalg.gram import spectrum
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import Factors
from tensorpress.methods.registry import METHODS, load, spec_class

CP_SWEEPS = 50
"""Alternating steps of CP go on for long, and win little by it."""

Stack = tuple[str, ...]
"""Modules whose factors are shared, or one."""


@dataclass(frozen=True)
class Made:
    """A stack in one format."""

    spec: MethodSpec
    factors: Factors
    error: float


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Errors of every stack of every layer of a plain model; ``TensorpressError`` for another."""
    checkpoint = Checkpoint.open(job.run_directory)
    if STORES in checkpoint.config:
        raise TensorpressError(
            f"best_of_family: {job.run_directory} is not allowed: it is compressed; "
            "allowed: an uncompressed model (baseline_tasks)"
        )
    rows: list[EvalRow] = []
    for number in range(checkpoint.architecture.layers):
        shape = checkpoint.architecture.shape(number)
        weights = dict(LayerWeights(checkpoint, number, tuple(shape.modules), job.device))
        spectra = {module: _squares(weight) for module, weight in weights.items()}
        for saved in spec.saved:
            rows += _layer_rows(shape, weights, spectra, spec, saved)
    return rows


def family(orders: Sequence[int], saved: float) -> list[MethodSpec]:
    """Settings of every tensor format that takes a budget, trains of searched shapes."""
    classes = {name: spec_class(name) for name in METHODS}
    names = [
        name
        for name, each in classes.items()
        if getattr(each, "approach", None) == "tensor format" and "budget" in each.sized_by
    ]
    variants: dict[str, list[dict[str, object]]] = defaultdict(lambda: [{}])
    variants["tt"] = [{"order": order, "shape": "search"} for order in orders]
    for name in ("tt_sparse", "tt_per_head"):
        variants[name] = [{"order": order} for order in orders]
    variants["cp"] = [{"starts": 1, "sweeps": CP_SWEEPS}]
    for name in ("tucker_qkvo", "tucker_qkvo_separate"):
        variants[name] = [{"layout": layout} for layout in ("tensorllm", "published")]
    return [
        classes[name].model_validate({"method": name, "budget": {"saved": saved}, **settings})
        for name in names
        for settings in variants[name]
    ]


def _layer_rows(
    shape: LayerShape,
    weights: Mapping[str, Tensor],
    spectra: Mapping[str, Tensor],
    spec: Spec,
    saved: float,
) -> Iterator[EvalRow]:
    made: dict[Stack, list[Made]] = defaultdict(list)
    for each in family(spec.orders, saved):
        for group in each.groups:
            for found in _made(each, group, shape, weights):
                made[found.factors.modules].append(found)
    for stack, candidates in made.items():
        row = partial(
            EvalRow,
            layer=shape.number,
            module=stack[0],
            partner="~".join(stack[1:]) or None,
            comparison="modules",
            values_saved_percent=100 * saved,
        )
        for one in candidates:
            at = partial(row, stored_by=_label(one.spec))
            values = one.factors.stored_values
            yield at(metric="family_error", value=one.error, samples=values)
            svd = svd_error(spectra, stack, weights, values)
            yield at(metric="svd_error", value=svd, samples=values)
            if one.factors.lower_bound:
                yield at(metric="family_bound", value=one.factors.lower_bound)
        best = min(candidates, key=lambda one: one.error)
        errors = [
            found.error
            for number in range(spec.scramblings)
            for found in _made(
                best.spec,
                next(g for g in best.spec.groups if set(stack) <= set(shape.group(g))),
                shape,
                scrambled(weights, spec.seed * spec.scramblings + number),
            )
            if found.factors.modules == stack
        ]
        yield row(
            metric="scrambled_error",
            value=sum(errors) / len(errors),
            stored_by=_label(best.spec),
            stderr=standard_error(errors),
            stderr_samples=len(errors),
            samples=len(errors),
        )


def _made(
    spec: MethodSpec, group: str, shape: LayerShape, weights: Mapping[str, Tensor]
) -> Iterator[Made]:
    """The stacks of a group in a format, none where its shapes or the budget do not allow it."""
    modules = shape.group(group)
    if not modules:
        return
    try:
        spec.check(shape, group)
    except TensorpressError:
        return
    given = {module: weights[module] for module in modules}
    for factors in load(spec.method).decompose(given, shape, spec, None):
        errors = [
            squared_errors(factors.store, first, _matrices(weights[module]))
            for first, module in enumerate(factors.modules)
        ]
        residual, norm = (sum(part) for part in zip(*errors, strict=True))
        yield Made(spec, factors, (residual / norm) ** 0.5 if norm else 0.0)


def svd_error(
    spectra: Mapping[str, Tensor], stack: Stack, weights: Mapping[str, Tensor], values: int
) -> float:
    """Relative error of truncated SVDs of a stack's matrices, of ``values`` together at most.

    Each direction costs the sides of its matrix, and those of most energy a value are taken first.
    """
    energies = torch.cat([spectra[module].flatten() for module in stack])
    costs = torch.cat([
        torch.full((spectra[module].numel(),), sum(weights[module].shape[-2:]), device="cpu")
        for module in stack
    ])  # fmt: skip
    order = (energies / costs).argsort(descending=True)
    taken = costs[order].cumsum(0) <= values
    total = float(energies.sum())
    return max(0.0, 1 - float(energies[order][taken].sum()) / total) ** 0.5 if total else 0.0


def scrambled(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """``P W Q`` of every matrix, permutations ``P`` and ``Q`` of its own; spectra stay."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for module, weight in weights.items():
        matrices = []
        for matrix in _matrices(weight):
            rows, columns = (torch.randperm(n, generator=generator) for n in matrix.shape)
            matrices.append(matrix[rows.to(matrix.device)][:, columns.to(matrix.device)])
        found[module] = torch.stack(matrices).view(weight.shape)
    return found


def _matrices(weight: Tensor) -> list[Tensor]:
    return list(weight.reshape(-1, *weight.shape[-2:]))


def _squares(weight: Tensor) -> Tensor:
    """Squared singular values of each matrix, ``(slices, smaller side)``, float64, on the CPU."""
    stack = weight.reshape(-1, *weight.shape[-2:])
    wide = stack if stack.shape[1] >= stack.shape[2] else stack.mT
    return spectrum(wide)[1].double().cpu()


def _label(spec: MethodSpec) -> str:
    """A format with its settings, in words."""
    left_out = {"method", "budget", "whiten"}
    settings = spec.model_dump(exclude=left_out, exclude_defaults=True, exclude_none=True)
    words = [f"{name} {value}" for name, value in settings.items()]
    return ", ".join([spec.method, *words])
