"""Task ``restoration``: how well a run's factors restore super weights and other entries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from tensorpress.analysis.super_weights import (
    find_super_weights,
    restoration,
    watched_entries,
)
from tensorpress.architectures.architecture import Architecture
from tensorpress.architectures.published import SuperWeight
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_model, load_tokenizer, matrices
from tensorpress.checkpoints.manifest import MANIFEST
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.restoration import Spec
from tensorpress.errors import TensorpressError
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.room import check_room
from tensorpress.methods.factors import stacked
from tensorpress.methods.registry import spec_class

ENTRIES = 64
"""Largest other entries, and random ones, that are looked at in each module."""


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """``absolute_error`` and ``relative_error`` of each replaced module, by kind of entries.

    The ``entries`` are ``super_weights`` (of a module that has some), ``next_64`` and
    ``random_64``; ``stored_by`` is the method with its settings. ``stored_share`` is the bits of a
    module's factors over its dense bits (over its stack's, where modules share factors), and
    ``super_weights`` counts the places that were looked at in the whole model.
    """
    dense = Checkpoint.open(job.dense)
    replaced = _replaced(job)
    places = _places(job, spec, dense.architecture)
    model = load_model(job.run_directory, job.device, spill=False)
    rows = [EvalRow(metric="super_weights", value=len(places))]
    for each in replaced:
        layer, module = each["layer"], each["module"]
        weight = stacked(dense.weight(layer, module, torch.float32, job.device))
        rebuilt = matrices(model, dense.architecture, layer, module).to(weight.device)
        given = [(p.row, p.column) for p in places if (p.layer, p.module) == (layer, module)]
        share = each["stack_bits"] / _dense_bits(each, replaced)
        row = partial(EvalRow, layer=layer, module=module, stored_by=_label(each))
        rows.append(row(metric="stored_share", value=share))
        watched = watched_entries(weight, given, ENTRIES, spec.seed)
        for kind, entries in watched.items():
            found = restoration(weight, rebuilt, entries)
            for metric in ("absolute_error", "relative_error"):
                value = getattr(found, metric)
                rows.append(row(metric=metric, value=value, entries=kind, samples=found.entries))
    return rows


def _replaced(job: EvaluationJob) -> list[dict[str, Any]]:
    """The modules of the run's ``plan.json``."""
    path = job.run_directory / MANIFEST
    if not path.is_file():
        raise TensorpressError(
            f"{path}: missing: nothing was replaced; allowed: task restoration of a recipe's runs"
        )
    return json.loads(path.read_text(encoding="utf-8"))["modules"]


def _label(each: dict[str, Any]) -> str:
    """A module's method with the settings that were chosen for it, but its size: ``tt order=4``."""
    spec = spec_class(each["method"])
    chosen = [
        name if isinstance(value, list) else f"{name}={value}"
        for name, value in each["settings"].items()
        if name not in ("method", *spec.sized_by)
        if value and value != spec.model_fields[name].default
    ]
    return " ".join([each["method"], *chosen, *["rounded"] * (each["format"] == "rounded")])


def _dense_bits(each: dict[str, Any], replaced: Sequence[dict[str, Any]]) -> int:
    """Dense bits of the replaced modules that share a module's factors."""
    place = (each["layer"], each["stack"])
    return sum(
        other["dense_bits"] for other in replaced if (other["layer"], other["stack"]) == place
    )


def _places(job: EvaluationJob, spec: Spec, architecture: Architecture) -> tuple[SuperWeight, ...]:
    """The super weights given, or those that the finder sees in the dense model."""
    if spec.super_weights is None:
        tokenizer = load_tokenizer(job.dense)
        check_room(job.dense, tokenizer, [spec.prompt])
        ids = tokenizer(spec.prompt, return_tensors="pt")["input_ids"]
        search = job.with_fallback(
            "restoration",
            job.model(job.dense),
            lambda model, device, _: find_super_weights(
                model, architecture, ids.to(device), spec.threshold, spec.iterations
            ),
            spill=False,
        )
        return tuple(peak.place for peak in search.found)
    for place in spec.super_weights:
        _check(place, architecture)
    return spec.super_weights


def _check(place: SuperWeight, architecture: Architecture) -> None:
    if place.layer >= architecture.layers:
        raise TensorpressError(
            f"super_weights.layer: {place.layer} is not allowed; "
            f"allowed: 0 to {architecture.layers - 1}"
        )
    shapes = architecture.shape(place.layer).modules
    if place.module not in shapes:
        raise TensorpressError(
            f"super_weights.module: {place.module!r} is not in layer {place.layer}; "
            f"allowed: {', '.join(shapes)}"
        )
    shape = shapes[place.module]
    if place.row >= shape.out_features or place.column >= shape.in_features:
        raise TensorpressError(
            f"super_weights: ({place.row}, {place.column}) is outside of {place.module}; "
            f"allowed: up to ({shape.out_features - 1}, {shape.in_features - 1})"
        )
