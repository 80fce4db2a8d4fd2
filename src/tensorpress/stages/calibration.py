"""Second moments of every module's inputs and output gradients, streamed over a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.layers import ModuleShape, group_of
from tensorpress.architectures.sites import (
    VALUES_AT_ONCE,
    count_of,
    gradient_of,
    passes,
    site_of,
)
from tensorpress.checkpoints.checkpoint import is_finite
from tensorpress.checkpoints.moments import Moments
from tensorpress.config.params import Calibration
from tensorpress.errors import TensorpressError
from tensorpress.files.numbers import spans
from tensorpress.files.storage import dtype_name
from tensorpress.formats.base import Format
from tensorpress.formats.dense import DenseSlices
from tensorpress.formats.modules import FactoredExperts, gate_of
from tensorpress.objectives.base import Objective
from tensorpress.running.oom import warn, with_fallback
from tensorpress.running.placement import is_spilled, place


class _RecordingSlices(DenseSlices):
    """Dense expert matrices that add their inputs to the moment of their site, and gradients."""

    def __init__(self, weight: Tensor, moments: Moments, module: str) -> None:
        slices, out_features, in_features = weight.shape
        super().__init__(slices=slices, out_features=out_features, in_features=in_features)
        self.fill(weight=weight)
        self._record = (moments, module)

    def project(self, x: Tensor, index: int) -> Tensor:
        moments, module = self._record
        if site_of(module) == module:
            moments.add(module, index, x)
        y = super().project(x, index)
        if y.requires_grad:
            y.register_hook(lambda gradient: moments.add_gradient(module, index, gradient))
        return y

    def project_grouped(self, x: Tensor, ends: Tensor) -> Tensor:
        # slice by slice, through ``project``
        return Format.project_grouped(self, x, ends)


def calibration_rows(
    objective: Objective, reader: Any, text: str, settings: Calibration
) -> Num[Tensor, "windows ..."]:
    """Rows of whole windows with the tokens that ``settings`` ask for, or all that the text has.

    Fewer are said, and written with the moments (``moments.tokens_of``).
    """
    count = -(-settings.tokens // settings.window)
    rows = objective.rows(reader, text, settings.window, count, settings.bos)
    tokens = len(rows) * settings.window
    if tokens < settings.tokens:
        warn(
            f"calibration.tokens: {settings.tokens} are wanted, corpus {settings.corpus!r} has "
            f"{tokens} in whole windows of {settings.window}: these are used"
        )
    return rows


def calibrate(
    model: PreTrainedModel,
    architecture: Architecture,
    rows: Num[Tensor, "windows ..."],
    batch: int,
    device: torch.device,
    gradients: bool = True,
    values_at_once: int = VALUES_AT_ONCE,
) -> Iterator[dict[str, Tensor]]:
    """Moments of every layer over ``rows`` of the objective: what ``save_moments`` writes.

    Those of the outer layer come last, and weigh the embedding's rows (``_Lookups``), if any.
    The text is passed over once for so many layers as have ``values_at_once`` values of moments.
    Experts see the tokens that the router really sends them. ``gradients``: of the objective by
    the outputs of every module, which takes a backward pass. The model's hooks
    stay in place, so it must not be used for anything else. It is brought to ``device``, where it
    must not be spread yet; if memory runs out, all begins anew with less (``oom``).
    """
    model.requires_grad_(False)
    *shapes, outer = architecture.shapes
    moments = [Moments() for _ in shapes]
    for layer, moment in enumerate(moments):
        _attach(model, architecture, layer, moment)
    lookups = _Lookups(outer.modules["embedding"]) if "embedding" in outer.modules else None
    if lookups is not None:
        model.get_input_embeddings().register_forward_hook(lookups.count)
        model.base_model.register_forward_hook(lookups.end)
    if gradients:
        # without weights that require gradients the graph begins at the embedded tokens or patches
        model.get_input_embeddings().register_forward_hook(lambda _, ids, x: x.requires_grad_())

    def run(where: torch.device, size: int) -> None:
        for moment in moments:
            moment.clear()
        if lookups is not None:
            lookups.clear()
        _stream(model, architecture.objective, rows.split(size), where, gradients)

    for layers in passes(shapes, values_at_once):
        for layer, moment in enumerate(moments):
            moment.open = layer in layers
        with_fallback("calibrate", run, device, batch, partial(place, model))
        for layer in layers:
            tensors = moments[layer].tensors(shapes[layer])
            _name_idle_experts(tensors, layer)
            yield _finite(tensors, layer, model.dtype)
            moments[layer].clear()
    # every pass reads the same text
    yield lookups.tensors() if lookups is not None else {}


class _Lookups:
    """How often each row of an embedding is read.

    Its inputs are tokens, one of them at a time, so that ``sum_v f_v |change of row v|^2`` is the
    exact error of what is read, ``f`` being frequencies. In the terms of other modules, whose
    outputs are weighed by gradients and inputs by moments, the table ``(vocabulary, hidden)`` has
    the gradients ``f`` and a moment of one in all directions.
    """

    def __init__(self, table: ModuleShape) -> None:
        self._table = table
        self._counts = torch.zeros(table.out_features, dtype=torch.int64)
        self._seen: Tensor | None = None

    def clear(self) -> None:
        """Forget all that was counted."""
        self._counts.zero_()

    def count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Count the tokens that a forward hook sees, once a pass: some models ask twice."""
        ids = inputs[0].flatten().cpu()
        if self._seen is not None and torch.equal(ids, self._seen):
            return
        self._seen = ids
        self._counts += torch.bincount(ids, minlength=self._table.out_features)

    def end(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        """The model's pass ends: the same tokens again are another one's."""
        self._seen = None

    def tensors(self) -> dict[str, Tensor]:
        """As of a module: each row is counted once more, for other texts may read any."""
        more, total = self._counts.double() + 1, int(self._counts.sum())
        return {
            "embedding": torch.eye(self._table.in_features),
            gradient_of("embedding"): (more / more.sum()).float(),
            count_of("embedding"): torch.tensor([total]),
        }


def _name_idle_experts(tensors: dict[str, Tensor], layer: int) -> None:
    counts = tensors.get("experts.gate.tokens", torch.ones(0))
    idle = (counts == 0).nonzero()[:, 0].tolist()
    if idle:
        warn(
            f"calibrate: layer {layer}: {len(idle)} of {len(counts)} experts ({spans(idle)}) "
            "received no token of the text: their moments are zero"
        )


def _finite(tensors: dict[str, Tensor], layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
    if not all(map(is_finite, tensors.values())):
        raise TensorpressError(
            f"compute.dtype: {dtype_name(dtype)} is not allowed: moments of layer "
            f"{layer} are not finite; allowed: a dtype of more range, bfloat16 or float32"
        )
    return tensors


def _stream(
    model: PreTrainedModel,
    objective: Objective,
    batches: Sequence[Tensor],
    device: torch.device,
    gradients: bool,
) -> None:
    # the graph would keep on the GPU every weight that was brought there for a while
    kept = torch.autograd.graph.save_on_cpu() if is_spilled(model) else nullcontext()
    with torch.set_grad_enabled(gradients), kept:
        for batch in tqdm(batches, desc="calibrate", unit="batch"):
            rows = batch.to(device)
            if gradients:
                objective.backpropagate(model, rows)
            else:
                objective.run(model, rows)


def _attach(
    model: PreTrainedModel, architecture: Architecture, layer: int, moments: Moments
) -> None:
    family, shape = architecture.family, architecture.shape(layer)
    readers = {site_of(m): m for m in shape.modules if not m.startswith("experts")}
    for site, module in readers.items():
        linear = model.get_submodule(family.linear_path(layer, module))
        linear.register_forward_pre_hook(_hook(moments, site))
    block = model.get_submodule(family.layer_path(layer))
    block.register_forward_hook(_turn_hook(moments), with_kwargs=True)
    for module in shape.modules:
        if group_of(module) != "experts":
            linear = model.get_submodule(family.linear_path(layer, module))
            take = family.linears[module].outputs
            linear.register_forward_hook(_output_hook(moments, module, take, shape.heads))
    if "experts.gate" in shape.modules:
        path = family.experts_path(layer)
        experts: Any = model.get_submodule(path)
        stores: dict[str, _RecordingSlices] = {}
        for module, weight in family.expert_weights(experts).items():
            stores[module.split(".")[1]] = _RecordingSlices(weight, moments, module)
        assert family.experts is not None
        gate = gate_of(experts, family.experts.limits(architecture.config))
        recording = FactoredExperts(**stores, act=gate, biases=family.experts.biases)
        for name in ("gate_up_proj_bias", "down_proj_bias") * family.experts.biases:
            setattr(recording, name, getattr(experts, name))
        model.set_submodule(path, recording)


def _hook(moments: Moments, site: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments.add(site, 0, inputs[0])

    return record


def _turn_hook(moments: Moments) -> Callable[..., None]:
    def watch(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs.get("hidden_states")
        if before is not None:
            moments.add_angles(before, output[0] if isinstance(output, tuple) else output)

    return watch


def _output_hook(
    moments: Moments, module: str, take: Callable[[Tensor, int], Tensor], heads: int
) -> Callable[[nn.Module, Any, Tensor], None]:
    def watch(linear: nn.Module, inputs: Any, y: Tensor) -> None:
        if y.requires_grad:
            y.register_hook(
                lambda g: moments.add_gradient(module, 0, take(g.flatten(0, -2), heads))
            )

    return watch
