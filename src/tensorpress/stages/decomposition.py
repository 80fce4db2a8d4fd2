"""One job of the decompose stage: one method, one module group, one layer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tensorpress.analysis.frobenius import squared_errors
from tensorpress.architectures.layers import LayerShape, ModuleShape
from tensorpress.checkpoints.checkpoint import Checkpoint, LayerWeights
from tensorpress.checkpoints.factorfile import StoredFactors, load_factors
from tensorpress.checkpoints.moments import InputMoments, tokens_of
from tensorpress.checkpoints.rows import DecompositionRow
from tensorpress.methods import registry
from tensorpress.methods.base import MethodSpec
from tensorpress.methods.factors import Factors, bounded, slices_of
from tensorpress.methods.layout import Layout
from tensorpress.planning.artifacts import DecompositionArtifact


def decompose_layer(
    model_directory: Path,
    spec: MethodSpec,
    group: str,
    layer: int,
    moments_file: Path | None,
    device: torch.device,
    larger: Path | None = None,
) -> tuple[list[Factors], float, LayerWeights]:
    """Decompose one group of one layer, reading only that layer's tensors of the group.

    ``larger``: factors of larger ranks whose leading blocks are the wanted ones, if there are any.
    Returns the factor sets (float32), the seconds that the method took, and the weights, for
    ``measure``. Weights and moments are read when they are asked for, so the seconds include that.
    """
    checkpoint = Checkpoint.open(model_directory)
    shape = checkpoint.architecture.shape(layer)
    modules = tuple(shape.group(group))
    weights = LayerWeights(checkpoint, layer, modules, device)
    moments = None if moments_file is None else InputMoments(moments_file, modules, device)
    start = time.perf_counter()
    if larger is None:
        factors = registry.load(spec.method).decompose(weights, shape, spec, moments)
    else:
        factors = truncate(larger, spec, shape, group)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return factors, time.perf_counter() - start, weights


def truncate(larger: Path, spec: MethodSpec, shape: LayerShape, group: str) -> list[Factors]:
    """The factors of ``spec``: leading blocks of factors in the file ``larger``, which has its own.

    ``MethodSpec.contains_factors_of`` says of which settings these may be.
    """
    factors = []
    for layout in spec.layouts(shape, group):
        (source,) = load_factors(larger, layout.modules)
        factors.append(leading(layout, source, spec))
    return factors


def leading(layout: Layout, source: Factors | StoredFactors, spec: MethodSpec) -> Factors:
    """The leading blocks of factors, as many as ``layout`` of ``spec`` has."""
    return bounded(layout.modules, layout.leading(source.store), source.spectra, spec)


def measure(
    factors: Sequence[Factors],
    matrices: Callable[[str], Iterable[Tensor]],
    shapes: dict[str, ModuleShape],
    made: DecompositionArtifact,
    layer: int,
    seconds: float,
    moments_file: Path | None = None,
) -> list[DecompositionRow]:
    """Relative Frobenius errors in float64, per module and per stack, with bits and bounds.

    ``matrices(module)`` gives the module's weights ``(out, in)`` one by one (``LayerWeights``);
    ``made`` has the complete settings of its method; ``moments_file`` is what the method read, if
    it did. The first module of a stack carries the stack's stored values, the first row the job's
    seconds.
    """
    rows: list[DecompositionRow] = []
    calibration_tokens = None if moments_file is None else tokens_of(moments_file)
    for each in factors:
        errors = {
            module: squared_errors(
                each.store, slices_of(each.store, each.modules, index).start, matrices(module)
            )
            for index, module in enumerate(each.modules)
        }
        residual = sum(error for error, _ in errors.values())
        total = sum(norm for _, norm in errors.values())
        for index, module in enumerate(each.modules):
            error, norm = errors[module]
            rows.append(
                DecompositionRow(
                    model=made.model.name,
                    method_name=made.method_name,
                    method=made.spec.method,
                    approach=made.spec.approach_of(module),
                    head_layout=made.spec.head_layout,
                    settings=other_settings(made.spec),
                    group=made.group,
                    layer=layer,
                    module=module,
                    stack="+".join(each.modules),
                    relative_error=(error / norm) ** 0.5 if norm else 0.0,
                    stack_error=(residual / total) ** 0.5 if total else 0.0,
                    lower_bound=each.lower_bound,
                    upper_bound=each.upper_bound,
                    dense_values=shapes[module].numel,
                    shape_gain=each.shape_gain,
                    product_error=each.product_error,
                    stored_values=0 if index else each.stored_values,
                    seconds=0.0 if rows else seconds,
                    calibration_tokens=calibration_tokens,
                )
            )
    return rows


def other_settings(spec: MethodSpec) -> str:
    """JSON of what has no column of its own; what was advised is in the checkpoint's manifest."""
    settings = spec.model_dump(mode="json", exclude={"method", "layout", "choices"})
    for filled in ("kept", "ranks"):
        (settings.get("budget") or {}).pop(filled, None)
    return json.dumps(settings, sort_keys=True)
