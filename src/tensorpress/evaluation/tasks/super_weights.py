"""Task ``super_weights``: where the super weights of a model are, and what drives them."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from tensorpress.analysis.super_weights import (
    Peak,
    Search,
    block_maxima,
    entry,
    find_super_weights,
    largest_entry,
    magnitudes_near,
)
from tensorpress.architectures.published import DOWN, SuperWeight, published
from tensorpress.checkpoints.checkpoint import Checkpoint
from tensorpress.checkpoints.loading import load_tokenizer, matrices
from tensorpress.checkpoints.rows import EvalRow
from tensorpress.config.tasks.super_weights import Spec, SuperWeightSearch
from tensorpress.evaluation.job import EvaluationJob
from tensorpress.evaluation.room import check_room

BLOCKS = 32
"""Blocks along each side of the coarse map of a matrix."""
RADIUS = 8
"""Rows and columns around an entry in the fine map."""


def evaluate(job: EvaluationJob, spec: Spec) -> list[EvalRow]:
    """Super weights, found and published, with each layer's activations and maps of magnitudes.

    Of the model: ``super_weights``, how many were found. Of each: ``super_weight``, its value, and
    ``super_weight_input`` and ``super_weight_output`` that meet there. Of each layer:
    ``largest_weight``, ``input_peak`` and ``output_peak``. Of the layers with a super weight or,
    without any, of that with the largest entry: ``block_maximum`` and, close by, ``magnitude``.
    """
    tokenizer = load_tokenizer(job.run_directory)
    check_room(job.run_directory, tokenizer, [spec.prompt])
    model = job.model(job.run_directory)
    architecture = Checkpoint.open(job.run_directory).architecture
    ids = tokenizer(spec.prompt, return_tensors="pt")["input_ids"]
    search = job.with_fallback(
        "super_weights",
        model,
        lambda model, device, _: find_super_weights(
            model, architecture, ids.to(device), spec.threshold, spec.iterations
        ),
        spill=False,
    )
    version = f"above {spec.threshold:g}, prompt of {ids.shape[1]} tokens, {job.dtype}"

    down = {peak.place.layer: peak for peak in search.peaks}
    largest = [
        largest_entry(matrices(model, architecture, layer, DOWN)[0], layer) for layer in down
    ]
    named = published(architecture)
    places = dict.fromkeys([*(peak.place for peak in search.found), *named])
    values = {place: entry(model, architecture, place) for place in (*places, *largest)}
    centres = [peak.place for peak in search.found]
    centres = centres or sorted(largest, key=lambda place: -abs(values[place]))[:1]

    rows = [EvalRow(metric="super_weights", value=len(search.found), text=verdict(search, spec))]
    rows += [_of(p, "super_weight", values[p], _status(p, search, named)) for p in places]
    for peak in search.found:
        rows += _driven(peak, "super_weight_input", "super_weight_output")
    for place in largest:
        rows.append(_of(place, "largest_weight", values[place]))
        rows += _driven(down[place.layer], "input_peak", "output_peak")
    rows += [
        EvalRow(
            metric="skipped", value=1, layer=layer, module=DOWN, text=f"the layer has no {DOWN}"
        )
        for layer in range(architecture.layers)
        if layer not in down
    ]
    for centre in {place.layer: place for place in reversed(centres)}.values():
        rows += _maps(matrices(model, architecture, centre.layer, DOWN)[0], centre)
    return [dataclasses.replace(row, version=version) for row in rows]


def verdict(search: Search, spec: SuperWeightSearch) -> str:
    """What a reader should know of the number found, empty where it speaks for itself."""
    if not search.peaks:
        return f"none: no layer has an {DOWN}"
    if not search.found:
        return f"none: at no token do input and output of an {DOWN} both exceed {spec.threshold:g}"
    return "" if search.complete else f"more remain: stopped after {spec.iterations} iterations"


def _status(place: SuperWeight, search: Search, named: dict[SuperWeight, str]) -> str:
    found = place in [peak.place for peak in search.found]
    status = "found" if found else "not found"
    return f"{status}, published for {named[place]}" if place in named else status


def _of(place: SuperWeight, metric: str, value: float, text: str = "") -> EvalRow:
    return EvalRow(metric=metric, value=value, text=text, **place.model_dump())


def _driven(peak: Peak, of_input: str, of_output: str) -> list[EvalRow]:
    return [_of(peak.place, of_input, peak.input), _of(peak.place, of_output, peak.output)]


def _maps(matrix: Tensor, centre: SuperWeight) -> list[EvalRow]:
    """A coarse map of the matrix, of blocks, and a fine one around an entry."""
    maps = {
        "block_maximum": block_maxima(matrix, BLOCKS),
        "magnitude": magnitudes_near(matrix, centre.row, centre.column, RADIUS),
    }
    return [
        EvalRow(metric=metric, value=value, layer=centre.layer, module=DOWN, row=row, column=column)
        for metric, cells in maps.items()
        for (row, column), value in cells.items()
    ]
