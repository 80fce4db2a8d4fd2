"""``plan.json`` of a compressed checkpoint: what was done to each module, and how well."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tensorpress.factorfile import factor_sets, load_factors
from tensorpress.formats.base import Format
from tensorpress.formats.rounded import rounded
from tensorpress.params import Rounding
from tensorpress.rows import DecompositionRow, read_rows
from tensorpress.storage import VALUE_BITS, bits, stored_tensors

MANIFEST = "plan.json"


@dataclass(frozen=True)
class Provenance:
    """Where the factors of some modules of a layer come from."""

    layer: int
    modules: tuple[str, ...]
    method: str
    settings: Mapping[str, Any]
    factors: Path
    rows: Path


def write_manifest(
    placed: Sequence[Provenance], dtype: str, target: Path, rounding: Rounding | None = None
) -> None:
    """Write ``plan.json`` into ``target``: method, settings, ranks, error and bits per module.

    ``stack`` lists the modules that share factors; ``stack_bits`` are the bits of all of them.
    ``relative_error`` is that of the factors before the recipe's rounding, ``rounding_error`` how
    far rounding them moves the rebuilt matrix, relative to its norm. ``calibration_tokens``: over
    which the moments were taken that the method read, if it read any.
    """
    modules = [entry for each in placed for entry in _entries(each, dtype, rounding)]
    text = json.dumps({"dtype": dtype, "modules": modules}, indent=1)
    (target / MANIFEST).write_text(text, encoding="utf-8")


def _entries(placed: Provenance, dtype: str, rounding: Rounding | None) -> list[dict[str, Any]]:
    rows = {row.module: row for row in read_rows([placed.rows], DecompositionRow)}
    return [
        entry
        for modules in factor_sets(placed.factors)
        if set(modules) & set(placed.modules)
        for entry in _of_set(placed, modules, rows, dtype, rounding)
    ]


def _of_set(
    placed: Provenance,
    modules: tuple[str, ...],
    rows: Mapping[str, DecompositionRow],
    dtype: str,
    rounding: Rounding | None,
) -> list[dict[str, Any]]:
    """Of the placed modules of one factor set, which is gone when this returns."""
    (each,) = load_factors(placed.factors, modules)
    store = each.store
    if rounding is not None:
        store = rounded(store, rounding.bits, rounding.group, getattr(torch, dtype))
    stored = stored_tensors(store, placed.layer, replaced=True).values()
    return [
        {
            "layer": placed.layer,
            "module": module,
            "method": placed.method,
            "settings": dict(placed.settings),
            "format": store.name,
            "ranks": ranks_of(store.settings),
            "calibration_tokens": rows[module].calibration_tokens,
            "relative_error": rows[module].relative_error,
            "rounding_error": _difference(
                store, each.store, [index] if len(modules) > 1 else range(store.slices)
            ),
            "stack": list(modules),
            "stack_bits": bits(stored, VALUE_BITS[dtype]),
            "dense_bits": VALUE_BITS[dtype] * rows[module].dense_values,
        }
        for index, module in enumerate(modules)
        if module in placed.modules
    ]


def _difference(store: Format, exact: Format, slices: Iterable[int]) -> float:
    """Relative Frobenius distance of the matrices of two stores, over some slices."""
    if store is exact:
        return 0.0
    error = total = 0.0
    for index in slices:
        matrix = exact.dense(index).double()
        error += float((store.dense(index).double() - matrix).square().sum())
        total += float(matrix.square().sum())
    return (error / total) ** 0.5 if total else 0.0


def ranks_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ranks among a format's settings, also those of the format inside of another."""
    found = {name: value for name, value in settings.items() if "rank" in name}
    return found | ranks_of(settings["settings"]) if "settings" in settings else found
